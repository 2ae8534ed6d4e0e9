"""Job train_torch: the sequence model, the second opinion on borderline scores.

In: training frame. Out: torch/model.onnx (of all fit rows), torch/validation.parquet (raw scores of the
    validation rows by the network of the tuning rows), torch/facts.json; in the MLflow run the loss and the
    validation PR-AUC of each epoch.
The number of epochs is chosen on the validation rows (early stopping); the final network is fitted on all
fit rows for as many epochs. A job that was killed goes on from its last whole epoch.
Errors: SluiceError where the exported graph answers differently from the network, or MLflow does not answer.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import torch

from jobs.conf.policy import policy_of
from jobs.conf.settings import Settings
from jobs.core import Receipt, Stopwatch
from jobs.training import network_fit
from jobs.training.frame import VALIDATION, FrameFacts, fit_rows, matrix_of, role_rows
from jobs.training.network_fit import Fit, fit_network
from jobs.training.onnx_files import probe_rows, write_checked
from jobs.training.run_folder import RunFolder, TrainingParams
from jobs.training.sequence_network import HEADS, HIDDEN, WIDTH, raw_scores, to_onnx
from jobs.training.tracking import log_curves, parent_run, tracking_client
from jobs.training.train_xgboost import scored
from jobs.training.tune import Rows

READS = ("training_frame",)
WRITES = ("torch_model",)

MAX_EPOCHS = 12
Held = tuple[np.ndarray, np.ndarray] | None


class Params(TrainingParams):
    """Which run."""


def hyperparameters() -> dict[str, Any]:
    """What decides a network beside its rows, its seed and its epochs."""
    return {
        "hidden": list(HIDDEN),
        "width": WIDTH,
        "heads": HEADS,
        "batch": network_fit.BATCH,
        "learning_rate": network_fit.LEARNING_RATE,
        "weight_decay": network_fit.WEIGHT_DECAY,
        "weight_power": network_fit.WEIGHT_POWER,
        "patience_epochs": network_fit.PATIENCE_EPOCHS,
        "max_epochs": MAX_EPOCHS,
    }


def run(params: Params, settings: Settings) -> Receipt:
    watch = Stopwatch()
    torch.set_num_threads(min(2, max(1, (os.cpu_count() or 1) // 2)))
    seed = policy_of(settings).training.seeds[0]
    folder = RunFolder(settings, params.run)
    facts = folder.read_model("frame.json", FrameFacts)
    frame = folder.read_frame("frame.parquet")
    rows = Rows(frame, facts.features)

    def fitted(part: str, fit: tuple[np.ndarray, ...], epochs: int, held: Held = None) -> Fit:
        matrix, labels, weights = fit
        key = {"frame": facts.digest, "part": part, "seed": seed, "epochs": epochs} | hyperparameters()
        return fit_network(
            matrix,
            labels,
            facts.features,
            seed=seed,
            epochs=epochs,
            weights=weights,
            held=held,
            checkpoint=folder.file(f"torch/{part}.npz"),
            key=key,
        )

    tuning = (rows.matrix, rows.labels, rows.weights)
    chosen = fitted("validation", tuning, MAX_EPOCHS, (rows.held_matrix, rows.held_labels))
    held = role_rows(frame, VALIDATION)
    folder.write_frame("torch/validation.parquet", scored(held, raw_scores(chosen.network, rows.held_matrix)))
    epochs = int(np.argmax(chosen.curve)) + 1
    final_rows = fit_rows(frame)
    matrix = matrix_of(final_rows, facts.features)
    labels, weights = (final_rows[name].to_numpy() for name in ("training_label", "weight"))
    final = fitted("final", (matrix, labels, weights), epochs)
    probe = probe_rows(matrix, seed)
    difference = write_checked(
        to_onnx(final.network, len(facts.features)),
        raw_scores(final.network, probe),
        probe,
        folder.file("torch/model.onnx"),
    )
    client = tracking_client(settings)
    parent_run(client, settings, folder, str(params.day), facts.drill)
    log_curves(client, folder, {"torch_loss": chosen.losses, "torch_validation_pr_auc": chosen.curve})
    summary = {
        "seed": seed,
        "epochs": epochs,
        "validation_pr_auc": max(chosen.curve),
        "curve": chosen.curve,
        "hyperparameters": hyperparameters(),
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
