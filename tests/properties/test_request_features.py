"""The law of request features: one event at a time or a whole frame, the numbers are the same."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.features.declarations import FEATURES, MODEL_FEATURES, STORED_FEATURES, VELOCITY_FEATURES
from jobs.features.request import assemble, assemble_frame

NUMBERS = st.floats(0, 1e6, allow_nan=False)
OFFSETS = (timedelta(0), timedelta(hours=5, minutes=30), timedelta(hours=-8))
ZONES = st.sampled_from([timezone(offset) for offset in OFFSETS])
MOMENTS = st.datetimes(datetime(2018, 1, 1), datetime(2030, 1, 1), timezones=ZONES)  # noqa: DTZ001
VELOCITY = st.lists(
    st.one_of(st.just(math.nan), NUMBERS), min_size=len(VELOCITY_FEATURES), max_size=len(VELOCITY_FEATURES)
)
EVENTS = st.tuples(
    st.one_of(st.integers(0, 10**6), st.integers(0, 2**63 - 1)),
    MOMENTS,
    st.fixed_dictionaries(dict.fromkeys(STORED_FEATURES, st.one_of(st.none(), NUMBERS))),
    st.one_of(st.none(), VELOCITY),
)
NOON = datetime(2026, 3, 4, 12, tzinfo=UTC)  # a Wednesday


def inputs_of(
    amount_minor: int,
    stored: Mapping[str, float | None],
    velocity: list[float] | None = None,
    moment: datetime = NOON,
) -> dict[str, float]:
    """The inputs of one event by name, the same from a frame."""
    alone = assemble(amount_minor, moment, stored, velocity)
    row = {"amount_minor": amount_minor, "event_time": moment, **stored}
    row |= dict(zip(VELOCITY_FEATURES, velocity or (), strict=velocity is not None))
    together = assemble_frame(pd.DataFrame([row]))
    np.testing.assert_array_equal(together.to_numpy()[0], np.array(alone))
    return dict(zip(MODEL_FEATURES, alone, strict=True))


@settings(max_examples=60, deadline=None)
@given(st.lists(EVENTS, min_size=1, max_size=4))
def test_a_frame_gives_what_single_events_give(
    rows: list[tuple[int, datetime, dict[str, float | None], list[float] | None]],
) -> None:
    frame = pd.DataFrame([stored for _, _, stored, _ in rows]).astype("float64")
    gaps = [math.nan] * len(VELOCITY_FEATURES)
    velocity = pd.DataFrame([given or gaps for *_, given in rows], columns=list(VELOCITY_FEATURES))
    frame = pd.concat([frame, velocity], axis=1)
    frame["amount_minor"] = [amount for amount, *_ in rows]
    frame["event_time"] = pd.to_datetime([moment for _, moment, _, _ in rows], utc=True)
    together = assemble_frame(frame)
    assert list(together.columns) == list(MODEL_FEATURES)
    alone = np.array([assemble(*row) for row in rows])
    np.testing.assert_array_equal(together.to_numpy(), alone)


def test_stored_and_velocity_features_stand_where_their_names_do() -> None:
    stored: dict[str, float | None] = {name: 1000.0 + place for place, name in enumerate(STORED_FEATURES)}
    velocity = [2000.0 + place for place in range(len(VELOCITY_FEATURES))]
    inputs = inputs_of(100, stored, velocity)
    assert {name: inputs[name] for name in STORED_FEATURES} == stored
    assert [inputs[name] for name in VELOCITY_FEATURES] == velocity
    assert [inputs[f"{what}_missing"] for what in ("customer", "terminal", "velocity")] == [0.0, 0.0, 0.0]


def test_an_event_worked_by_hand() -> None:
    # Saturday 2026-02-28 01:30 in UTC is Friday evening in California
    moment = datetime(2026, 2, 27, 17, 30, tzinfo=timezone(timedelta(hours=-8)))
    stored: dict[str, float | None] = dict.fromkeys(STORED_FEATURES)
    stored |= {"customer_count_30d": 4.0, "customer_amount_mean_30d": 12.5}
    stored |= {"customer_amount_deviation_30d": 7.5, "customer_amount_mean_7d": 20.0}
    inputs = inputs_of(50_00, stored, None, moment)
    assert inputs["amount"] == 50.0
    assert (inputs["amount_to_mean_30d"], inputs["amount_to_mean_7d"]) == (4.0, 2.5)
    assert inputs["amount_z_score_30d"] == 5.0  # (50 - 12.5) / 7.5
    assert math.isnan(inputs["amount_z_score_7d"])  # a single payment has no deviation
    assert (inputs["hour"], inputs["is_night"], inputs["is_weekend"]) == (1.0, 1.0, 1.0)
    assert (inputs["customer_missing"], inputs["terminal_missing"]) == (0.0, 1.0)
    assert math.isnan(inputs["terminal_risk_7d"])


@pytest.mark.parametrize(("deviation", "expected"), [(0.0, 5.0), (0.99, 5.0), (1.0, 5.0), (2.0, 2.5)])
def test_a_z_score_of_equal_amounts_stays_finite(deviation: float, expected: float) -> None:
    stored = {"customer_amount_mean_30d": 20.0, "customer_amount_deviation_30d": deviation}
    assert inputs_of(25_00, stored)["amount_z_score_30d"] == expected


def test_without_velocity_features_they_are_gaps_and_a_flag_says_so() -> None:
    inputs = inputs_of(100, {}, None)
    assert all(math.isnan(inputs[name]) for name in VELOCITY_FEATURES)
    assert inputs["velocity_missing"] == 1.0


def test_every_window_that_is_declared_is_computed() -> None:
    stored: dict[str, float | None] = dict.fromkeys(STORED_FEATURES, 2.0)
    inputs = inputs_of(600, stored)
    ratios = [feature for feature in FEATURES if feature.measure == "amount_to_mean"]
    scores = [feature for feature in FEATURES if feature.measure == "amount_z_score"]
    assert len(ratios) >= 2
    assert len(scores) >= 2
    assert {inputs[feature.name] for feature in ratios} == {3.0}
    assert {inputs[feature.name] for feature in scores} == {2.0}  # (6 - 2) / 2


@pytest.mark.parametrize(("hour", "night"), [(0, 1.0), (6, 1.0), (7, 0.0), (23, 0.0)])
def test_the_night_lasts_through_the_hour_of_six(hour: int, night: float) -> None:
    inputs = inputs_of(100, {}, None, datetime(2026, 3, 4, hour, 59, 59, tzinfo=UTC))
    assert inputs["is_night"] == night


def test_a_mean_of_nothing_gives_no_ratio() -> None:
    inputs = inputs_of(100, {"customer_amount_mean_30d": 0.0})
    assert math.isnan(inputs["amount_to_mean_30d"])
