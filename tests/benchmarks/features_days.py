"""One more day of features by the job itself: after a short and after a long history, and beside all anew.

The transactions are made up, and written to the lake's tables many days at once and not through ingestion.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from deltalake import write_deltalake

from jobs.conf.settings import Settings, load_settings
from jobs.core import days_between, midnight
from jobs.features import build
from jobs.lake.store import conform, lake_of
from jobs.lake.tables import LABELS, TRANSACTIONS, Table
from tests.benchmarks.__main__ import Case
from tests.benchmarks.features_data import DELAY_DAYS
from tests.benchmarks.features_process import Found, Server, answer, peak_mb, run_way, spark_server

FIRST = date(2026, 1, 1)
TOGETHER = 1_500_000  # rows in one append
FRAUD_SHARE = 0.008
FLAT, CHEAPER = 1.2, 10


@contextmanager
def server_and_home() -> Iterator[tuple[Server, Path]]:
    """A Spark server, and a folder beside its own."""
    with (
        tempfile.TemporaryDirectory(prefix="bench_features") as folder,
        spark_server(Path(folder) / "spark") as server,
    ):
        yield server, Path(folder) / "home"


def small_day_cases(short: int, long: int, rows: int, times: int) -> list[Case]:
    """One more day of some rows, after a short and after a long history."""
    with server_and_home() as (server, home):
        near = one_more(home / "short", server, short, rows, times)
        far = one_more(home / "long", server, long, rows, times)
    return [
        Case(f"features of one more day of {rows:,} rows at day {long}, beside day {short}",
             far.seconds, near.seconds, "s", f"ratio <= {FLAT}", far.seconds <= FLAT * near.seconds)
    ]  # fmt: skip


def large_day_cases(long: int, large: int, times: int) -> list[Case]:
    """One more day of many rows, beside all days anew."""
    with server_and_home() as (server, home):
        fill(settings_of(home, server.remote), long, large)
        whole = build_way(home, server, 1, long, 1)
        single = build_way(home, server, long, long, times)
        memory = server.peak_mb + max(whole.peak_mb, single.peak_mb)
    more = f"features of one more day of {large:,} rows after {long - 1} days"
    return [
        Case(f"{more}, beside all {long} anew", single.seconds, whole.seconds, "s",
             f"ratio <= {1 / CHEAPER}", CHEAPER * single.seconds <= whole.seconds),
        Case(f"memory of all {long} days of {large:,} rows in one job", memory, None, "MB", "shown", True),
    ]  # fmt: skip


def one_more(home: Path, server: Server, days: int, rows: int, times: int) -> Found:
    """The last of some days, after those before it have been built."""
    fill(settings_of(home, server.remote), days, rows)
    build_way(home, server, 1, days - 1, 1)
    return build_way(home, server, days, days, times)


def build_way(home: Path, server: Server, first: int, last: int, times: int) -> Found:
    """The job over the days of these numbers, the first is 1, in a process of its own."""
    asked = [str(FIRST + timedelta(days=number - 1)) for number in (first, last)]
    return run_way(
        "features_days",
        "ours",
        scratch=home,
        remote=server.remote,
        first=asked[0],
        last=asked[1],
        times=times,
    )


def ours(scratch: Path, remote: str, first: str, last: str, times: int) -> dict[str, Any]:
    """The best of some runs, after a day that was not counted."""
    settings = settings_of(scratch, remote)
    build.run(build.Params.model_validate({"day": first}), settings)
    params = build.Params.model_validate({"day": first, "last": last})
    found = []
    for _ in range(times):
        start, cpu = time.perf_counter(), time.process_time()
        receipt = build.run(params, settings)
        found.append((time.perf_counter() - start, time.process_time() - cpu))
    seconds, cpu = min(found)
    return {"seconds": seconds, "cpu": cpu, "peak_mb": peak_mb(), "rows": receipt.rows}


def settings_of(home: Path, remote: str) -> Settings:
    return load_settings({"SLUICE_HOME": str(home), "SLUICE_SPARK_REMOTE": remote})


def fill(settings: Settings, days: int, rows: int) -> None:
    """Transactions and chargebacks of a number of days; entities in proportion, as in the handbook."""
    dates = days_between(FIRST, FIRST + timedelta(days=days - 1))
    step = max(1, TOGETHER // rows)
    random = np.random.default_rng(11)
    for start in range(0, days, step):
        parts = [
            _transactions(day, start + number, rows, random)
            for number, day in enumerate(dates[start : start + step])
        ]
        _append(settings, TRANSACTIONS, pa.concat_tables(parts))
    frauds = max(1, int(rows * FRAUD_SHARE))
    labels = [
        _labels(day + timedelta(days=DELAY_DAYS), random.choice(rows, frauds, replace=False) + number * rows)
        for number, day in enumerate(dates[:-DELAY_DAYS])
    ]
    _append(settings, LABELS, pa.concat_tables(labels))


def _append(settings: Settings, table: Table, rows: pa.Table) -> None:
    write_deltalake(lake_of(settings).made(table), conform(table, rows), mode="append")


def _transactions(day: date, number: int, rows: int, random: np.random.Generator) -> pa.Table:
    customers, terminals = max(1, rows // 2), rows
    seconds = np.sort(random.integers(0, 86_400, rows))
    return pa.table(
        {
            "day": pa.array([day] * rows, pa.date32()),
            "transaction_id": np.arange(rows) + number * rows,
            "event_time": pa.array(seconds * 1_000_000 + _microseconds(day), pa.timestamp("us", "UTC")),
            "customer_id": random.integers(1, customers + 1, rows),
            "terminal_id": random.integers(1, terminals + 1, rows),
            "amount_minor": np.clip(random.lognormal(8.0, 0.8, rows), 50, 1_500_000).astype(np.int64),
            "available_at": pa.array([_microseconds(day, 1)] * rows, pa.timestamp("us", "UTC")),
            "file_day": pa.array([day] * rows, pa.date32()),
        }
    )


def _labels(day: date, transactions: np.ndarray) -> pa.Table:
    count = len(transactions)
    return pa.table(
        {
            "day": pa.array([day] * count, pa.date32()),
            "transaction_id": transactions,
            "available_at": pa.array([_microseconds(day)] * count, pa.timestamp("us", "UTC")),
            "is_fraud": pa.array([1] * count, pa.int8()),
        }
    )


def _microseconds(day: date, later: int = 0) -> int:
    return int(midnight(day + timedelta(days=later)).timestamp()) * 1_000_000


if __name__ == "__main__":
    answer({"ours": ours})
