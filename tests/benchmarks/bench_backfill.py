"""One month backfilled as a range, beside day by day: what one process, or one Spark job, saves."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from jobs.backfill.recipes import recipe_of
from jobs.conf.settings import PROJECT_ROOT, Settings, load_settings
from jobs.core import days_between, midnight
from jobs.lake.store import content_digest, lake_of
from jobs.lake.tables import TRANSACTIONS
from jobs.registry import load_job
from tests.benchmarks.__main__ import Case
from tests.installation import free_port

FIRST, LAST = date(2026, 2, 1), date(2026, 2, 28)
BEFORE = FIRST - timedelta(days=31)  # features of the month look back at it
SAMPLE = 3  # days whose jobs run as processes: the month is this, scaled up
ROWS = 10_000
GOAL = 1 / 5


def run() -> list[Case]:
    """Both DAGs. A ratio of a fifth is five times as fast."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {
            "SLUICE_HOME": f"{folder}/home",
            "SLUICE_SOURCE_URI": f"{folder}/source/transactions",
            "SLUICE_LABELS_URI": f"{folder}/source/labels",
            "SLUICE_SPARK_REMOTE": f"sc://127.0.0.1:{free_port()}",
            "SLUICE_FIRST_DAY": str(BEFORE),
        }
        home = load_settings(environment)
        call(
            home, "simulate_source", first_day=BEFORE, last_day=LAST, destination=home.source_uri,
            labels_destination=home.labels_uri, rows_per_day=ROWS, customers=5000, terminals=1000,
        )  # fmt: skip
        return [*ingest_cases(environment, home), *feature_cases(environment, home)]


def ingest_cases(environment: dict[str, str], home: Settings) -> list[Case]:
    """The month is published day by day first, as a peer and as what the backfill is compared with."""
    days = days_between(FIRST, LAST)
    steps = [step.job for step in recipe_of("fraud_ingest").steps]
    processes = seconds_of(
        lambda: [process(environment, job, f"--day={day}") for day in days[:SAMPLE] for job in steps]
    )
    in_process = seconds_of(lambda: [call(home, job, day=day) for day in days for job in steps])
    before = content_digest(lake_of(home).read(TRANSACTIONS))
    staged = staged_seconds(environment, home, "fraud_ingest")
    assert content_digest(lake_of(home).read(TRANSACTIONS)) == before
    month = processes * len(days) / SAMPLE
    text = f"fraud_ingest, {len(days)} days of {ROWS:,} rows, staged as a range"
    return [
        case(f"{text}; peer: a process for each day and job (from {SAMPLE} days)", staged, month, GOAL),
        case(f"{text}; peer: the same jobs day by day in one warm process", staged, in_process, None),
    ]


def feature_cases(environment: dict[str, str], home: Settings) -> list[Case]:
    """Features of the month: one Spark job for the range, one for each day."""
    for day in days_between(BEFORE, LAST):
        for job in (*published(), "land_labels", "validate_labels", "merge_labels"):
            call(home, job, day=day)
    days = days_between(FIRST, LAST)
    steps = [step.job for step in recipe_of("fraud_features").steps]
    with spark_server(home):
        call(home, steps[0], day=BEFORE)  # a server that has just started compiles its first plans
        in_process = seconds_of(lambda: [call(home, job, day=day) for day in days for job in steps])
        processes = seconds_of(
            lambda: [process(environment, job, f"--day={day}") for day in days[-SAMPLE:] for job in steps]
        )
        staged = staged_seconds(environment, home, "fraud_features")
    month = processes * len(days) / SAMPLE
    text = f"fraud_features, {len(days)} days of {ROWS:,} rows, staged as a range"
    return [
        case(f"{text}; peer: a process for each day and job (from {SAMPLE} days)", staged, month, GOAL),
        case(f"{text}; peer: the same jobs day by day in one warm process", staged, in_process, GOAL),
    ]


def published() -> tuple[str, ...]:
    return tuple(step.job for step in recipe_of("fraud_ingest").steps)


def staged_seconds(environment: dict[str, str], home: Settings, dag: str) -> float:
    """Wall seconds of the process that stages the month, its start and imports included."""
    asked = {"person": "bench", "at": datetime.now(UTC)}
    name = call(home, "plan_backfill", dag=dag, first=FIRST, last=LAST, reason="bench", **asked)
    at = midnight(LAST).isoformat()
    return seconds_of(
        lambda: process(
            environment, "run_backfill", f"--name={name}", "--person=bench", f"--at={at}", "--execute=true"
        )
    )


def case(text: str, ours: float, peer: float, goal: float | None) -> Case:
    wanted = f"ratio ≤ {goal:.2f}" if goal else "shown"
    return Case(text, ours, peer, "s", wanted, goal is None or ours / peer <= goal)


def call(home: Settings, name: str, **arguments: object) -> str:
    """Run a job in this process; gives the partition that it names."""
    job = load_job(name)
    return job.run(job.Params.model_validate(arguments), home).partition


def process(environment: dict[str, str], *arguments: str) -> None:
    """Run a job as a process of its own, as a task does without the warm executor."""
    subprocess.run(
        [sys.executable, "-m", "jobs", *arguments],
        env={**os.environ, **environment}, cwd=PROJECT_ROOT, check=True, capture_output=True,
    )  # fmt: skip


def seconds_of(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


@contextmanager
def spark_server(home: Settings) -> Iterator[None]:
    """A Spark server of our own while the features are built."""
    from jobs.spark_server import server_command, server_environment
    from tests.spark_server import listens

    port = int(home.spark_remote.rpartition(":")[2])
    log = Path(home.home) / "spark.log"
    with log.open("w") as output:
        server = subprocess.Popen(
            server_command(home, port), env={**os.environ, **server_environment(home)}, cwd=home.home,
            stdout=output, stderr=output,
        )  # fmt: skip
    try:
        while not listens(port):
            assert server.poll() is None, log.read_text()[-500:]
            time.sleep(0.2)
        yield
    finally:
        server.terminate()
        server.wait(timeout=30)
