"""Tiny tables for the tests of features, written out row by row."""

from __future__ import annotations

import math
import statistics
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from jobs.conf.settings import Settings
from jobs.core import midnight
from jobs.features.declarations import ENTITIES, VELOCITY, Entity, Feature, stored_features
from jobs.features.tables import FEATURE_TABLES
from jobs.lake.store import lake_of
from jobs.lake.tables import LABELS, TRANSACTIONS, Table

DAY = date(2026, 2, 28)


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def transaction_rows(*rows: tuple[int, str, int, int, int], file_day: date | None = None) -> pa.Table:
    """transaction_id, event_time, customer_id, terminal_id, amount_minor.

    They come in the file of their own day, or all in that of `file_day`, and are available when it ends.
    """
    return pa.Table.from_pylist(
        [
            {
                "day": moment(when).date(),
                "transaction_id": key,
                "event_time": moment(when),
                "customer_id": customer,
                "terminal_id": terminal,
                "amount_minor": amount,
                "available_at": midnight((file_day or moment(when).date()) + timedelta(days=1)),
                "file_day": file_day or moment(when).date(),
            }
            for key, when, customer, terminal, amount in rows
        ],
        schema=TRANSACTIONS.schema,
    )


def label_rows(*rows: tuple[int, str, int]) -> pa.Table:
    """transaction_id, available_at, is_fraud."""
    return pa.Table.from_pylist(
        [
            {
                "day": moment(when).date(),
                "transaction_id": key,
                "available_at": moment(when),
                "is_fraud": value,
            }
            for key, when, value in rows
        ],
        schema=LABELS.schema,
    )


def deliver(home: Settings, transactions: pa.Table) -> None:
    """Add rows to the days that they belong to, as a file with late rows does."""
    lake = lake_of(home)
    days = sorted(set(transactions["day"].to_pylist()))
    known = [lake.read(TRANSACTIONS, first=day, last=day) for day in days]
    _put(home, TRANSACTIONS, pa.concat_tables([*known, transactions]))


def put(home: Settings, transactions: pa.Table, labels: pa.Table | None = None) -> None:
    """Put rows into the lake, each into the partition of its day."""
    _put(home, TRANSACTIONS, transactions)
    if labels is not None:
        _put(home, LABELS, labels)


def put_features(home: Settings, entity: Entity, rows: list[tuple[date, int, float | None]]) -> None:
    """Rows of (day, key, value), where every feature of the entity has the value."""
    table = FEATURE_TABLES[entity]
    records = [
        {
            "day": day,
            f"{entity}_id": key,
            "as_of": pd.Timestamp(day, tz="UTC") + pd.Timedelta(days=1),
            **{feature.name: value for feature in stored_features(entity)},
        }
        for day, key, value in rows
    ]
    _put(home, table, pa.Table.from_pylist(records, schema=table.schema))


def _put(home: Settings, table: Table, rows: pa.Table) -> None:
    for day in sorted(set(rows["day"].to_pylist())):
        mask = pc.equal(rows["day"], pa.scalar(day, pa.date32()))
        lake_of(home).replace(table, rows.filter(mask), day)


Found = dict[int, dict[str, float]]


def by_hand(feature: Feature, amounts: list[float]) -> float:
    """A measure of some amounts in major units, by the book."""
    if feature.measure == "count":
        return len(amounts)
    if feature.measure == "amount_sum":
        return sum(amounts)
    if feature.measure == "amount_mean":
        return statistics.mean(amounts) if amounts else math.nan
    assert feature.measure == "amount_deviation"
    return statistics.stdev(amounts) if len(amounts) > 1 else math.nan


def brute_force(
    transactions: pd.DataFrame, labels: pd.DataFrame, as_of: pd.Timestamp, delay: int
) -> tuple[Found, Found]:
    """The batch features row by row in plain Python."""
    fraud: dict[int, int] = {}
    for label in labels.sort_values(["available_at", "is_fraud"]).itertuples():
        if label.available_at < as_of:
            fraud[int(label.transaction_id)] = int(label.is_fraud)
    found: dict[Entity, Found] = {entity: {} for entity in ENTITIES}
    for entity, features in found.items():
        for key, group in transactions.groupby(f"{entity}_id"):
            rows, values = list(group.itertuples()), features.setdefault(int(key), {})
            for feature in stored_features(entity):
                end = as_of - pd.Timedelta(days=delay * feature.delayed)
                inside = [r for r in rows if end - feature.window <= r.event_time < end]
                if feature.measure == "risk":
                    hits = sum(fraud.get(int(r.transaction_id), 0) for r in inside)
                    values[feature.name] = hits / len(inside) if inside else 0.0
                else:
                    values[feature.name] = by_hand(feature, [r.amount_minor / 100 for r in inside])
    return found["customer"], found["terminal"]


def brute_force_velocity(transactions: pd.DataFrame) -> Found:
    """The velocity features of each transaction, row by row in plain Python."""
    rows = list(transactions.itertuples())
    in_time = [r for r in rows if r.available_at.floor("D") - pd.Timedelta(days=1) <= r.event_time]
    return {
        int(row.transaction_id): {feature.name: _velocity(feature, row, in_time) for feature in VELOCITY}
        for row in rows
    }


def _velocity(feature: Feature, row: Any, in_time: list[Any]) -> float:
    keys = ("customer_id", "terminal_id") if feature.entity == "pair" else (f"{feature.entity}_id",)
    inside = [
        r
        for r in in_time
        if all(getattr(r, key) == getattr(row, key) for key in keys)
        and row.event_time - feature.window <= r.event_time < row.event_time
    ]
    newest = sorted(((r.event_time, r.amount_minor) for r in inside), reverse=True)
    if feature.measure == "is_new":
        return float(not newest)
    if feature.place or feature.measure == "seconds_since_last":
        place = feature.place or 1
        if place > len(newest):
            return math.nan
        when, amount = newest[place - 1]
        return amount / 100 if feature.measure == "amount_before" else (row.event_time - when).total_seconds()
    return by_hand(feature, [r.amount_minor / 100 for r in inside])
