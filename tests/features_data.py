"""Tiny tables for the tests of features, written out row by row."""

from __future__ import annotations

import math
from datetime import UTC, date, datetime, timedelta

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from jobs.conf.settings import Settings
from jobs.core import midnight
from jobs.features.declarations import Entity, stored_features
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


def brute_force(
    transactions: pd.DataFrame, labels: pd.DataFrame, as_of: pd.Timestamp, delay: int
) -> tuple[Found, Found]:
    """The features row by row in plain Python."""
    fraud: dict[int, int] = {}
    for label in labels.sort_values(["available_at", "is_fraud"]).itertuples():
        if label.available_at < as_of:
            fraud[int(label.transaction_id)] = int(label.is_fraud)
    customers: Found = {}
    terminals: Found = {}
    for days in (1, 7, 30):
        width = pd.Timedelta(days=days)
        late = as_of - pd.Timedelta(days=delay)
        for key, rows in transactions.groupby("customer_id"):
            inside = [r for r in rows.itertuples() if as_of - width <= r.event_time < as_of]
            amounts = [r.amount_minor / 100 for r in inside]
            found = customers.setdefault(int(key), {})
            found[f"customer_count_{days}d"] = len(inside)
            found[f"customer_amount_mean_{days}d"] = sum(amounts) / len(amounts) if amounts else math.nan
        for key, rows in transactions.groupby("terminal_id"):
            inside = [r for r in rows.itertuples() if as_of - width <= r.event_time < as_of]
            ripe = [r for r in rows.itertuples() if late - width <= r.event_time < late]
            found = terminals.setdefault(int(key), {})
            found[f"terminal_count_{days}d"] = len(inside)
            hits = sum(fraud.get(int(r.transaction_id), 0) for r in ripe)
            found[f"terminal_risk_{days}d"] = hits / len(ripe) if ripe else 0.0
    return customers, terminals
