"""Laws of the training that hold for any input."""

from __future__ import annotations

from datetime import date, timedelta

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from jobs.conf.policy import Training
from jobs.evaluation import metrics
from jobs.training.calibrate import fit_map
from jobs.training.frame import (
    EMBARGO,
    FIT_ROLES,
    FITTED_ON,
    LEAK_POSITIVES,
    TEST,
    drawn,
    single_feature_auc,
    split_days,
)

ROWS = st.lists(st.tuples(st.integers(0, 20), st.booleans()), min_size=4, max_size=200)


@given(ROWS)
@settings(deadline=None, max_examples=60)
def test_a_calibration_rises_strictly_and_stays_a_probability(rows: list[tuple[int, bool]]) -> None:
    raw = np.array([score / 20 for score, _ in rows])
    labels = np.array([int(label) for _, label in rows])
    assume(0 < labels.sum() < len(labels))
    found = fit_map(raw, labels)
    assert (found.x[0], found.x[-1]) == (0.0, 1.0)
    assert (np.diff(found.x) > 0).all()
    assert (np.diff(found.y) > 0).all()
    assert found.y[0] >= 0
    assert found.y[-1] <= 1
    order = np.argsort(raw, kind="stable")
    distinct = np.diff(raw[order]) > 0
    assert (np.diff(np.interp(raw, found.x, found.y)[order])[distinct] > 0).all(), "no score is tied"


@given(ROWS, st.integers(0, 2**31))
@settings(deadline=None, max_examples=60)
def test_weighted_figures_are_those_of_sklearn(rows: list[tuple[int, bool]], seed: int) -> None:
    scores = np.array([score / 20 for score, _ in rows])
    labels = np.array([int(label) for _, label in rows])
    weights = np.random.default_rng(seed).integers(0, 4, len(rows)).astype(float)
    assume(0 < (weights * labels).sum() < weights.sum())
    ranking = metrics.Ranking(scores, labels)
    kept = weights > 0
    expected = average_precision_score(labels[kept], scores[kept], sample_weight=weights[kept])
    assert ranking.average_precision(weights) == pytest.approx(expected, abs=1e-9)
    area = roc_auc_score(labels[kept], scores[kept], sample_weight=weights[kept])
    assert ranking.roc_auc(weights) == pytest.approx(area, abs=1e-9)


@given(
    st.dates(date(2020, 1, 1), date(2030, 1, 1)),
    st.integers(2, 40),
    st.integers(1, 15),
    st.integers(1, 60),
)
def test_no_label_of_a_fit_row_matures_inside_the_test(
    last: date, test_days: int, validation_days: int, embargo: int
) -> None:
    training = Training(
        window_days=200,
        validation_days=validation_days,
        test_days=test_days,
        calibration_days=5,
        known_card_days=14,
        good_rows_per_fraud=30,
        seeds=(1,),
    )
    split = split_days(last, training, embargo)
    assert split.tuning_last < split.validation_first <= split.fit_last < split.test_first <= split.test_last
    assert split.fit_last + timedelta(days=embargo) < split.test_first
    assert split.tuning_last + timedelta(days=embargo) < split.validation_first


@given(
    st.lists(st.tuples(st.sampled_from((*FIT_ROLES, EMBARGO, TEST)), st.booleans()), min_size=1, max_size=80),
    st.integers(1, 5),
    st.integers(0, 3),
)
def test_drawn_good_rows_stand_for_all_of_them_and_whatever_judges_stays(
    rows: list[tuple[str, bool]], good_rows_per_fraud: int, seed: int
) -> None:
    frame = pd.DataFrame(rows, columns=["role", "is_fraud"]).astype({"is_fraud": "int8"})
    weight = drawn(frame["is_fraud"], frame["role"], good_rows_per_fraud, seed)
    fitted = frame["role"].isin(FITTED_ON)
    good, frauds = fitted & (frame["is_fraud"] == 0), int((fitted & (frame["is_fraud"] == 1)).sum())
    assert (weight[~good] == (frame["role"] != EMBARGO)[~good]).all()
    assert weight[good].sum() == pytest.approx(good.sum(), rel=1e-6)
    assert (weight[good] > 0).sum() == (
        min(good.sum(), good_rows_per_fraud * frauds) if frauds else good.sum()
    )
    assert weight.equals(drawn(frame["is_fraud"], frame["role"], good_rows_per_fraud, seed))


@given(st.lists(st.tuples(st.integers(0, 9) | st.none(), st.booleans()), min_size=30, max_size=120))
@settings(deadline=None, max_examples=60)
def test_a_features_own_area_is_sklearns_with_its_gaps_lowest_and_without_them(
    rows: list[tuple[int | None, bool]],
) -> None:
    values = np.array([np.nan if value is None else float(value) for value, _ in rows])
    labels = np.array([int(label) for _, label in rows])
    assume(0 < labels.sum() < len(labels))
    there = ~np.isnan(values)
    areas = [roc_auc_score(labels, np.where(there, values, -1.0))]
    if LEAK_POSITIVES <= labels[there].sum() < there.sum():
        areas.append(roc_auc_score(labels[there], values[there]))
    expected = max(max(area, 1 - area) for area in areas)
    frame = pd.DataFrame({"value": values, "is_fraud": labels})
    assert single_feature_auc(frame, ("value",)) == {"value": pytest.approx(expected, abs=1e-6)}
