"""A weekly training that is not due is skipped with all that follows it; whoever asks for one gets it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import jinja2
import pytest
from airflow.sdk.exceptions import AirflowSkipException

import jobs.registry
from jobs.core import NothingToDo
from plugins.operators import call_job
from plugins.templates import TRAINING_REASON

DRIFT = {"asset": [SimpleNamespace(extra={"reason": "monitor: PR-AUC fell"})]}


@pytest.mark.parametrize(
    ("run_type", "typed", "events", "reason"),
    [
        ("scheduled", "", {}, "weekly"),
        ("manual", "", {}, "by hand"),
        ("manual", "a new pattern", {}, "a new pattern"),
        ("asset_triggered", "", DRIFT, "monitor: PR-AUC fell"),
    ],
)
def test_a_training_knows_why_it_was_begun(
    run_type: str, typed: str, events: dict[str, Any], reason: str
) -> None:
    template = jinja2.Environment(undefined=jinja2.StrictUndefined, autoescape=False).from_string(  # noqa: S701
        TRAINING_REASON
    )
    found = template.render(
        params={"reason": typed},
        triggering_asset_events=events,
        dag_run=SimpleNamespace(run_type=run_type),
    )
    assert found == reason


def test_a_job_with_nothing_to_do_is_skipped_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(job: str, given: dict[str, Any]) -> None:
        raise NothingToDo("no weekly training as of 2026-01-07: 4 new matured rows, needed 5")

    monkeypatch.setattr(jobs.registry, "run_job", nothing)
    with pytest.raises(AirflowSkipException, match="4 new matured rows, needed 5"):
        call_job("snapshot_labels", {"day": "2026-01-07", "reason": "weekly"})


def test_nothing_runs_where_the_labels_were_skipped(dag_bag: Any) -> None:
    dag = dag_bag.dags["fraud_train"]
    assert {task.trigger_rule for task in dag.tasks} == {"all_success"}
    assert [task.task_id for task in dag.roots] == ["snapshot_labels"]


@pytest.mark.parametrize("dag_id", ["fraud_train", "fraud_promote"])
def test_only_one_training_and_one_promotion_runs_at_a_time(dag_bag: Any, dag_id: str) -> None:
    assert dag_bag.dags[dag_id].max_active_runs == 1
