"""Gradient boosting as both the tuning and the training use it: the same call, the same numbers.

In: float32 matrices with NaN for missing values, labels 0/1, weights of rows where they differ. Out: an
XGBoost booster; raw probabilities.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xgboost
from xgboost.callback import TrainingCallback

from jobs.files import replacing

BOOSTER_FILE = "xgboost/model.ubj"  # in the folder of a run
# Fewer bins blur a feature that is 0 in nearly all rows, as a risk is; more gain nothing (docs/handbook.md).
BINS = 512
FIXED = {"objective": "binary:logistic", "tree_method": "hist", "max_bin": BINS, "verbosity": 0}


def class_weight(labels: np.ndarray, power: float, weights: np.ndarray | None = None) -> float:
    """Weight of a fraud from the training data: (good / fraud) ** power; 0 is none, 1 balances fully.

    Rows count by their weights, 1 where none are given.
    """
    counted = np.ones(len(labels)) if weights is None else weights
    positives = max(float(counted[labels == 1].sum()), 1.0)
    return float(((float(counted.sum()) - positives) / positives) ** power)


def fit_booster(
    matrix: np.ndarray,
    labels: np.ndarray,
    chosen: Mapping[str, Any],
    rounds: int,
    *,
    seed: int,
    threads: int,
    weights: np.ndarray | None = None,
    callbacks: Sequence[TrainingCallback] = (),
) -> xgboost.Booster:
    """Boost for a number of rounds; see `boost`."""
    data = training_matrix(matrix, labels, threads, weights)
    return boost(data, labels, chosen, rounds, seed=seed, threads=threads, callbacks=callbacks)


def training_matrix(
    matrix: np.ndarray, labels: np.ndarray, threads: int, weights: np.ndarray | None = None
) -> xgboost.QuantileDMatrix:
    """The rows in bins: the same for all parameters, and a good part of the time of a short trial."""
    return xgboost.QuantileDMatrix(matrix, labels, weight=weights, nthread=threads, max_bin=BINS)


def boost(
    data: xgboost.QuantileDMatrix,
    labels: np.ndarray,
    chosen: Mapping[str, Any],
    rounds: int,
    *,
    seed: int,
    threads: int,
    callbacks: Sequence[TrainingCallback] = (),
) -> xgboost.Booster:
    """Boost for a number of rounds on rows in bins.

    Args:
        chosen: XGBoost's parameters, and `weight_power` for the class weight (see class_weight).
    """
    weights = data.get_weight()
    parameters = {key: value for key, value in chosen.items() if key != "weight_power"}
    parameters |= FIXED | {
        "seed": seed,
        "nthread": threads,
        "scale_pos_weight": class_weight(
            labels, float(chosen.get("weight_power", 0.0)), weights if weights.size else None
        ),
    }
    return xgboost.train(parameters, data, rounds, callbacks=list(callbacks))


def probabilities(booster: xgboost.Booster, matrix: np.ndarray) -> np.ndarray:
    """Raw probability of fraud of each row."""
    return np.asarray(booster.inplace_predict(matrix), dtype=np.float64)


def save_booster(booster: xgboost.Booster, path: Path) -> None:
    """Write a booster in XGBoost's own binary JSON."""
    with replacing(path) as temporary:
        temporary.write_bytes(booster.save_raw("ubj"))


def load_booster(path: Path) -> xgboost.Booster:
    """The booster that `save_booster` has written."""
    booster = xgboost.Booster()
    booster.load_model(bytearray(path.read_bytes()))
    return booster
