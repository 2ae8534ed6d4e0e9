"""Velocity features of an event by going through a plain list of everything before it."""

from __future__ import annotations

import math
import statistics
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest

from jobs.features.declarations import VELOCITY, VELOCITY_FEATURES
from jobs.features.velocity_store import Event

NOON = datetime(2026, 3, 4, 12, tzinfo=UTC)


def event(
    number: int, ago: timedelta, customer: int = 1, terminal: int = 10, amount_minor: int = 1000
) -> Event:
    """An event so long before noon."""
    return Event(number, NOON - ago, customer, terminal, amount_minor)


def named(values: list[float]) -> dict[str, float]:
    return dict(zip(VELOCITY_FEATURES, values, strict=True))


def table_of(events: list[Event]) -> pa.Table:
    return pa.table(
        {
            "transaction_id": pa.array([each.transaction_id for each in events], pa.int64()),
            "event_time": pa.array([each.event_time for each in events], pa.timestamp("us", "UTC")),
            "customer_id": pa.array([each.customer_id for each in events], pa.int64()),
            "terminal_id": pa.array([each.terminal_id for each in events], pa.int64()),
            "amount_minor": pa.array([each.amount_minor for each in events], pa.int64()),
        }
    )


def expected_of(asked: Event, past: list[Event]) -> list[float]:
    """The features of an event by going through everything that was recorded."""
    values = []
    for feature in VELOCITY:
        inside = [
            each
            for each in past
            if asked.event_time - feature.window <= each.event_time < asked.event_time
            and (feature.entity == "terminal" or each.customer_id == asked.customer_id)
            and (feature.entity == "customer" or each.terminal_id == asked.terminal_id)
        ]
        amounts = [each.amount_minor / 100 for each in inside]
        newest = sorted(((each.event_time, each.amount_minor / 100) for each in inside), reverse=True)
        turn = newest[feature.place - 1] if 0 < feature.place <= len(newest) else None
        values.append(
            {
                "count": lambda inside=inside: float(len(inside)),
                "amount_sum": lambda amounts=amounts: math.fsum(amounts),
                "amount_mean": lambda amounts=amounts: statistics.fmean(amounts) if amounts else math.nan,
                "amount_deviation": lambda amounts=amounts: (
                    statistics.stdev(amounts) if len(amounts) > 1 else math.nan
                ),
                "seconds_since_last": lambda inside=inside: (
                    (asked.event_time - max(each.event_time for each in inside)) / timedelta(seconds=1)
                    if inside
                    else math.nan
                ),
                "is_new": lambda inside=inside: float(not inside),
                "amount_before": lambda turn=turn: turn[1] if turn else math.nan,
                "seconds_before": lambda turn=turn: (
                    (asked.event_time - turn[0]) / timedelta(seconds=1) if turn else math.nan
                ),
            }[feature.measure]()
        )
    return values


def agree(found: list[float], expected: list[float]) -> None:
    """Equal up to rounding; a deviation within the rounding of the squares it is the difference of."""
    largest = max((value for value in expected if value == value), default=0.0)
    for feature, ours, theirs in zip(VELOCITY, found, expected, strict=True):
        slack = 1e-6 * largest if feature.measure == "amount_deviation" else 0.0
        assert ours == pytest.approx(theirs, rel=1e-9, abs=max(slack, 1e-5), nan_ok=True), feature.name
