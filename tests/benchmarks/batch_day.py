"""A whole day through `score_day`: tables, the join by Spark, scores, one commit. Run by bench_batch_score.

The tables are made up at the stated size and written by the project's own lake; the champion is a bundle of
the same trees that the bare scoring is measured with.
"""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from jobs.batch import score_day
from jobs.conf.settings import Settings, load_settings
from jobs.core import midnight
from jobs.features.declarations import VELOCITY_FEATURES, stored_features
from jobs.features.tables import FEATURE_TABLES, TRANSACTION_VELOCITY
from jobs.lake.store import lake_of
from jobs.lake.tables import TRANSACTIONS, Table
from tests.benchmarks.features_process import answer, timed

DAY = date(2026, 3, 2)
VERSION = "1"
CUSTOMERS, TERMINALS = 200_000, 20_000
TICK = 1  # microsecond: velocity rows are as of just before the event


def installed(home: Path, remote: str = "") -> Settings:
    """The installation of this benchmark."""
    return load_settings({"SLUICE_HOME": str(home), "SLUICE_SPARK_REMOTE": remote})


def fill(settings: Settings, rows: int) -> None:
    """A day of so many transactions, and the features that were known of it."""
    random, lake = np.random.default_rng(3), lake_of(settings)
    before = DAY - timedelta(days=1)
    for entity, table in FEATURE_TABLES.items():
        count = CUSTOMERS if entity == "customer" else TERMINALS
        columns: dict[str, Any] = {
            "day": pa.array([before] * count, pa.date32()),
            f"{entity}_id": np.arange(1, count + 1),
            "as_of": pa.array([midnight(DAY)] * count, pa.timestamp("us", "UTC")),
        }
        columns |= {each.name: random.gamma(2.0, 2.0, count) for each in stored_features(entity)}
        lake.replace(table, _shaped(table, columns), before)
    moments = np.sort(random.integers(1, 86_400_000_000, rows)) + int(midnight(DAY).timestamp() * 1e6)
    ids = {"day": pa.array([DAY] * rows, pa.date32()), "transaction_id": np.arange(1, rows + 1)}
    events = ids | {
        "event_time": pa.array(moments).cast(pa.timestamp("us", "UTC")),
        "customer_id": random.integers(1, CUSTOMERS + 1, rows),
        "terminal_id": random.integers(1, TERMINALS + 1, rows),
        "amount_minor": np.exp(random.normal(8.0, 1.2, rows)).astype(np.int64) + 1,
        "available_at": pa.array([midnight(DAY + timedelta(days=1))] * rows, pa.timestamp("us", "UTC")),
        "file_day": pa.array([DAY] * rows, pa.date32()),
    }
    lake.replace(TRANSACTIONS, _shaped(TRANSACTIONS, events), DAY)
    seen = ids | {"as_of": pa.array(moments - TICK).cast(pa.timestamp("us", "UTC"))}
    seen |= {name: random.gamma(2.0, 2.0, rows) for name in VELOCITY_FEATURES}
    lake.replace(TRANSACTION_VELOCITY, _shaped(TRANSACTION_VELOCITY, seen), DAY)


def _shaped(table: Table, columns: dict[str, Any]) -> pa.Table:
    return pa.table({field.name: pa.array(columns[field.name], field.type) for field in table.schema})


def whole(home: str, remote: str) -> dict[str, Any]:
    """Score the day once; `rows` is what the table holds afterwards."""
    settings = installed(Path(home), remote)
    receipts = []
    found = timed(
        lambda: receipts.append(score_day.run(score_day.Params(day=DAY, version=VERSION), settings))
    )
    return found | {"rows": receipts[0].rows, "chunks": receipts[0].facts["chunks"]}


if __name__ == "__main__":
    answer({"whole": whole})
