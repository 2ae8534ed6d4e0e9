"""Forty-five days of made-up tables to make training frames of."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import numpy as np
import pyarrow as pa

from jobs.conf.settings import Settings
from jobs.core import midnight
from jobs.features.declarations import VELOCITY_FEATURES, stored_features
from jobs.features.tables import FEATURE_TABLES, TRANSACTION_VELOCITY
from jobs.lake.store import lake_of
from jobs.lake.tables import LABELS, LANDED_FILES, MERGED_LABELS, TRANSACTIONS

TICK = timedelta(microseconds=1)
FIRST, DAYS, PER_DAY, PEOPLE = date(2026, 1, 1), 45, 40, 300
LAST = FIRST + timedelta(days=DAYS - 1)


def put(settings: Settings, table: object, rows: list[dict[str, object]], day: date) -> None:
    schema = table.schema  # type: ignore[attr-defined]
    lake_of(settings).replace(table, pa.Table.from_pylist(rows, schema=schema), day)  # type: ignore[arg-type]


def fill(settings: Settings) -> None:
    """45 days of transactions, features of each day, and chargebacks two days later."""
    generator = np.random.default_rng(0)
    number = 0
    for offset in range(DAYS):
        day = FIRST + timedelta(days=offset)
        rows, frauds = [], []
        for _ in range(PER_DAY):
            number += 1
            moment = datetime(day.year, day.month, day.day, int(generator.integers(0, 24)), 30, tzinfo=UTC)
            person = int(generator.integers(1, PEOPLE + 1))
            amount = int(generator.integers(100, 90_000))
            rows.append(
                {"day": day, "transaction_id": number, "event_time": moment, "customer_id": person}
                | {"terminal_id": person, "amount_minor": amount}
                | {"available_at": midnight(day + timedelta(days=1)), "file_day": day}
            )
            if generator.random() < 0.02 + 0.3 * (amount > 60_000):
                frauds.append(number)
        put(settings, TRANSACTIONS, rows, day)
        seen = [
            {"day": day, "transaction_id": row["transaction_id"], "as_of": row["event_time"] - TICK}
            | {name: float(generator.gamma(2.0)) for name in VELOCITY_FEATURES}
            for row in rows
        ]
        put(settings, TRANSACTION_VELOCITY, seen, day)
        for entity, table in FEATURE_TABLES.items():
            names = [feature.name for feature in stored_features(entity)]
            as_of = midnight(day + timedelta(days=1))
            put(
                settings,
                table,
                [
                    {"day": day, f"{entity}_id": person, "as_of": as_of}
                    | {name: float(generator.gamma(2.0)) for name in names}
                    for person in range(1, PEOPLE)  # the last one has no history
                ],
                day,
            )
        known = day + timedelta(days=2)
        chargebacks = [
            {"day": known, "transaction_id": fraud, "available_at": midnight(known), "is_fraud": 1}
            for fraud in frauds
        ]
        put(settings, LABELS, chargebacks, known)
        empty = {"int32": 0, "int64": 0, "string": ""}
        file: dict[str, object] = {field.name: empty.get(str(field.type)) for field in LANDED_FILES.schema}
        put(settings, LANDED_FILES, [file | {"day": known, "feed": "labels", "digest": "a"}], known)
        put(settings, MERGED_LABELS, [{"day": known, "digest": "a", "rows": len(frauds)}], known)
