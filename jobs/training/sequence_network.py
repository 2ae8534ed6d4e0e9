"""The second model: attention of an event over its customer's last transactions, beside all other features.

In: float32 [rows, features] with NaN for gaps, in the order of the features it was made for. Out: probability
of fraud of each row. Everything that prepares the inputs is part of the network, so its graph needs nothing
beside it:
    plain features   gaps filled with the median of the training rows and flagged, long tails squashed, scaled
    a sequence       the event itself and up to SEQUENCE_LENGTH transactions before it, the newest first: of
                     each the amount, the seconds until the event and the amount against the event's. A row
                     with fewer is padded, and padding gets no attention
Source of the attention: Vaswani et al., Attention Is All You Need, 2017, section 3.2; one query, the event.
Errors: SluiceError where the features lack a column of the sequence.
"""

from __future__ import annotations

import io
import logging
import math
import warnings
from contextlib import redirect_stderr, redirect_stdout
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from jobs.core import SluiceError
from jobs.features.declarations import SEQUENCE_AMOUNTS, SEQUENCE_LENGTH, SEQUENCE_SECONDS
from jobs.serving.bundle import INPUT, OUTPUT

AMOUNT = "amount"
CHANNELS = 3
WIDTH, HEADS = 16, 2
HIDDEN = (64, 32)
LIMIT = 8.0  # deviations beyond which an input says no more
SCORED_AT_ONCE = 8_192  # rows: what the layers make of more does not fit a processor's cache


class Inputs(NamedTuple):
    """What the layers see of some rows."""

    plain: Tensor  # [rows, 2 x plain features]
    steps: Tensor  # [rows, 1 + SEQUENCE_LENGTH, CHANNELS]
    there: Tensor  # bool [rows, 1 + SEQUENCE_LENGTH]


