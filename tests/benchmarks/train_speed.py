"""How fast the two models are fitted: ours, and the way that most would take.

In: made-up rows with the real features' names. Out: what `timed` prints, seconds of the fit alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sklearn.ensemble import HistGradientBoostingClassifier
from torch.utils.data import DataLoader, TensorDataset

from jobs.features.declarations import MODEL_FEATURES
from jobs.training import network_fit
from jobs.training.boosting import class_weight, fit_booster
from jobs.training.network_fit import fit_network
from jobs.training.sequence_network import Inputs, SequenceNetwork
from tests.benchmarks.features_process import answer, timed

DEPTH, ETA = 6, 0.1
MOST_BINS = 255  # that scikit-learn takes; ours are twice as many


def made(rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of which some features tell the label; every customer has all of the transactions before."""
    generator = np.random.default_rng(1)
    matrix = generator.gamma(2.0, 2.0, (rows, len(MODEL_FEATURES))).astype(np.float32)
    chance = 1 / (1 + np.exp(-(matrix[:, 1] + matrix[:, 20] - 14)))
    return matrix, (generator.random(rows) < chance).astype(np.int8)


def xgboost_ours(rows: int, rounds: int, threads: int) -> dict[str, Any]:
    matrix, labels = made(rows)
    chosen = {"max_depth": DEPTH, "eta": ETA}
    return timed(lambda: fit_booster(matrix, labels, chosen, rounds, seed=7, threads=threads))


def scikit_learn(rows: int, rounds: int, threads: int) -> dict[str, Any]:
    """Its histogram boosting: trees of as many leaves, half the bins."""
    matrix, labels = made(rows)
    del threads  # it takes the cores that it is left
    model = HistGradientBoostingClassifier(
        learning_rate=ETA, max_iter=rounds, max_depth=DEPTH, max_leaf_nodes=2**DEPTH,
        max_bins=MOST_BINS, early_stopping=False,
    )  # fmt: skip
    return timed(lambda: model.fit(matrix, labels))


def torch_ours(rows: int, epochs: int, threads: int) -> dict[str, Any]:
    torch.set_num_threads(threads)
    matrix, labels = made(rows)
    fit_network(matrix[:2048], labels[:2048], MODEL_FEATURES, seed=7, epochs=1)  # compiled, and warm
    return timed(lambda: fit_network(matrix, labels, MODEL_FEATURES, seed=7, epochs=epochs))


def torch_loader(rows: int, epochs: int, threads: int) -> dict[str, Any]:
    """The same network and batches out of a DataLoader, inputs prepared in every batch."""
    torch.set_num_threads(threads)
    matrix, labels = made(rows)
    torch.manual_seed(7)
    network = SequenceNetwork(MODEL_FEATURES)
    network.fit_inputs(torch.from_numpy(matrix))
    data = TensorDataset(torch.from_numpy(matrix), torch.from_numpy(labels.astype(np.float32)))
    loss_of = torch.nn.BCEWithLogitsLoss(
        pos_weight=torch.tensor(class_weight(labels, network_fit.WEIGHT_POWER))
    )
    optimizer = torch.optim.AdamW(network.parameters(), lr=network_fit.LEARNING_RATE)

    def fit() -> None:
        for _ in range(epochs):
            for values, truth in DataLoader(data, batch_size=network_fit.BATCH, shuffle=True):
                optimizer.zero_grad()
                loss_of(network.logits(network.prepared(values)), truth).backward()
                optimizer.step()

    return timed(fit)


def gpu_peak(size: int = 8192, times: int = 20) -> dict[str, Any]:
    """Floating point operations a second of a large bfloat16 product, and of our network's layers."""
    left = torch.randn(size, size, device="cuda", dtype=torch.bfloat16)
    torch.mm(left, left)
    torch.cuda.synchronize()

    def multiply() -> None:
        for _ in range(times):
            torch.mm(left, left)
        torch.cuda.synchronize()

    done = timed(multiply)
    return done | {"peak_flops": 2 * size**3 * times / done["seconds"], "flops_a_row": flops_a_row()}


def flops_a_row(rows: int = 1024) -> float:
    """Floating point operations of a row, forwards and backwards."""
    from torch.utils.flop_counter import FlopCounterMode

    network = SequenceNetwork(MODEL_FEATURES)
    with torch.no_grad():
        inputs = Inputs(*network.prepared(torch.rand(rows, len(MODEL_FEATURES))))
    with FlopCounterMode(display=False) as counter:
        network.logits(inputs).sum().backward()
    return float(counter.get_total_flops()) / rows


if __name__ == "__main__":
    answer(
        {each.__name__: each for each in (xgboost_ours, scikit_learn, torch_ours, torch_loader, gpu_peak)},
    )
