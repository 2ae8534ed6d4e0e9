"""The published protocol: its rules on a few rows, its own counts on the public data."""

from __future__ import annotations

from datetime import date

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from jobs.evaluation.metrics import card_precision
from tests.benchmarks.features_data import HANDBOOK
from tests.benchmarks.handbook_features import raw_transactions
from tests.benchmarks.handbook_protocol import (
    SINGLE,
    Resampled,
    figures,
    intervals,
    judged_rows,
    training_rows,
    unknowable,
)

FOLD = date(2018, 7, 25)


def rows_of(*rows: tuple[str, int, int]) -> pd.DataFrame:
    """day, customer, fraud."""
    frame = pd.DataFrame(rows, columns=["day", "CUSTOMER_ID", "TX_FRAUD"])
    return frame.assign(day=pd.to_datetime(frame["day"]))


def test_a_week_is_trained_on_and_after_a_week_of_delay_a_week_is_judged() -> None:
    days = pd.date_range("2018-07-20", "2018-08-20").strftime("%Y-%m-%d")
    rows = rows_of(*((day, 1, 0) for day in days))
    trained, judged = rows["day"][training_rows(rows, FOLD)], rows["day"][judged_rows(rows, FOLD)]
    assert [trained.min(), trained.max()] == [pd.Timestamp("2018-07-25"), pd.Timestamp("2018-07-31")]
    assert [judged.min(), judged.max()] == [pd.Timestamp("2018-08-08"), pd.Timestamp("2018-08-14")]
    assert (len(trained), len(judged)) == (7, 7)


def test_a_longer_history_ends_with_the_same_week() -> None:
    rows = rows_of(("2018-05-08", 1, 0), ("2018-07-31", 1, 0), ("2018-08-01", 1, 0))
    assert training_rows(rows, FOLD, date(2018, 5, 8)).tolist() == [True, True, False]


def test_a_card_is_left_out_from_the_eighth_day_after_its_fraud() -> None:
    rows = rows_of(
        ("2018-08-02", 7, 1), ("2018-08-09", 7, 0), ("2018-08-10", 7, 0), ("2018-08-11", 7, 0),
        ("2018-08-10", 8, 0),
    )  # fmt: skip
    assert judged_rows(rows, FOLD).tolist() == [False, True, False, False, True]


def test_a_fraud_before_the_training_leaves_its_card_in() -> None:
    rows = rows_of(("2018-07-24", 7, 1), ("2018-07-25", 8, 1), ("2018-08-08", 7, 0), ("2018-08-08", 8, 0))
    assert judged_rows(rows, FOLD).tolist() == [False, False, True, False]


def test_the_first_frauds_of_a_terminal_are_unknowable_until_one_is_known() -> None:
    rows = pd.DataFrame(
        [("2018-07-01", 5, 2, 30.0), ("2018-07-07", 5, 2, 30.0), ("2018-07-07", 5, 2, 300.0),
         ("2018-07-08", 5, 2, 30.0), ("2018-07-07", 5, 0, 30.0), ("2018-07-07", 5, 3, 30.0)],
        columns=["day", "TERMINAL_ID", "TX_FRAUD_SCENARIO", "TX_AMOUNT"],
    )  # fmt: skip
    rows["day"] = pd.to_datetime(rows["day"])
    assert unknowable(rows).tolist() == [True, True, False, False, False, False]


def some_fold(seed: int) -> tuple[pd.DataFrame, np.ndarray]:
    """Test rows with more cards than are looked at on a day."""
    random = np.random.default_rng(seed)
    count = 3_000
    rows = pd.DataFrame(
        {
            "day": pd.Timestamp("2018-08-08") + pd.to_timedelta(random.integers(0, 7, count), "D"),
            "CUSTOMER_ID": random.integers(0, 400, count),
            "TX_FRAUD": (random.random(count) < 0.05).astype(int),
        }
    )
    return rows, random.random(count) + 0.5 * rows["TX_FRAUD"].to_numpy()


def test_figures_of_rows_drawn_once_each_are_the_figures() -> None:
    rows, scores = some_fold(1)
    customers = np.unique(rows["CUSTOMER_ID"])
    found, drawn = figures(rows, scores), Resampled(rows, scores, customers).figures(np.ones(len(customers)))
    assert drawn.auc == pytest.approx(found.auc)
    assert drawn.average_precision == pytest.approx(found.average_precision)
    assert drawn.card_precision == pytest.approx(found.card_precision)


def test_figures_of_rows_drawn_twice_are_those_of_the_rows_written_twice() -> None:
    rows, scores = some_fold(2)
    customers = np.unique(rows["CUSTOMER_ID"])
    drawn = np.random.default_rng(3).integers(0, 3, len(customers)).astype(float)
    times = drawn[rows["CUSTOMER_ID"].map({each: place for place, each in enumerate(customers)})].astype(int)
    again = np.concatenate([[copy] * (times > copy).sum() for copy in range(2)])
    places = np.concatenate([np.flatnonzero(times > copy) for copy in range(2)])
    copied, copied_scores = rows.iloc[places], scores[places]
    found = Resampled(rows, scores, customers).figures(drawn)
    assert found.auc == pytest.approx(roc_auc_score(copied["TX_FRAUD"], copied_scores))
    assert found.average_precision == pytest.approx(
        average_precision_score(copied["TX_FRAUD"], copied_scores)
    )
    # a customer that was drawn twice has two cards, which are found for themselves
    cards = copied["CUSTOMER_ID"].to_numpy() + 10_000 * again
    by_hand = card_precision(copied_scores, copied["TX_FRAUD"].to_numpy(), cards, copied["day"].to_numpy())
    assert found.card_precision == pytest.approx(
        by_hand, abs=1 / 700
    )  # one card at the hundredth place a day


def test_the_interval_holds_the_mean_and_narrows_with_more_folds() -> None:
    folds = [some_fold(seed) for seed in range(6)]
    widths = []
    for some in (folds[:1], folds):
        low, high = intervals(some, samples=200, seed=5)
        centre = np.mean([figures(*each).average_precision for each in some])
        assert low.average_precision < centre < high.average_precision
        widths.append(high.average_precision - low.average_precision)
    assert widths[1] < widths[0]


@pytest.mark.skipif(not HANDBOOK.exists(), reason="the handbook data set is not beside the project")
def test_a_perfect_model_scores_the_published_figures() -> None:
    rows = raw_transactions()
    training, judged = training_rows(rows, SINGLE), judged_rows(rows, SINGLE)
    counts = [int(training.sum()), int(rows["TX_FRAUD"][training].sum())]
    counts += [int(judged.sum()), int(rows["TX_FRAUD"][judged].sum())]
    assert counts == [67_240, 598, 58_264, 385]
    perfect = figures(rows[judged], rows["TX_FRAUD"][judged].to_numpy(dtype=float))
    assert (perfect.auc, perfect.average_precision) == (1.0, 1.0)
    assert round(perfect.card_precision, 3) == 0.397
