"""Gradient boosting as both the tuning and the training use it: the same call, the same numbers.

In: float32 matrices with NaN for missing values, labels 0/1. Out: an XGBoost booster; raw probabilities.
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


def class_weight(labels: np.ndarray, power: float) -> float:
    """Weight of a fraud from the training data: (good / fraud) ** power; 0 is none, 1 balances fully."""
    positives = max(int(labels.sum()), 1)
    return float(((len(labels) - positives) / positives) ** power)


def fit_booster(
    matrix: np.ndarray,
    labels: np.ndarray,
    chosen: Mapping[str, Any],
    rounds: int,
    *,
    seed: int,
    threads: int,
    callbacks: Sequence[TrainingCallback] = (),
) -> xgboost.Booster:
    """Boost for a number of rounds; see `boost`."""
    data = training_matrix(matrix, labels, threads)
    return boost(data, labels, chosen, rounds, seed=seed, threads=threads, callbacks=callbacks)


def training_matrix(matrix: np.ndarray, labels: np.ndarray, threads: int) -> xgboost.QuantileDMatrix:
    """The rows in bins: the same for all parameters, and a good part of the time of a short trial."""
    return xgboost.QuantileDMatrix(matrix, labels, nthread=threads, max_bin=BINS)


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
    parameters = {key: value for key, value in chosen.items() if key != "weight_power"}
    parameters |= FIXED | {
        "seed": seed,
        "nthread": threads,
        "scale_pos_weight": class_weight(labels, float(chosen.get("weight_power", 0.0))),
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
