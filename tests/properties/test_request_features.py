"""The law of request features: one event at a time or a whole frame, the numbers are the same."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.features.declarations import MODEL_FEATURES, STORED_FEATURES
from jobs.features.request import assemble, assemble_frame

VALUES = st.one_of(st.none(), st.floats(0, 1e6, allow_nan=False))
OFFSETS = (timedelta(0), timedelta(hours=5, minutes=30), timedelta(hours=-8))
ZONES = st.sampled_from([timezone(offset) for offset in OFFSETS])
MOMENTS = st.datetimes(datetime(2018, 1, 1), datetime(2030, 1, 1), timezones=ZONES)  # noqa: DTZ001
EVENTS = st.tuples(
    st.integers(0, 10**9),
    MOMENTS,
    st.fixed_dictionaries(dict.fromkeys(STORED_FEATURES, VALUES)),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(EVENTS, min_size=1, max_size=5))
def test_a_frame_gives_what_single_events_give(
    rows: list[tuple[int, datetime, dict[str, float | None]]],
) -> None:
    frame = pd.DataFrame([stored for _, _, stored in rows]).astype("float64")
    frame["amount_minor"] = [amount for amount, _, _ in rows]
    frame["event_time"] = pd.to_datetime([moment for _, moment, _ in rows], utc=True)
    together = assemble_frame(frame)
    assert list(together.columns) == list(MODEL_FEATURES)
    alone = np.array([assemble(*row) for row in rows])
    np.testing.assert_array_equal(together.to_numpy(), alone)


def test_an_event_worked_by_hand() -> None:
    # Saturday 2026-02-28 01:30 in UTC is Friday evening in California
    moment = datetime(2026, 2, 27, 17, 30, tzinfo=timezone(timedelta(hours=-8)))
    stored: dict[str, float | None] = dict.fromkeys(STORED_FEATURES)
    stored |= {"customer_count_30d": 4.0, "customer_amount_mean_30d": 12.5}
    inputs = dict(zip(MODEL_FEATURES, assemble(50_00, moment, stored), strict=True))
    assert inputs["amount"] == 50.0
    assert inputs["amount_to_mean_30d"] == 4.0
    assert (inputs["hour"], inputs["is_night"], inputs["is_weekend"]) == (1.0, 1.0, 1.0)
    assert (inputs["customer_missing"], inputs["terminal_missing"]) == (0.0, 1.0)
    assert math.isnan(inputs["terminal_risk_7d"])


@pytest.mark.parametrize(("hour", "night"), [(0, 1.0), (6, 1.0), (7, 0.0), (23, 0.0)])
def test_the_night_lasts_through_the_hour_of_six(hour: int, night: float) -> None:
    inputs = assemble(100, datetime(2026, 3, 4, hour, 59, 59, tzinfo=UTC), {})
    assert inputs[MODEL_FEATURES.index("is_night")] == night


def test_a_mean_of_nothing_gives_no_ratio() -> None:
    inputs = assemble(100, datetime(2026, 3, 4, tzinfo=UTC), {"customer_amount_mean_30d": 0.0})
    assert math.isnan(inputs[MODEL_FEATURES.index("amount_to_mean_30d")])
