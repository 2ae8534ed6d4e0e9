"""Job train_torch: a small feed-forward network, the second opinion on borderline scores.

In: training frame. Out: torch/model.onnx (of all fit rows), torch/validation.parquet (raw scores of the
    validation rows by the network of the tuning rows), torch/facts.json.
The network fills gaps (median of its training rows, plus a flag per feature), squashes long tails and
scales inside its graph, so that nothing has to be kept beside it. Loss: cross-entropy with the class
weight of the training rows. The number of epochs is chosen on the validation rows (early stopping); the
final network is fitted on all fit rows for as many epochs.
Errors: SluiceError where the exported graph answers differently from the network.
"""

from __future__ import annotations

import io
import logging
import os
import warnings
from contextlib import redirect_stderr, redirect_stdout
from itertools import pairwise
from typing import Any

import numpy as np
import onnx
import torch
from sklearn.metrics import average_precision_score
from torch import Tensor, nn

from jobs.conf.policy import policy_of
from jobs.conf.settings import Settings
from jobs.core import Receipt, Stopwatch
from jobs.serving.bundle import INPUT, OUTPUT
from jobs.training.boosting import class_weight
from jobs.training.frame import VALIDATION, FrameFacts, fit_rows, matrix_of, role_rows
from jobs.training.onnx_files import probe_rows, write_checked
from jobs.training.run_folder import RunFolder, TrainingParams
from jobs.training.train_xgboost import scored
from jobs.training.tune import Rows

READS = ("training_frame",)
WRITES = ("torch_model",)

MAX_EPOCHS = 12
PATIENCE_EPOCHS = 3
BATCH = 1024
LEARNING_RATE = 3e-3
WEIGHT_DECAY = 1e-4
WEIGHT_POWER = 0.5  # the full balance makes raw scores useless before calibration
HIDDEN = (64, 32)


class Params(TrainingParams):
    """Which run."""


class FraudNetwork(nn.Module):  # type: ignore[misc]  # the package is not type-checked here
    """Raw features with NaN for gaps in, probability of fraud out."""

    def __init__(self, columns: int) -> None:
        super().__init__()
        for name in ("fill", "centre", "scale"):
            self.register_buffer(name, torch.zeros(columns) if name != "scale" else torch.ones(columns))
        widths = (2 * columns, *HIDDEN)
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Linear(before, after), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Linear(widths[-1], 1))

    def fit_inputs(self, matrix: Tensor) -> None:
        """Take median, centre and scale from training rows; also of columns without values or spread."""
        fill = torch.nan_to_num(torch.nanmedian(matrix, dim=0).values)
        values = squash(torch.where(torch.isnan(matrix), fill, matrix))
        spread = values.std(dim=0)
        self.fill.copy_(fill)
        self.centre.copy_(values.mean(dim=0))
        self.scale.copy_(torch.where(spread > 1e-6, spread, torch.ones_like(spread)))

    def prepared(self, matrix: Tensor) -> Tensor:
        missing = torch.isnan(matrix)
        values = squash(torch.where(missing, self.fill, matrix))
        values = torch.clamp((values - self.centre) / self.scale, -8.0, 8.0)
        return torch.cat([values, missing.to(values.dtype)], dim=1)

    def forward(self, matrix: Tensor) -> Tensor:
        return torch.sigmoid(self.layers(self.prepared(matrix)).squeeze(1))


def squash(values: Tensor) -> Tensor:
    """Sign-keeping logarithm: amounts span four orders of magnitude."""
    return torch.sign(values) * torch.log1p(torch.abs(values))


