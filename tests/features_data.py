"""Tiny tables for the tests of features, written out row by row."""

from __future__ import annotations

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
