"""Fits a sequence network: epochs with early stopping, on a GPU where there is one, resumable at every epoch.

In: float32 matrices with NaN for gaps, labels 0/1. Out: the network, the mean loss and the held-out PR-AUC of
each epoch.
Loss: cross-entropy with the weight of each row and the class weight of the training rows. On a GPU the layers
are compiled and run in bfloat16; the rows lie on the device as a whole.
A checkpoint (NumPy's npz, no pickle) has the network, the optimizer, the random generator's state and the
best epoch so far: a fit that is killed goes on from the last whole epoch, and ends as one that was not. One
that was made for something else (another `key`) or that cannot be read is not used.
"""

from __future__ import annotations

import hashlib
import json
import logging
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.metrics import average_precision_score
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from jobs.files import replacing
from jobs.training import sequence_network
from jobs.training.boosting import class_weight
from jobs.training.sequence_network import Inputs, SequenceNetwork, prepared_scores

PATIENCE_EPOCHS = 3
BATCH = 1024
LEARNING_RATE = 3e-3
WEIGHT_DECAY = 1e-4
WEIGHT_POWER = 0.5  # the full balance makes raw scores useless before calibration
CONSTANTS_FROM = 200_000  # rows, evenly spread over the days: medians and deviations need no more
CHUNK = 65_536  # rows whose inputs are prepared at once: preparing takes several times their memory
LOGGER = logging.getLogger("sluice.training")


@dataclass
class Fit:
    """A fit, under way or done."""

    network: SequenceNetwork
    optimizer: torch.optim.Optimizer
    generator: torch.Generator  # of the order of the rows; on the CPU, so that any device sees the same order
    losses: list[float] = field(default_factory=list)  # mean of each epoch
    curve: list[float] = field(default_factory=list)  # held-out PR-AUC of each epoch
    best: dict[str, Tensor] = field(default_factory=dict)


def device() -> torch.device:
    """The GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def fit_network(
    matrix: np.ndarray,
    labels: np.ndarray,
    features: tuple[str, ...],
    *,
    seed: int,
    epochs: int,
    weights: np.ndarray | None = None,
    held: tuple[np.ndarray, np.ndarray] | None = None,
    checkpoint: Path | None = None,
    key: Mapping[str, Any] | None = None,
) -> Fit:
    """Fit for a number of epochs, or until the held-out PR-AUC stops rising.

    Args:
        weights: of the rows in the loss, 1 where none are given.
        checkpoint: where to leave what is needed to go on after each epoch, with `key`, which must be equal
            for a later call to go on from it.

    Returns:
        The fit; its network is that of the best epoch where rows are held out, else of the last.
    """
    place = device()
    made_for = dict(key or {}) | {"code": _code(), "device": place.type}
    fit = _begin(matrix, features, seed, place)
    if checkpoint is not None and not _restore(fit, checkpoint, made_for):
        fit = _begin(matrix, features, seed, place)
    inputs = _inputs(fit.network, matrix, place)
    targets = torch.from_numpy(labels.astype(np.float32)).to(place)
    counted = np.ones(len(labels), dtype=np.float32) if weights is None else weights
    in_the_loss = (
        counted / counted.mean() * np.where(labels == 1, class_weight(labels, WEIGHT_POWER, counted), 1.0)
    )
    per_row = torch.from_numpy(in_the_loss.astype(np.float32)).to(place)
    judged = None if held is None else (_inputs(fit.network, held[0], place), held[1])
    layers = torch.compile(fit.network.logits) if place.type == "cuda" else fit.network.logits
    while len(fit.losses) < epochs and not _no_longer_rising(fit.curve):
        fit.losses.append(run_epoch(fit, layers, inputs, targets, per_row))
        if judged is not None:
            fit.curve.append(
                float(average_precision_score(judged[1], prepared_scores(fit.network, judged[0])))
            )
            if (
                int(np.argmax(fit.curve)) == len(fit.curve) - 1
            ):  # of equal epochs the first, as for the final fit
                fit.best = {name: value.clone() for name, value in fit.network.state_dict().items()}
        LOGGER.info("epoch %d of up to %d: loss %.5f", len(fit.losses), epochs, fit.losses[-1])
        if checkpoint is not None:
            _save(fit, checkpoint, made_for)
    if fit.best:
        fit.network.load_state_dict(fit.best)
    fit.network.cpu().eval()
    return fit


def _begin(matrix: np.ndarray, features: tuple[str, ...], seed: int, place: torch.device) -> Fit:
    with torch.random.fork_rng(devices=[]):  # the seed of the first weights is nobody else's
        torch.manual_seed(seed)
        network = SequenceNetwork(features)
    network.fit_inputs(torch.from_numpy(matrix[:: 1 + len(matrix) // CONSTANTS_FROM]))
    network.to(place)
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY, fused=True
    )
    return Fit(network, optimizer, torch.Generator().manual_seed(seed))


def _inputs(network: SequenceNetwork, matrix: np.ndarray, place: torch.device) -> Inputs:
    """What the layers see of all rows, on the device."""
    with torch.no_grad():
        parts = [
            network.prepared(torch.from_numpy(matrix[start : start + CHUNK]).to(place))
            for start in range(0, len(matrix), CHUNK)
        ]
    return Inputs(*(torch.cat(each) for each in zip(*parts, strict=True)))


def _code() -> str:
    """Digest of what a checkpoint's numbers mean something to."""
    files = (Path(__file__), Path(sequence_network.__file__))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]