def fit_network(
    matrix: np.ndarray,
    labels: np.ndarray,
    *,
    seed: int,
    epochs: int,
    held: tuple[np.ndarray, np.ndarray] | None = None,
) -> tuple[FraudNetwork, list[float]]:
    """Fit for a number of epochs, or until the held-out PR-AUC stops rising.

    Returns:
        The network (of its best epoch where rows are held out) and the held-out PR-AUC of each epoch.
    """
    torch.manual_seed(seed)
    network = FraudNetwork(matrix.shape[1])
    values = torch.from_numpy(matrix)
    network.fit_inputs(values)
    inputs = network.prepared(values)  # once: these do not change while fitting
    targets = torch.from_numpy(labels.astype(np.float32))
    loss_of = nn.BCEWithLogitsLoss(pos_weight=torch.tensor(class_weight(labels, WEIGHT_POWER)))
    optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    curve: list[float] = []
    best: dict[str, Tensor] = {}
    for _ in range(epochs):
        run_epoch(network, inputs, targets, loss_of, optimizer)
        if held is None:
            continue
        curve.append(float(average_precision_score(held[1], raw_scores(network, held[0]))))
        if curve[-1] >= max(curve):
            best = {key: value.clone() for key, value in network.state_dict().items()}
        if len(curve) - 1 - int(np.argmax(curve)) >= PATIENCE_EPOCHS:
            break
    if best:
        network.load_state_dict(best)
    return network.eval(), curve


def run_epoch(
    network: FraudNetwork, inputs: Tensor, targets: Tensor, loss_of: nn.Module, optimizer: Any
) -> None:
    """One pass over the rows in a new order."""
    network.train()
    order = torch.randperm(len(inputs))
    for start in range(0, len(order), BATCH):
        rows = order[start : start + BATCH]
        optimizer.zero_grad()
        loss = loss_of(network.layers(inputs[rows]).squeeze(1), targets[rows])
        loss.backward()
        optimizer.step()


def raw_scores(network: FraudNetwork, matrix: np.ndarray) -> np.ndarray:
    """Raw probabilities of a network."""
    network.eval()
    with torch.no_grad():
        return np.asarray(network(torch.from_numpy(matrix)).numpy(), dtype=np.float64)


def to_onnx(network: FraudNetwork, columns: int) -> onnx.ModelProto:
    """The network as a graph, any number of rows."""
    example = torch.zeros((2, columns))
    example[0, 0] = float("nan")
    quiet = io.StringIO()  # the exporter tells its progress to whoever listens
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), redirect_stdout(quiet), redirect_stderr(quiet):
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            network,
            (example,),
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=({0: torch.export.Dim("rows")},),
            dynamo=True,
            verbose=False,
        )
    model: onnx.ModelProto = program.model_proto
    return model


def run(params: Params, settings: Settings) -> Receipt:
    watch = Stopwatch()
    torch.set_num_threads(min(2, max(1, (os.cpu_count() or 1) // 2)))
    policy = policy_of(settings)
    folder = RunFolder(settings, params.run)
    facts = folder.read_model("frame.json", FrameFacts)
    frame = folder.read_frame("frame.parquet")
    rows = Rows(frame, facts.features)
    seed = policy.training.seeds[0]
    network, curve = fit_network(
        rows.matrix, rows.labels, seed=seed, epochs=MAX_EPOCHS, held=(rows.held_matrix, rows.held_labels)
    )
    held = role_rows(frame, VALIDATION)
    folder.write_frame("torch/validation.parquet", scored(held, raw_scores(network, rows.held_matrix)))
    epochs = int(np.argmax(curve)) + 1
    final_rows = fit_rows(frame)
    matrix = matrix_of(final_rows, facts.features)
    final, _ = fit_network(matrix, final_rows["training_label"].to_numpy(), seed=seed, epochs=epochs)
    probe = probe_rows(matrix, seed)
    difference = write_checked(
        to_onnx(final, len(facts.features)), raw_scores(final, probe), probe, folder.file("torch/model.onnx")
    )
    summary = {
        "seed": seed,
        "epochs": epochs,
        "validation_pr_auc": max(curve),
        "curve": curve,
        "onnx_difference": difference,
    }
    folder.write_facts("torch/facts.json", summary)
    return Receipt(
        job="train_torch",
        table="torch_model",
        partition=params.run,
        rows=len(final_rows),
        seconds=watch.seconds,
        facts={key: summary[key] for key in ("seed", "epochs", "validation_pr_auc", "onnx_difference")},
    )
