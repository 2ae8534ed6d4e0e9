"""Figures of a model on labelled rows, and their bootstrap intervals.

In: scores in [0, 1], labels 0/1, optional weights per row (how often a resample drew it).
Out: plain floats; NaN where a figure is not defined (no fraud, nothing but fraud).
Average precision and ROC-AUC treat ties as scikit-learn does; resampling reuses one binning of the rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd
from sklearn.metrics import roc_curve

from jobs.conf.contract import ErrorCosts
from jobs.conf.policy import OperatingPoint

ECE_BINS = 10


class Ranking:
    """Rows counted between the scores of the frauds, so that figures of many resamples cost one pass each.

    Precision is read at frauds alone, so good rows between two scores of frauds are one count. Bin 0 lies
    above all frauds; then a bin of the rows tied with a score of frauds and one of those below it take turns.
    """

    def __init__(self, scores: np.ndarray, labels: np.ndarray) -> None:
        levels = np.unique(scores[labels == 1])
        above = len(levels) - np.searchsorted(levels, scores, side="right")  # levels above each row
        tied = np.isin(scores, levels)
        self.bins = 2 * above + tied
        self.size = 2 * len(levels) + 1
        self.frauds = np.flatnonzero(labels == 1)

    def counts(self, weights: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """Frauds and rows at or above the end of each bin."""
        drawn = None if weights is None else weights[self.frauds]
        hits = np.bincount(self.bins[self.frauds], weights=drawn, minlength=self.size)
        rows = np.bincount(self.bins, weights=weights, minlength=self.size)
        return np.cumsum(hits.astype(np.float64)), np.cumsum(rows.astype(np.float64))

    def average_precision(self, weights: np.ndarray | None = None) -> float:
        hits, rows = self.counts(weights)
        if hits[-1] <= 0 or hits[-1] >= rows[-1]:
            return float("nan")
        precision = np.divide(hits, rows, out=np.zeros_like(hits), where=rows > 0)
        return float(np.sum(np.diff(hits, prepend=0.0) * precision) / hits[-1])

    def roc_auc(self, weights: np.ndarray | None = None) -> float:
        hits, rows = self.counts(weights)
        misses = rows - hits
        if hits[-1] <= 0 or misses[-1] <= 0:
            return float("nan")
        before = np.concatenate([[0.0], hits[:-1]])
        return float(np.sum(np.diff(misses, prepend=0.0) * (hits + before) / 2) / (hits[-1] * misses[-1]))


def resamples(rows: int, samples: int, seed: int) -> Iterator[np.ndarray]:
    """How often each row is drawn, once per resample."""
    generator = np.random.default_rng(seed)
    for _ in range(samples):
        yield np.bincount(generator.integers(0, rows, rows), minlength=rows).astype(np.float64)


def interval(values: np.ndarray | list[float], level: float = 0.95) -> tuple[float, float]:
    """Percentile interval of resampled figures; NaN where any resample had none."""
    array = np.asarray(values, dtype=np.float64)
    if len(array) == 0 or np.isnan(array).mean() > 0.01:  # a rare empty resample is no evidence
        return float("nan"), float("nan")
    tail = (1 - level) / 2
    low, high = np.nanquantile(array, [tail, 1 - tail])
    return float(low), float(high)


def expected_calibration_error(scores: np.ndarray, labels: np.ndarray, bins: int = ECE_BINS) -> float:
    """Mean gap between score and share of frauds over equally wide bins, weighted by rows."""
    if len(scores) == 0:
        return float("nan")
    which = np.minimum((scores * bins).astype(int), bins - 1)
    total = np.bincount(which, minlength=bins)
    gap = np.abs(
        np.bincount(which, weights=scores, minlength=bins)
        - np.bincount(which, weights=labels, minlength=bins)
    )
    return float(gap[total > 0].sum() / len(scores))


def brier(scores: np.ndarray, labels: np.ndarray) -> float:
    """Mean squared distance between score and label."""
    return float(np.mean((scores - labels) ** 2)) if len(scores) else float("nan")


def recall_at_fpr(scores: np.ndarray, labels: np.ndarray, rate: float) -> float:
    """Share of frauds above the lowest threshold whose false positive rate is at most `rate`."""
    if not 0 < labels.sum() < len(labels):
        return float("nan")
    false_rate, true_rate, _ = roc_curve(labels, scores)
    return float(true_rate[false_rate <= rate].max())


def card_precision(
    scores: np.ndarray, labels: np.ndarray, cards: np.ndarray, days: np.ndarray, budget: int = 100
) -> float:
    """Share of compromised cards among the `budget` cards with the highest scores, mean over days.

    A card counts once a day with its highest score; once it was found, it is left out of later days.
    """
    frame = pd.DataFrame({"score": scores, "label": labels, "card": cards, "day": days})
    found: set[int] = set()
    shares = []
    for _, rows in frame.sort_values("day", kind="stable").groupby("day", sort=True):
        open_rows = rows[~rows["card"].isin(found)]
        daily = open_rows.groupby("card")[["score", "label"]].max()
        top = daily.sort_values("score", ascending=False, kind="stable").head(budget)
        shares.append(float(top["label"].sum()) / budget)
        found.update(top.index[top["label"] == 1].tolist())
    return float(np.mean(shares)) if shares else float("nan")


class CostCurve(NamedTuple):
    """What each distinct score costs as a threshold, the highest first; stopped is every row from it up."""

    threshold: np.ndarray
    cost_minor: np.ndarray
    false_positive_rate: np.ndarray
    fraud_caught: np.ndarray

    def point(self, index: int) -> dict[str, float]:
        return {name: float(values[index]) for name, values in self._asdict().items()}


def cost_curve(
    scores: np.ndarray, labels: np.ndarray, amounts: np.ndarray, costs: ErrorCosts
) -> CostCurve | None:
    """Costs of false alarms and of missed frauds in minor units; None without both frauds and good rows."""
    order = np.argsort(-scores, kind="stable")
    ranked, truth, money = scores[order], labels[order].astype(np.float64), amounts[order]
    ends = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1)
    positives, negatives = float(truth.sum()), float((1 - truth).sum())
    if positives == 0 or negatives == 0:
        return None
    caught = np.cumsum(truth)[ends]
    false_alarms = np.cumsum(1 - truth)[ends]
    missed = float(np.sum(truth * money)) - np.cumsum(truth * money)[ends]
    cost = costs.false_alarm_minor * false_alarms + costs.missed_fraud_share * missed
    return CostCurve(ranked[ends], cost, false_alarms / negatives, caught / positives)


def operating_points(curve: CostCurve | None, wanted: OperatingPoint) -> dict[str, float]:
    """The cheapest threshold within the policy's limits, and the cheapest of all; costs in minor units.

    `within_limits` is 1 where one keeps both limits.
    """
    if curve is None:
        return {}
    cost = curve.cost_minor
    allowed = (curve.false_positive_rate <= wanted.false_positive_rate_max) & (
        curve.fraud_caught >= wanted.fraud_caught_min
    )
    cheapest = int(np.argmin(cost))
    chosen = int(np.flatnonzero(allowed)[np.argmin(cost[allowed])]) if allowed.any() else cheapest
    result = {"within_limits": float(allowed.any())}
    for name, index in (("chosen", chosen), ("cheapest", cheapest)):
        result |= {f"{name}_{key}": value for key, value in curve.point(index).items()}
    return result