class SequenceNetwork(nn.Module):  # type: ignore[misc]  # the package is not type-checked here
    """Raw features with NaN for gaps in, probability of fraud out."""

    def __init__(self, features: tuple[str, ...]) -> None:
        super().__init__()
        places = {name: place for place, name in enumerate(features)}
        sequence = (AMOUNT, *SEQUENCE_AMOUNTS, *SEQUENCE_SECONDS)
        absent = [name for name in sequence if name not in places]
        if absent:
            raise SluiceError(
                f"sequence model: its feature {absent[0]} is not among the frame's; train again"
            )
        plain = [place for name, place in places.items() if name not in sequence[1:]]
        self._constant("plain_columns", plain)
        self._constant("amount_columns", [places[name] for name in (AMOUNT, *SEQUENCE_AMOUNTS)])
        self._constant("second_columns", [places[name] for name in SEQUENCE_SECONDS])
        for name, width in (("plain", len(plain)), ("step", CHANNELS)):
            self.register_buffer(f"{name}_centre", torch.zeros(width))
            self.register_buffer(f"{name}_scale", torch.ones(width))
        self.register_buffer("fill", torch.zeros(len(plain)))
        self.embed = nn.Linear(CHANNELS, WIDTH)
        self.places = nn.Parameter(torch.randn(1 + SEQUENCE_LENGTH, WIDTH) * 0.1)
        self.query, self.key, self.value = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        widths = (2 * len(plain) + 2 * WIDTH, *HIDDEN)
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Linear(before, after), nn.ReLU()]
        self.head = nn.Sequential(*layers, nn.Linear(widths[-1], 1))

    def _constant(self, name: str, columns: list[int]) -> None:
        self.register_buffer(name, torch.tensor(columns, dtype=torch.int64), persistent=False)

    def fit_inputs(self, matrix: Tensor) -> None:
        """Take median, centre and scale from training rows; also of columns without values or spread."""
        plain = matrix[:, self.plain_columns]
        self.fill.copy_(torch.nan_to_num(torch.nanmedian(plain, dim=0).values))
        values = squash(torch.where(torch.isnan(plain), self.fill, plain))
        self.plain_centre.copy_(values.mean(dim=0))
        self.plain_scale.copy_(_spread(values))
        steps, there = self._raw_steps(matrix)
        known = steps[there]
        self.step_centre.copy_(known.mean(dim=0))
        self.step_scale.copy_(_spread(known))

    def prepared(self, matrix: Tensor) -> Inputs:
        """The layers' inputs; while fitting they are made once."""
        plain = matrix[:, self.plain_columns]
        missing = torch.isnan(plain)
        values = squash(torch.where(missing, self.fill, plain))
        values = torch.clamp((values - self.plain_centre) / self.plain_scale, -LIMIT, LIMIT)
        steps, there = self._raw_steps(matrix)
        steps = torch.clamp((steps - self.step_centre) / self.step_scale, -LIMIT, LIMIT)
        steps = torch.where(there.unsqueeze(2), steps, torch.zeros_like(steps))
        return Inputs(torch.cat([values, missing.to(values.dtype)], dim=1), steps, there)

    def _raw_steps(self, matrix: Tensor) -> tuple[Tensor, Tensor]:
        """The event and what came before it, the newest first, NaN where there was nothing."""
        amounts = squash(matrix[:, self.amount_columns])
        seconds = squash(matrix[:, self.second_columns])
        own = torch.zeros_like(seconds[:, :1])
        elapsed = torch.cat([own, seconds], dim=1)
        steps = torch.stack([amounts, elapsed, amounts - amounts[:, :1]], dim=2)
        return steps, ~torch.isnan(steps).any(dim=2)

    def logits(self, inputs: Inputs) -> Tensor:
        """Log-odds of fraud of each row."""
        tokens = self.embed(inputs.steps) + self.places
        event = tokens[:, 0]
        query = self.query(event).unflatten(1, (HEADS, 1, -1))
        key, value = (_by_head(layer(tokens)) for layer in (self.key, self.value))
        closeness = (query * key).sum(dim=3) / math.sqrt(WIDTH // HEADS)
        closeness = closeness.masked_fill(~inputs.there.unsqueeze(1), -1e9)
        attention = torch.softmax(closeness, dim=2).unsqueeze(3)
        context = (attention * value).sum(dim=2).flatten(1)
        return self.head(torch.cat([inputs.plain, event, context], dim=1)).squeeze(1)

    def forward(self, matrix: Tensor) -> Tensor:
        return torch.sigmoid(self.logits(self.prepared(matrix)))


def squash(values: Tensor) -> Tensor:
    """Sign-keeping logarithm: amounts span four orders of magnitude."""
    return torch.sign(values) * torch.log1p(torch.abs(values))


def _spread(values: Tensor) -> Tensor:
    deviation = values.std(dim=0)
    return torch.where(deviation > 1e-6, deviation, torch.ones_like(deviation))


def _by_head(tokens: Tensor) -> Tensor:
    """[n, steps, width] as [n, heads, steps, width / heads]."""
    return tokens.unflatten(2, (HEADS, -1)).transpose(1, 2)


def raw_scores(network: SequenceNetwork, matrix: np.ndarray) -> np.ndarray:
    """Raw probabilities of a network, some rows at a time."""
    device = next(network.parameters()).device
    parts = [
        prepared_scores(
            network, network.prepared(torch.from_numpy(matrix[start : start + SCORED_AT_ONCE]).to(device))
        )
        for start in range(0, len(matrix), SCORED_AT_ONCE)
    ]
    return np.concatenate(parts) if parts else np.empty(0)


def prepared_scores(network: SequenceNetwork, inputs: Inputs) -> np.ndarray:
    """`raw_scores` of rows whose inputs are prepared already."""
    network.eval()
    with torch.no_grad():
        parts = [
            torch.sigmoid(network.logits(Inputs(*part))).cpu().numpy()
            for part in zip(*(each.split(SCORED_AT_ONCE) for each in inputs), strict=True)
        ]
    return np.concatenate(parts).astype(np.float64)


def to_onnx(network: SequenceNetwork, columns: int) -> onnx.ModelProto:
    """The network as a graph, any number of rows."""
    example = torch.ones((2, columns))
    example[0, 1:] = float("nan")
    quiet = io.StringIO()  # the exporter tells its progress to whoever listens
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), redirect_stdout(quiet), redirect_stderr(quiet):
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            network.cpu().eval(),
            (example,),
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=({0: torch.export.Dim("rows")},),
            dynamo=True,
            verbose=False,
        )
    model: onnx.ModelProto = program.model_proto
    return model
