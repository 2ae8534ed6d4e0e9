"""Why the boosted trees score as they do: contributions per feature, and the reasons of single cases.

In: the run's booster, test rows. Out: exact TreeSHAP values (Lundberg et al. 2020, as XGBoost computes them):
one per row and feature in log-odds; with the base they sum to the row's margin. They explain the boosted
trees before calibration and blending, which keep their order but for the blended band.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
import xgboost

from jobs.features.declarations import FEATURES
from jobs.training.evidence import CaseFigures, Contribution, Reason, known
from jobs.training.frame import matrix_of

EXPLAINED_ROWS = 2_000
CASES = 5
REASONS = 4
DIGITS = 6

DESCRIPTIONS = {feature.name: feature.description for feature in FEATURES}


@dataclass
class Explained:
    """Contributions [rows, features] of the values [rows, features] that they explain."""

    features: tuple[str, ...]
    values: np.ndarray
    contributions: np.ndarray


def contributions(booster: xgboost.Booster, matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(contributions [rows, features], base [rows]) of each row's margin."""
    found = np.asarray(booster.predict(xgboost.DMatrix(matrix), pred_contribs=True), dtype=np.float64)
    return found[:, :-1], found[:, -1]


def even_sample(rows: pd.DataFrame, size: int = EXPLAINED_ROWS) -> pd.DataFrame:
    """At most `size` rows, evenly spread over all of them."""
    if len(rows) <= size:
        return rows
    return rows.iloc[np.linspace(0, len(rows) - 1, size).astype(int)]


def explain_rows(booster: xgboost.Booster, rows: pd.DataFrame, features: tuple[str, ...]) -> Explained:
    """Contributions of a sample of the rows."""
    values = matrix_of(even_sample(rows), features)
    return Explained(features, values, contributions(booster, values)[0])


def summary(explained: Explained) -> tuple[Contribution, ...]:
    """Size and direction of each feature, the largest first."""
    size = np.abs(explained.contributions).mean(axis=0)
    return tuple(
        Contribution(
            feature=explained.features[place],
            mean_absolute=round(float(size[place]), DIGITS),
            rises=_rises(explained.values[:, place], explained.contributions[:, place]),
        )
        for place in np.argsort(-size, kind="stable")
    )


def _rises(values: np.ndarray, moved: np.ndarray) -> float | None:
    """Spearman's rank correlation over the rows that have a value."""
    there = ~np.isnan(values)
    if len(np.unique(values[there])) < 2 or len(np.unique(moved[there])) < 2:
        return None
    ranks = pd.DataFrame({"value": values[there], "moved": moved[there]}).rank()
    return known(round(float(ranks["value"].corr(ranks["moved"])), DIGITS))


def highest_cases(
    booster: xgboost.Booster, rows: pd.DataFrame, scores: np.ndarray, features: tuple[str, ...]
) -> tuple[CaseFigures, ...]:
    """The rows with the highest scores, each with the features that raised it most."""
    places = np.argsort(-scores, kind="stable")[:CASES]
    chosen = rows.iloc[places]
    matrix = matrix_of(chosen, features)
    moved, _ = contributions(booster, matrix)
    return tuple(
        CaseFigures(
            transaction_id=int(number),
            day=day,
            score=float(scores[place]),
            is_fraud=bool(truth),
            reasons=_reasons(features, values, parts),
        )
        for place, number, day, truth, values, parts in zip(
            places, chosen["transaction_id"], chosen["day"], chosen["is_fraud"], matrix, moved, strict=True
        )
    )


def _reasons(features: tuple[str, ...], values: np.ndarray, parts: np.ndarray) -> tuple[Reason, ...]:
    """What raised the margin, the most first."""
    return tuple(
        Reason(
            feature=features[place],
            value=known(float(values[place])),
            contribution=round(float(parts[place]), DIGITS),
        )
        for place in np.argsort(-parts, kind="stable")[:REASONS]
        if parts[place] > 0
    )


def in_words(reason: Reason) -> str:
    """A reason for people: what the feature is, and what it was."""
    value = "missing" if reason.value is None else _short(reason.value)
    return f"{DESCRIPTIONS.get(reason.feature, reason.feature)}: {value}"


def _short(value: float) -> str:
    return f"{value:.0f}" if math.isclose(value, round(value), abs_tol=1e-9) else f"{value:.4g}"
