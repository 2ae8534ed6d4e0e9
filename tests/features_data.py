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
from jobs.features.declarations import SEQUENCE_LENGTH, Entity, stored_features
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


def sums(prefix: str, label: str, amounts: list[float]) -> dict[str, float]:
    """Count, sum, mean and deviation of some amounts in major units, by the book."""
    return {
        f"{prefix}_count_{label}": len(amounts),
        f"{prefix}_amount_sum_{label}": sum(amounts),
        f"{prefix}_amount_mean_{label}": statistics.mean(amounts) if amounts else math.nan,
        f"{prefix}_amount_deviation_{label}": statistics.stdev(amounts) if len(amounts) > 1 else math.nan,
    }


def brute_force(
    transactions: pd.DataFrame, labels: pd.DataFrame, as_of: pd.Timestamp, delay: int
) -> tuple[Found, Found]:
    """The batch features row by row in plain Python."""
    fraud: dict[int, int] = {}
    for label in labels.sort_values(["available_at", "is_fraud"]).itertuples():
        if label.available_at < as_of:
            fraud[int(label.transaction_id)] = int(label.is_fraud)
    found: dict[str, Found] = {"customer": {}, "terminal": {}}
    for days in (1, 7, 30):
        width = pd.Timedelta(days=days)
        late = as_of - pd.Timedelta(days=delay)
        for entity, features in found.items():
            for key, rows in transactions.groupby(f"{entity}_id"):
                inside = [r for r in rows.itertuples() if as_of - width <= r.event_time < as_of]
                amounts = [r.amount_minor / 100 for r in inside]
                features.setdefault(int(key), {}).update(sums(entity, f"{days}d", amounts))
                if entity == "terminal":
                    ripe = [r for r in rows.itertuples() if late - width <= r.event_time < late]
                    hits = sum(fraud.get(int(r.transaction_id), 0) for r in ripe)
                    features[int(key)][f"terminal_risk_{days}d"] = hits / len(ripe) if ripe else 0.0
    return found["customer"], found["terminal"]


def brute_force_velocity(transactions: pd.DataFrame) -> Found:
    """The velocity features of each transaction, row by row in plain Python."""
    rows = list(transactions.itertuples())
    in_time = [r for r in rows if r.available_at.floor("D") - pd.Timedelta(days=1) <= r.event_time]
    answer: Found = {}
    for row in rows:
        mine = {
            "customer": [r for r in in_time if r.customer_id == row.customer_id],
            "terminal": [r for r in in_time if r.terminal_id == row.terminal_id],
        }
        found: dict[str, float] = {}

        def inside(which: list[Any], width: pd.Timedelta, now: pd.Timestamp = row.event_time) -> list[Any]:
            return [r for r in which if now - width <= r.event_time < now]

        for entity, events in mine.items():
            for label, minutes in (("5m", 5), ("30m", 30), ("1h", 60), ("24h", 24 * 60)):
                amounts = [r.amount_minor / 100 for r in inside(events, pd.Timedelta(minutes=minutes))]
                found |= sums(entity, label, amounts)
        for entity, label, hours in (("customer", "30d", 30 * 24), ("terminal", "24h", 24)):
            last = [r.event_time for r in inside(mine[entity], pd.Timedelta(hours=hours))]
            since = (row.event_time - max(last)).total_seconds() if last else math.nan
            found[f"{entity}_seconds_since_last_{label}"] = since
        before = inside(mine["customer"], pd.Timedelta(days=30))
        newest = sorted(((r.event_time, r.amount_minor) for r in before), reverse=True)
        for place in range(1, SEQUENCE_LENGTH + 1):
            when, amount = newest[place - 1] if place <= len(newest) else (pd.NaT, math.nan)
            found[f"customer_amount_before_{place}"] = amount / 100
            found[f"customer_seconds_before_{place}"] = (row.event_time - when).total_seconds()
        pair = [r for r in mine["customer"] if r.terminal_id == row.terminal_id]
        found["pair_is_new_30d"] = float(not inside(pair, pd.Timedelta(days=30)))
        answer[int(row.transaction_id)] = found
    return answer
