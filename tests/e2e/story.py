"""The story that the end-to-end tests look at: the chain from the first file to a champion that answers."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx

from demo.airflow_api import Airflow
from demo.chain import Chain
from demo.mlflow_api import Registry
from demo.plan import Plan
from jobs.conf.settings import Settings
from stack.environment import ADMIN, APPROVER, password_file

ROOT = Path(__file__).parents[2]
FIRST = date(2026, 1, 1)
PLAN = Plan(
    contract="simulated",
    first=FIRST,
    backfill_last=FIRST + timedelta(days=16),
    last=FIRST + timedelta(days=19),
    broken_day=FIRST + timedelta(days=2),
    failing_day=FIRST + timedelta(days=9),
)


@dataclass
class Story:
    """What happened, and what it was seen to be while it happened."""

    settings: Settings
    airflow: Airflow
    registry: Registry
    chain: Chain
    seen: dict[str, Any] = field(default_factory=dict)


def tell(installation: Settings) -> Story:
    """Tell it once: it takes minutes."""
    airflow, approver = (
        Airflow(installation.airflow_uri, user, password_file(installation, user))
        for user in (ADMIN, APPROVER)
    )
    registry = Registry(installation.mlflow_uri, installation.model_name)
    chain = Chain(PLAN, installation.home, airflow, approver, registry, installation.scoring_uri)
    told = Story(installation, airflow, registry, chain)
    airflow.wait_for(
        "the DAGs", lambda: len(airflow.dags()) == len(list((ROOT / "dags").glob("*.py"))) or None, 120
    )
    for dag in airflow.dags():
        airflow.unpause(dag["dag_id"])
    chain.backfill()
    told.seen["states before repair"] = newest_states(airflow, "fraud_ingest")
    chain.repair_feed()
    chain.wait_features()
    told.seen["version"] = chain.train("end-to-end test")
    told.seen["gate"] = chain.gate(told.seen["version"])
    run = chain.offer(told.seen["version"])
    told.seen["seconds from alias to run"] = seconds_to_start(airflow, run)
    while airflow.run("fraud_promote", run)["state"] not in ("success", "failed"):
        chain._approve_if_asked(run)
        if chain.has_next_day():
            chain.play_day(60.0, until=lambda: chain._ended_or_asks(run))
        time.sleep(0.5)
    told.seen["promotion"] = airflow.run("fraud_promote", run)
    told.seen["state of serving"] = wait_for_champion(installation, told.seen["version"])
    told.seen["last day"] = chain.played
    score = airflow.trigger("fraud_score", {"day": str(chain.played)})
    told.seen["score"] = airflow.wait_run("fraud_score", score)["state"]
    return told


def seconds_to_start(airflow: Airflow, promotion: str) -> float:
    """From the end of the task that set the alias until the promotion was queued."""
    [offered] = airflow.tasks("fraud_train", task_id="offer_version")
    moments = offered["end_date"], airflow.run("fraud_promote", promotion)["queued_at"]
    ended, queued = (datetime.fromisoformat(moment) for moment in moments)
    return (queued - ended).total_seconds()


def newest_states(airflow: Airflow, dag: str) -> dict[str, str]:
    return {run["partition_key"]: run["state"] for run in airflow.runs(dag)}


def wait_for_champion(ours: Settings, version: str) -> dict[str, Any]:
    deadline = time.monotonic() + 5.0
    while True:
        state = dict(httpx.get(f"{ours.scoring_uri}/state").json())
        if state["champion"] == version or time.monotonic() > deadline:
            return state
        time.sleep(0.1)


def days(first: int, last: int) -> list[str]:
    return [str(FIRST + timedelta(days=number)) for number in range(first, last + 1)]
