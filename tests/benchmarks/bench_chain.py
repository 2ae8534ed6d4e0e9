"""The chain under Airflow: what orchestration costs beside the jobs' own seconds."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from datetime import date, datetime, timedelta
from pathlib import Path
from statistics import median
from typing import Any

from demo.airflow_api import Airflow
from demo.chain import Chain
from demo.mlflow_api import Registry
from demo.plan import Plan
from jobs.conf.settings import Settings
from stack.environment import ADMIN, password_file
from tests.benchmarks.__main__ import Case
from tests.dags.test_dag_integrity import HEAVY, MEASURE, TASKS
from tests.installation import installed

ROOT = Path(__file__).parents[2]
FIRST = date(2026, 1, 1)
PLAN = Plan("simulated", FIRST, FIRST + timedelta(days=19), FIRST + timedelta(days=20))
CHAIN = ("fraud_ingest", "fraud_labels", "fraud_features", "fraud_train")
WARM_SESSION = """
import os, sys, time
import pyspark.sql.connect.session
from jobs.conf.settings import settings
from jobs.spark import spark_session
sys.stdout.flush()
if os.fork() == 0:
    start = time.perf_counter()
    spark_session(settings()).range(1).count()
    print(time.perf_counter() - start, flush=True)
    os._exit(0)
os.wait()
"""
FRESH_SESSION = """
import time
start = time.perf_counter()
from pyspark.sql import SparkSession
SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false").getOrCreate().range(1).count()
print(time.perf_counter() - start, flush=True)
"""


def run() -> list[Case]:
    """Every figure of the chain."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        with installed(home, PLAN, overlay="demo") as ours:
            airflow = Airflow(ours.airflow_uri, ADMIN, password_file(ours, ADMIN))
            airflow.wait_for("the DAGs", lambda: len(airflow.dags()) == len(TASKS) or None, 120)
            for dag in CHAIN:
                airflow.unpause(dag)
            registry = Registry(ours.mlflow_uri, ours.model_name)
            wall, own = chain_seconds(
                Chain(PLAN, home, airflow, airflow, registry, ours.scoring_uri), airflow
            )
            session, fresh = session_seconds(ours)
    cases = [
        Case(
            f"{len(PLAN.backfilled)} days and a training under Airflow, beside the jobs' own seconds",
            wall, own, "s", "ratio <= 1.25", wall <= 1.25 * own,
        ),
        Case(
            "Spark session in a task until its first answer, beside a session of its own",
            session, fresh, "s", "<= 1.2", session <= 1.2,
        ),
    ]  # fmt: skip
    for dag, seconds in parse_seconds().items():
        cases.append(Case(f"parse {dag}.py", seconds, None, "s", "< 0.5", seconds < 0.5))
    return cases


def chain_seconds(chain: Chain, airflow: Airflow) -> tuple[float, float]:
    """Wall seconds of backfill, features and one training, and the sum of their jobs' own seconds."""
    chain.backfill()
    chain.wait_features()
    backfilled = span(airflow, CHAIN[:3])
    chain.train("benchmark")
    wall = backfilled + span(airflow, CHAIN[3:])
    own = 0.0
    for dag in CHAIN:
        for task in airflow.tasks(dag):
            receipt = airflow.receipt(dag, task["dag_run_id"], task["task_id"], task["map_index"])
            own += float(receipt["seconds"])
    return wall, own


def span(airflow: Airflow, dags: tuple[str, ...]) -> float:
    """Seconds from the first start to the last end of the runs of some DAGs."""
    runs: list[dict[str, Any]] = [run for dag in dags for run in airflow.runs(dag)]
    starts = [datetime.fromisoformat(run["start_date"]) for run in runs]
    ends = [datetime.fromisoformat(run["end_date"]) for run in runs]
    return (max(ends) - min(starts)).total_seconds()


def session_seconds(ours: Settings, times: int = 5) -> tuple[float, float]:
    """Median seconds of a session on the warm server in a forked process, and of one started afresh."""
    return (
        median(_seconds_printed(WARM_SESSION) for _ in range(times)),
        median(_seconds_printed(FRESH_SESSION) for _ in range(2)),
    )


def parse_seconds() -> dict[str, float]:
    """Seconds that each DAG file takes in a fresh interpreter beyond Airflow's own import."""
    script = f"HEAVY = {HEAVY!r}\n{MEASURE}"
    return {
        dag: median(_seconds_printed(script, str(ROOT / "dags" / f"{dag}.py")) for _ in range(3))
        for dag in TASKS
    }


def _seconds_printed(script: str, *arguments: str) -> float:
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    command = [sys.executable, "-W", "ignore", "-c", script, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return float(done.stdout.strip().splitlines()[-1].split()[0])