def _no_longer_rising(curve: list[float]) -> bool:
    return bool(curve) and len(curve) - 1 - int(np.argmax(curve)) >= PATIENCE_EPOCHS


def run_epoch(
    fit: Fit, layers: Callable[[Inputs], Tensor], inputs: Inputs, targets: Tensor, weights: Tensor
) -> float:
    """One pass over the rows in a new order; the mean loss."""
    fit.network.train()
    order = torch.randperm(len(targets), generator=fit.generator).to(targets.device)
    total = torch.zeros((), device=targets.device)
    for start in range(0, len(order), BATCH):
        rows = order[start : start + BATCH]
        batch = Inputs(*(part.index_select(0, rows) for part in inputs))
        fit.optimizer.zero_grad()
        with torch.autocast(targets.device.type, torch.bfloat16, enabled=targets.device.type == "cuda"):
            logits = layers(batch)
        loss = binary_cross_entropy_with_logits(logits.float(), targets[rows], weights[rows])
        loss.backward()
        fit.optimizer.step()
        total += loss.detach() * len(rows)
    return float(total) / len(order)


def _save(fit: Fit, path: Path, key: dict[str, Any]) -> None:
    """The state of a fit, whole or not at all."""
    arrays = {f"network/{name}": value for name, value in fit.network.state_dict().items()}
    arrays |= {f"best/{name}": value for name, value in fit.best.items()}
    for place, state in fit.optimizer.state_dict()["state"].items():
        arrays |= {f"optimizer/{place}/{name}": value for name, value in state.items()}
    arrays["generator"] = fit.generator.get_state()
    facts = json.dumps({"key": key, "curve": fit.curve, "losses": fit.losses})
    found = {name: value.cpu().numpy() for name, value in arrays.items()}
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, facts=np.frombuffer(facts.encode(), dtype=np.uint8), **found)


def _restore(fit: Fit, path: Path, key: dict[str, Any]) -> bool:
    """Go on where the checkpoint stands; False where there is none of the same fit, or it cannot be read."""
    try:
        with np.load(path, allow_pickle=False) as content:
            facts = json.loads(content["facts"].tobytes())
            if facts["key"] != json.loads(json.dumps(key)):
                return False
            arrays = {name: torch.from_numpy(content[name]) for name in content.files if name != "facts"}
        fit.network.load_state_dict(_part(arrays, "network/"))
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in _part(arrays, "optimizer/").items():
            place, _, what = name.partition("/")
            state.setdefault(int(place), {})[what] = value
        fit.optimizer.load_state_dict(fit.optimizer.state_dict() | {"state": state})
        fit.generator.set_state(arrays["generator"])
        fit.best, fit.curve, fit.losses = _part(arrays, "best/"), facts["curve"], facts["losses"]
    except (OSError, EOFError, ValueError, KeyError, TypeError, RuntimeError, zipfile.BadZipFile):
        return False
    return True


def _part(arrays: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in arrays.items() if name.startswith(prefix)}
