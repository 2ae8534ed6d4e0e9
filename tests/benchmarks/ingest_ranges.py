"""A month as one range, beside day by day: what one process, or one Spark job, saves."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa

from jobs.backfill.recipes import recipe_of
from jobs.conf.settings import PROJECT_ROOT, Settings, load_settings
from jobs.core import days_between, midnight
from jobs.features import build
from jobs.features.tables import BUILT_TABLES
from jobs.lake.store import content_digest, lake_of
from jobs.lake.tables import LABELS, TRANSACTIONS
from jobs.registry import load_job
from tests.benchmarks.__main__ import Case
from tests.spark_server import server

FIRST = date(2026, 2, 1)
BEFORE_DAYS = 31  # features look back at the month before
SAMPLE = 3  # days whose jobs run as processes: the month is this, scaled up
CUSTOMERS, TERMINALS = 5_000, 10_000  # as in the handbook's data set
GOAL = 1 / 5  # five times as fast


def ingest_cases(days: int, rows: int) -> list[Case]:
    """A month is published day by day first, as a peer and as what the backfill is compared with.

    Day by day costs a user a process for each day and job: `sluice NAME --day …`.
    """
    month = days_between(FIRST, FIRST + timedelta(days=days - 1))
    jobs = [step.job for step in recipe_of("fraud_ingest").steps]
    with tempfile.TemporaryDirectory(prefix="bench_ingest") as folder:
        environment = {
            "SLUICE_HOME": f"{folder}/home",
            "SLUICE_SOURCE_URI": f"{folder}/source/transactions",
            "SLUICE_LABELS_URI": f"{folder}/source/labels",
            "SLUICE_FIRST_DAY": str(FIRST),
        }
        home = load_settings(environment)
        call(
            home, "simulate_source", first_day=FIRST, last_day=month[-1], destination=home.source_uri,
            labels_destination=home.labels_uri, rows_per_day=rows, customers=CUSTOMERS, terminals=TERMINALS,
        )  # fmt: skip
        sample = month[:SAMPLE]
        processes = seconds_of(
            lambda: [process(environment, job, f"--day={day}") for day in sample for job in jobs]
        )
        warm = seconds_of(lambda: [call(home, job, day=day) for day in month for job in jobs])
        before = content_digest(lake_of(home).read(TRANSACTIONS))
        staged = staged_seconds(environment, home, month)
        assert content_digest(lake_of(home).read(TRANSACTIONS)) == before
    whole = processes * len(month) / len(sample)
    what = f"ingest of {days} days of {rows:,} rows as a range"
    return [
        Case(f"{what}, beside a process for each day and job (scaled up from {len(sample)} days)", staged,
             whole, "s", f"ratio <= {GOAL:g}", staged <= GOAL * whole),
        Case(f"{what}, beside the same jobs in one warm process", staged, warm, "s", "shown", True),
    ]  # fmt: skip


def feature_cases(days: int, rows: int) -> list[Case]:
    """A month of features in one Spark job, beside a build for each day; both must leave the same rows."""
    first = FIRST + timedelta(days=BEFORE_DAYS)
    month = days_between(first, first + timedelta(days=days - 1))
    with tempfile.TemporaryDirectory(prefix="bench_ingest") as folder, server(Path(folder)) as remote:
        homes = [Path(folder) / name for name in ("range", "days", "warm")]
        together, single, warm = (
            load_settings({"SLUICE_HOME": str(home), "SLUICE_SPARK_REMOTE": remote}) for home in homes
        )
        fill(together, days_between(FIRST, month[-1]), rows)
        for other in (single, warm):
            shutil.copytree(together.lake, other.lake)
        build.run(build.Params(day=first), warm)  # a server that has just started compiles its first plans
        one_by_one = seconds_of(lambda: [build.run(build.Params(day=day), single) for day in month])
        as_range = seconds_of(lambda: build.run(build.Params(day=first, last=month[-1]), together))
        for table in BUILT_TABLES:
            found = [content_digest(lake_of(place).read(table)) for place in (together, single)]
            assert found[0] == found[1], f"{table.name} differs"
    return [
        Case(f"features of {days} days of {rows:,} rows as one Spark job, beside a job for each day",
             as_range, one_by_one, "s", f"ratio <= {GOAL:g}", as_range <= GOAL * one_by_one),
    ]  # fmt: skip


def staged_seconds(environment: dict[str, str], home: Settings, month: list[date]) -> float:
    """Wall seconds of the process that stages the month, its start and imports included."""
    asked = {"person": "bench", "at": datetime.now(UTC)}
    name = call(
        home, "plan_backfill", dag="fraud_ingest", first=month[0], last=month[-1], reason="bench", **asked
    )
    at = midnight(month[-1]).isoformat()
    return seconds_of(
        lambda: process(
            environment, "run_backfill", f"--name={name}", "--person=bench", f"--at={at}", "--execute=true"
        )
    )


def call(home: Settings, job_name: str, **arguments: object) -> str:
    """Run a job in this process; gives the partition that it names."""
    job = load_job(job_name)
    return job.run(job.Params.model_validate(arguments), home).partition


def process(environment: dict[str, str], *arguments: str) -> None:
    """Run a job as a process of its own, as a person does."""
    done = subprocess.run(
        [sys.executable, "-m", "jobs", *arguments],
        env={**os.environ, **environment}, cwd=PROJECT_ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]


def seconds_of(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def fill(place: Settings, days: list[date], rows: int) -> None:
    """Transactions, one in a hundred late by a day, and chargebacks."""
    generator = np.random.default_rng(5)
    lake = lake_of(place)
    for number, day in enumerate(days):
        moments = np.datetime64(day, "us") + generator.integers(0, 86_400_000_000, rows)
        file_day = np.datetime64(day, "D") + (generator.random(rows) < 0.01).astype("timedelta64[D]")
        table = pa.table(
            {
                "day": [day] * rows,
                "transaction_id": np.arange(rows) + number * rows,
                "event_time": moments,
                "customer_id": generator.integers(1, CUSTOMERS + 1, rows),
                "terminal_id": generator.integers(1, TERMINALS + 1, rows),
                "amount_minor": generator.integers(100, 90_000, rows),
                "available_at": (file_day + 1).astype("datetime64[us]"),
                "file_day": file_day,
            }
        )
        lake.replace(TRANSACTIONS, table.cast(TRANSACTIONS.schema), day)
        frauds = [
            {"day": day, "transaction_id": int(each), "available_at": midnight(day), "is_fraud": 1}
            for each in generator.integers(0, rows, 80) + max(number - 2, 0) * rows
        ]
        lake.replace(LABELS, pa.Table.from_pylist(frauds, LABELS.schema), day)
