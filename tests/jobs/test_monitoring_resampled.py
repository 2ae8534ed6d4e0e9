"""Figures of cells: of all rows the plain ones, and resampled as often as rows drawn one by one would be."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score

from jobs.evaluation.metrics import recall_at_fpr
from jobs.evaluation.slices import SLICE_FEATURES, SLICES
from jobs.monitoring.resampled import (
    Measure,
    Sample,
    alert_share,
    drawn,
    fraud_share,
    pr_auc,
    recall_at,
    stopped_share,
    whole,
)


def rows_of(seed: int, days: int = 6, rows: int = 300) -> pd.DataFrame:
    """Labelled rows with ties, of days that differ."""
    generator = np.random.default_rng(seed)
    day = np.repeat(np.arange(days), rows)
    fraud = generator.random(days * rows) < 0.02 + 0.02 * (day % 3)
    good, bad = generator.beta(1, 9, len(fraud)), generator.beta(4, 2, len(fraud))
    return pd.DataFrame(
        {
            "event_time": pd.Timestamp("2026-03-01", tz="UTC") + pd.to_timedelta(day, unit="D"),
            "is_fraud": fraud.astype(float),
            "score": np.round(np.where(fraud, bad, good), 2),
            "amount_minor": generator.integers(100, 9000, days * rows),
        }
    )  # fmt: skip


def plain(name: str, rows: pd.DataFrame, weights: np.ndarray | None = None) -> float:
    """The same figures, row by row."""
    again = rows if weights is None else rows.loc[rows.index.repeat(weights.astype(int))]
    scores, truth, money = (
        again[each].to_numpy(dtype=float) for each in ("score", "is_fraud", "amount_minor")
    )
    return float(
        {
            "pr_auc": lambda: average_precision_score(truth, scores),
            "recall": lambda: recall_at_fpr(scores, truth, 0.03),
            "alerts": lambda: np.mean(scores > 0.5),
            "stopped": lambda: (truth * money * (scores > 0.5)).sum() / (truth * money).sum(),
            "frauds": lambda: truth.mean(),
        }[name]()
    )


MEASURES: dict[str, Measure] = {
    "pr_auc": pr_auc, "recall": recall_at(0.03), "alerts": alert_share(0.5), "stopped": stopped_share(0.5),
    "frauds": fraud_share,
}  # fmt: skip


@pytest.mark.parametrize("name", MEASURES)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_figure_of_all_rows_is_the_plain_one(name: str, seed: int) -> None:
    rows = rows_of(seed)
    assert whole(MEASURES[name], Sample(rows)) == pytest.approx(plain(name, rows), abs=1e-12)


@pytest.mark.parametrize("name", MEASURES)
def test_resamples_are_spread_like_days_and_rows_drawn_one_by_one(name: str) -> None:
    rows, generator = rows_of(4), np.random.default_rng(9)
    codes = pd.factorize(rows["event_time"])[0]
    by_rows = [
        plain(name, rows, generator.poisson(generator.multinomial(6, [1 / 6] * 6)[codes])) for _ in range(400)
    ]
    found = drawn(MEASURES[name], Sample(rows), 2000, 5)
    spread = float(np.std(by_rows))
    assert np.mean(found) == pytest.approx(np.mean(by_rows), abs=0.25 * spread)
    assert np.std(found) == pytest.approx(spread, rel=0.15)


def test_the_same_seed_draws_the_same_and_without_frauds_there_is_no_figure() -> None:
    sample = Sample(rows_of(5))
    assert drawn(pr_auc, sample, 20, 5).tolist() == drawn(pr_auc, sample, 20, 5).tolist()
    honest = Sample(rows_of(5).assign(is_fraud=0.0))
    assert np.isnan([whole(MEASURES[name], honest) for name in ("pr_auc", "recall", "stopped")]).all()
    assert whole(fraud_share, honest) == 0.0


@pytest.mark.parametrize("name", SLICES)
def test_a_slice_chooses_by_the_features_that_are_named_for_it(name: str) -> None:
    rows = pd.DataFrame({each: [0.0, 1.0] for each in (*SLICE_FEATURES, "amount_minor")})
    assert len(SLICES[name](rows)) == 2
