"""A month of features as one range, beside the same month day by day."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa

from jobs.conf.settings import Settings, load_settings
from jobs.core import days_between, midnight
from jobs.features import build
from jobs.features.tables import FEATURE_TABLES
from jobs.lake.store import content_digest, lake_of
from jobs.lake.tables import LABELS, TRANSACTIONS
from tests.benchmarks.__main__ import Case
from tests.spark_server import server

FIRST = date(2026, 1, 1)
MONTH = days_between(FIRST + timedelta(days=31), FIRST + timedelta(days=61))
PER_DAY, CUSTOMERS, TERMINALS = 10_000, 5_000, 10_000  # the size of the handbook's data set


def run() -> list[Case]:
    """Seconds of both ways; they must leave the same rows."""
    with tempfile.TemporaryDirectory() as folder, server(Path(folder)) as remote:
        homes = [Path(folder) / name for name in ("range", "days", "warm")]
        together, single, warm = (
            load_settings({"SLUICE_HOME": str(home), "SLUICE_SPARK_REMOTE": remote}) for home in homes
        )
        fill(together)
        for other in (single, warm):
            shutil.copytree(together.lake, other.lake)
        build.run(build.Params(day=MONTH[0]), warm)
        one_by_one = seconds(lambda: [build.run(build.Params(day=day), single) for day in MONTH])
        as_range = seconds(lambda: build.run(build.Params(day=MONTH[0], last=MONTH[-1]), together))
        for table in FEATURE_TABLES.values():
            rows = [content_digest(lake_of(place).read(table)) for place in (together, single)]
            assert rows[0] == rows[1], f"{table.name} differs"
    return [
        Case(
            f"{len(MONTH)} days of {PER_DAY:,} transactions as a range, beside day by day",
            as_range, one_by_one, "s", "ratio <= 0.2", as_range <= 0.2 * one_by_one,
        )
    ]  # fmt: skip


def fill(place: Settings) -> None:
    """Transactions up to the end of the month, one in a hundred late by a day, and chargebacks."""
    generator = np.random.default_rng(5)
    lake = lake_of(place)
    for number, day in enumerate(days_between(FIRST, MONTH[-1])):
        moments = np.datetime64(day, "us") + generator.integers(0, 86_400_000_000, PER_DAY)
        is_late = generator.random(PER_DAY) < 0.01
        file_day = np.datetime64(day, "D") + is_late.astype("timedelta64[D]")
        rows = pa.table(
            {
                "day": [day] * PER_DAY,
                "transaction_id": np.arange(PER_DAY) + number * PER_DAY,
                "event_time": moments,
                "customer_id": generator.integers(1, CUSTOMERS + 1, PER_DAY),
                "terminal_id": generator.integers(1, TERMINALS + 1, PER_DAY),
                "amount_minor": generator.integers(100, 90_000, PER_DAY),
                "available_at": (file_day + 1).astype("datetime64[us]"),
                "file_day": file_day,
            }
        )
        lake.replace(TRANSACTIONS, rows.cast(TRANSACTIONS.schema), day)
        frauds = [{"day": day, "transaction_id": int(each), "available_at": midnight(day), "is_fraud": 1}
                  for each in generator.integers(0, PER_DAY, 80) + max(number - 2, 0) * PER_DAY]  # fmt: skip
        lake.replace(LABELS, pa.Table.from_pylist(frauds, LABELS.schema), day)


def seconds(work: Callable[[], object]) -> float:
    """Wall seconds of some work."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
