"""What each task calls, as a command line a person could type: one golden file for each DAG.

`make golden` writes them again; a reviewed diff is how a changed call gets in.
"""

from __future__ import annotations

import os
import shlex
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jinja2
import pytest

from tests.dags.test_dag_integrity import TASKS

GOLDEN = Path(__file__).parent / "golden"
TICK = datetime(2026, 2, 1, tzinfo=UTC)
REQUESTED = {
    "day": "2026-01-31",
    "reason": "monitor: PR-AUC fell",
    "start": "full",
    "payload": {"version": "7"},
}
CONTEXTS: dict[str, dict[str, Any]] = {
    "by schedule": {"logical_date": TICK, "partition_key": "2026-01-31", "events": {}},
    "by event": {"logical_date": None, "partition_key": "2026-01-31", "events": {"asset": [REQUESTED]}},
}
RECEIPT = {
    "partition": "promotion-1",
    "facts": {"days": ["2026-01-31"], "champion": "6", "version": "7"},
    "person": "ada",
    "at": "2026-02-01T09:00:00+00:00",
}
# what a person must type before such a run can start
TYPED = {"from": "2026-01-01", "to": "2026-01-31", "reason": "a corrected file"}
SCHEDULED = {
    "fraud_ingest": "by schedule",
    "fraud_labels": "by schedule",
    "fraud_features": "by event",
    "fraud_train": "by event",
    "fraud_promote": "by event",
    "fraud_roll_back": "by schedule",
    "fraud_champion": "by event",
    "fraud_monitor": "by schedule",
    "fraud_score": "by schedule",
    "fraud_backfill": "by schedule",
    "fraud_hour": "by schedule",
    "fraud_freshness": "by schedule",
    "fraud_maintain": "by schedule",
}


def command_lines(dag: Any) -> str:
    """One line for each call of a job, rendered as Airflow renders it."""
    given = CONTEXTS[SCHEDULED[dag.dag_id]]
    events = {
        name: [SimpleNamespace(extra=extra) for extra in found] for name, found in given["events"].items()
    }
    context = {
        "params": {name: TYPED.get(name) or dag.params[name] for name in dag.params},
        "partition_key": given["partition_key"],
        "logical_date": given["logical_date"],
        "triggering_asset_events": events,
        "run_id": "run-1",
        "dag_run": SimpleNamespace(triggering_user_name=None, run_after=TICK),
        "macros": SimpleNamespace(timedelta=timedelta),
        "ti": SimpleNamespace(xcom_pull=lambda task_ids: RECEIPT),
    }
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, autoescape=False)  # noqa: S701
    environment.filters["ds"] = lambda moment: moment.strftime("%Y-%m-%d")
    lines = []
    for task in dag.topological_sort():
        arguments = getattr(task, "arguments", None)
        if getattr(task, "is_mapped", False) or type(task).__name__ == "MappedOperator":
            arguments = task.partial_kwargs["arguments"]
        if arguments is None:
            continue
        rendered = {
            name: environment.from_string(value).render(context) if isinstance(value, str) else value
            for name, value in arguments.items()
        }
        options = [f"--{name.replace('_', '-')}={value}" for name, value in rendered.items() if value]
        job = getattr(task, "job", None) or task.partial_kwargs["job"]
        lines.append(f"{task.task_id}: sluice {job} {shlex.join(options)}".rstrip())
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("dag_id", TASKS)
def test_each_task_calls_what_its_golden_file_says(dag_bag: Any, dag_id: str) -> None:
    golden = GOLDEN / f"{dag_id}.txt"
    found = command_lines(dag_bag.dags[dag_id])
    if os.environ.get("WRITE_GOLDEN"):
        golden.write_text(found)
    assert golden.exists(), f"no golden file for {dag_id}: `make golden` writes it, review the diff"
    assert found == golden.read_text()


def test_no_golden_file_is_left_of_a_dag_that_is_gone() -> None:
    assert sorted(file.stem for file in GOLDEN.glob("*.txt")) == sorted(TASKS)
