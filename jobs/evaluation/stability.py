"""Weeks of the test rows: does a model hold through them, or did one week carry it.

In: the day of each row, labels 0/1, scores, and the resampled PR-AUC of each week. Out: WeekFigures, weeks
counted from the first day on; None where a week has no fraud. PR-AUC grows with the share of frauds, so a
week's figure is read beside its frauds and rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date, timedelta

import numpy as np
import pandas as pd

from jobs.evaluation import metrics
from jobs.training.evidence import WeekFigures, known

WEEK = timedelta(days=7)


def week_masks(days: pd.Series, first: date, last: date) -> dict[str, np.ndarray]:
    """Rows of each week from first to last, both included, by its first day; the last may be shorter."""
    found = {}
    while first <= last:
        end = min(first + WEEK - timedelta(days=1), last)
        found[str(first)] = ((days >= first) & (days <= end)).to_numpy(dtype=bool)
        first += WEEK
    return found


def week_figures(
    masks: Mapping[str, np.ndarray],
    scores: np.ndarray,
    labels: np.ndarray,
    resampled: Mapping[str, Sequence[float]],
    last: date,
) -> tuple[WeekFigures, ...]:
    """One model in each week that has rows."""
    result = []
    for name, mask in masks.items():
        if not mask.any():
            continue
        first = date.fromisoformat(name)
        low, high = metrics.interval(list(resampled[name]))
        result.append(
            WeekFigures(
                first=first,
                last=min(first + WEEK - timedelta(days=1), last),
                rows=int(mask.sum()),
                positives=int(labels[mask].sum()),
                pr_auc=known(metrics.Ranking(scores[mask], labels[mask]).average_precision()),
                pr_auc_low=known(low),
                pr_auc_high=known(high),
            )
        )
    return tuple(result)
