"""Figures of labelled rows that are drawn again day by day, at the cost of a count for each cell.

In: rows with score, is_fraud, amount_minor, event_time. Out: a figure of all rows, or of each resample.
Days differ more than rows do (a compromised terminal is a run of frauds), so a resample draws days, and rows
within them: a row of a day that was drawn k times counts Poisson(k) times. Of rows that a figure cannot tell
apart only the sum matters, and a sum of Poisson counts is one of the summed mean: so rows are put into cells
once, and a resample is one draw for each cell.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from jobs.evaluation.metrics import Ranking
from jobs.monitoring.interval import event_times

Floats = npt.NDArray[np.float64]
Places = npt.NDArray[np.int64]


class Cells(NamedTuple):
    """Rows by what a figure tells apart, and the figure of how many are in each cell."""

    rows: Places  # the rows that count
    places: Places  # the cell of each of them
    size: int
    figure: Callable[[Floats], float]


class Sample:
    """Labelled rows with their days; what several figures need is made once."""

    def __init__(self, rows: pd.DataFrame) -> None:
        self.rows = rows
        self.scores: Floats = rows["score"].to_numpy(dtype=np.float64)
        self.truth: Floats = rows["is_fraud"].to_numpy(dtype=np.float64)
        times = event_times(rows)
        codes, names = pd.factorize(times.dt.floor("D"))
        self.codes: Places = codes.astype(np.int64)
        self.days = len(names)
        self.frauds = int(self.truth.sum())

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def ranking(self) -> Ranking:
        return Ranking(self.scores, self.truth)


Measure = Callable[[Sample], Cells]


def pr_auc(sample: Sample) -> Cells:
    """Average precision."""

    def figure(counts: Floats) -> float:
        hits, rows = _ranked(counts)
        if hits[-1] <= 0 or hits[-1] >= rows[-1]:
            return float("nan")
        precision = np.divide(hits, rows, out=np.zeros_like(hits), where=rows > 0)
        return float(np.sum(np.diff(hits, prepend=0.0) * precision) / hits[-1])

    return _by_rank(sample, figure)


def recall_at(rate: float) -> Measure:
    """Recall at a false-positive rate."""

    def figure(counts: Floats) -> float:
        hits, rows = _ranked(counts)
        good = rows - hits
        if hits[-1] <= 0 or good[-1] <= 0:
            return float("nan")
        return float(hits[good <= rate * good[-1]].max(initial=0.0) / hits[-1])

    return lambda sample: _by_rank(sample, figure)


def alert_share(threshold: float) -> Measure:
    """Share of transactions that are not simply approved."""
    return lambda sample: _of_two(sample, sample.scores > threshold)


def fraud_share(sample: Sample) -> Cells:
    """Share of frauds."""
    return _of_two(sample, sample.truth == 1)


def stopped_share(threshold: float) -> Measure:
    """Share of the fraud amount that is not simply approved."""

    def cells(sample: Sample) -> Cells:
        frauds = np.flatnonzero(sample.truth == 1)
        amounts = sample.rows["amount_minor"].to_numpy(dtype=np.float64)[frauds]
        stopped = amounts * (sample.scores[frauds] > threshold)

        def figure(counts: Floats) -> float:
            total = float(amounts @ counts)
            return float(stopped @ counts) / total if total else float("nan")

        return Cells(frauds, np.arange(len(frauds)), len(frauds), figure)  # amounts differ: a cell each

    return cells


def whole(measure: Measure, sample: Sample) -> float:
    """The figure of all rows."""
    cells = measure(sample)
    return cells.figure(np.bincount(cells.places, minlength=cells.size).astype(np.float64))


def drawn(measure: Measure, sample: Sample, samples: int, seed: int) -> Floats:
    """The figure of each resample."""
    cells, generator = measure(sample), np.random.default_rng(seed)
    flat = np.bincount(
        sample.codes[cells.rows] * cells.size + cells.places, minlength=sample.days * cells.size
    )
    by_day = flat.reshape(sample.days, cells.size).astype(np.float64)
    even = np.full(sample.days, 1.0 / sample.days)
    times = generator.multinomial(sample.days, even, size=samples).astype(np.float64)
    return np.array([cells.figure(generator.poisson(each @ by_day).astype(np.float64)) for each in times])


def _by_rank(sample: Sample, figure: Callable[[Floats], float]) -> Cells:
    """A cell for the good rows and one for the frauds of each bin between the scores of frauds."""
    ranking = sample.ranking
    places = ranking.bins + ranking.size * (sample.truth == 1)
    return Cells(np.arange(len(sample)), places.astype(np.int64), 2 * ranking.size, figure)


def _ranked(counts: Floats) -> tuple[Floats, Floats]:
    """Frauds and rows at or above the end of each bin."""
    good, hits = counts.reshape(2, -1)
    return np.cumsum(hits), np.cumsum(good + hits)


def _of_two(sample: Sample, chosen: npt.NDArray[np.bool_]) -> Cells:
    def figure(counts: Floats) -> float:
        total = float(counts.sum())
        return float(counts[1]) / total if total else float("nan")

    return Cells(np.arange(len(sample)), chosen.astype(np.int64), 2, figure)
