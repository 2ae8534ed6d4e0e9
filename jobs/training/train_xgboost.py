"""Job train_xgboost: the winner's parameters on the tuning rows (for the calibration) and on all fit rows.

In: training frame, study; without a study tuning.json, where a run is built again.
Out: xgboost/model.onnx (of all fit rows) and the same booster as xgboost/model.ubj (for the explanations),
    xgboost/trees.npz (the same trees for the service's explanations),
    xgboost/validation.parquet (raw scores of the validation rows by the model of the tuning rows),
    xgboost/facts.json, tuning.json.
Seeds: the winner is fitted once per seed of the policy on the tuning rows; the seed with the median
    validation PR-AUC is used, not the luckiest one, and the spread is kept.
Errors: SluiceError where a worker's trials are missing or the exported graph answers differently.
"""

from __future__ import annotations

import os

import numpy as np
import onnx
import pandas as pd
import xgboost
from onnxmltools.convert import convert_xgboost
from onnxmltools.convert.common.data_types import FloatTensorType
from sklearn.metrics import average_precision_score

from jobs.conf.policy import policy_of
from jobs.conf.settings import Settings
from jobs.core import Receipt, Stopwatch
from jobs.serving.bundle import INPUT
from jobs.training.boosting import BOOSTER_FILE, boost, fit_booster, probabilities, save_booster
from jobs.training.frame import VALIDATION, FrameFacts, fit_rows, matrix_of, role_rows
from jobs.training.onnx_files import probe_rows, with_probability_output, write_checked
from jobs.training.run_folder import RunFolder, TrainingParams
from jobs.training.tree_file import TREES_FILE, write_trees
from jobs.training.tune import Rows, Winner, winner

READS = ("training_frame", "study")
WRITES = ("xgboost_model",)


class Params(TrainingParams):
    """Which run."""


def to_onnx(booster: xgboost.Booster, columns: int) -> onnx.ModelProto:
    """The booster as a graph that answers the probability of fraud."""
    model = convert_xgboost(
        booster, initial_types=[(INPUT, FloatTensorType([None, columns]))], target_opset=15
    )
    return with_probability_output(model)


def median_seed(figures: dict[int, float]) -> int:
    """The seed whose figure is the median; of two, the lower figure's."""
    ranked = sorted(figures, key=lambda seed: (figures[seed], seed))
    return ranked[(len(ranked) - 1) // 2]


def validation_scores(
    rows: Rows, best: Winner, seeds: tuple[int, ...], threads: int
) -> tuple[dict[int, float], dict[int, np.ndarray]]:
    """Validation PR-AUC and raw scores of the winner for each seed."""
    figures: dict[int, float] = {}
    scores: dict[int, np.ndarray] = {}
    data, _ = rows.binned(threads)
    for seed in seeds:
        booster = boost(data, rows.labels, best.parameters, best.rounds, seed=seed, threads=threads)
        scores[seed] = probabilities(booster, rows.held_matrix)
        figures[seed] = float(average_precision_score(rows.held_labels, scores[seed]))
    return figures, scores


def importance(booster: xgboost.Booster, features: tuple[str, ...]) -> dict[str, float]:
    """Share of the total gain of each feature."""
    gains = booster.get_score(importance_type="total_gain")
    values = [float(gains.get(f"f{index}", 0.0)) for index in range(len(features))]
    total = sum(values) or 1.0
    return {name: round(value / total, 6) for name, value in zip(features, values, strict=True)}


def run(params: Params, settings: Settings) -> Receipt:
    watch = Stopwatch()
    policy = policy_of(settings)
    folder = RunFolder(settings, params.run)
    facts = folder.read_model("frame.json", FrameFacts)
    if (folder.path / "study.journal").exists() or not (folder.path / "tuning.json").exists():
        folder.write_facts("tuning.json", winner(folder, policy.tuning))
    best = folder.read_model("tuning.json", Winner)  # a run that is built again has no study
    frame = folder.read_frame("frame.parquet")
    rows = Rows(frame, facts.features)
    # the torch model may be trained beside this one
    threads = max(1, (os.cpu_count() or 1) // 2)
    figures, scores = validation_scores(rows, best, policy.training.seeds, threads)
    seed = median_seed(figures)
    final_rows = fit_rows(frame)
    matrix = matrix_of(final_rows, facts.features)
    booster = fit_booster(
        matrix,
        final_rows["training_label"].to_numpy(),
        best.parameters,
        best.rounds,
        seed=seed,
        threads=threads,
        weights=final_rows["weight"].to_numpy(),
    )
    probe = probe_rows(matrix, seed)
    difference = write_checked(
        to_onnx(booster, len(facts.features)),
        probabilities(booster, probe),
        probe,
        folder.file("xgboost/model.onnx"),
    )
    save_booster(booster, folder.file(BOOSTER_FILE))
    write_trees(booster, folder.file(TREES_FILE))
    held = role_rows(frame, VALIDATION)
    folder.write_frame("xgboost/validation.parquet", scored(held, scores[seed]))
    summary = {
        "seed": seed,
        "validation_pr_auc": figures[seed],
        "validation_pr_auc_by_seed": {str(key): value for key, value in figures.items()},
        "rounds": best.rounds,
        "onnx_difference": difference,
        "importance": importance(booster, facts.features),
    }
    folder.write_facts("xgboost/facts.json", summary)
    return Receipt(
        job="train_xgboost",
        table="xgboost_model",
        partition=params.run,
        rows=len(final_rows),
        seconds=watch.seconds,
        facts={key: summary[key] for key in ("seed", "validation_pr_auc", "rounds", "onnx_difference")},
    )


def scored(held: pd.DataFrame, scores: np.ndarray) -> pd.DataFrame:
    """Validation rows with their raw score, for the calibration."""
    columns = held[["transaction_id", "day", "is_fraud"]]
    return columns.assign(raw=scores)
