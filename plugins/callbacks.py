"""What happens when a task has failed for good: one line in the alerts of the installation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jobs.alerts import Alert, raise_alerts
from jobs.conf.settings import settings

if TYPE_CHECKING:
    from airflow.sdk import Context


def report_failure(context: Context) -> None:
    """Alert the owner that a task failed, once per task and run."""
    task = context["task"]
    run = context["dag_run"].run_id
    alert = Alert(
        key=f"task-failed/{task.dag_id}/{task.task_id}/{run}",
        cause=f"{task.dag_id}.{task.task_id} failed in run {run}: {context.get('exception')}",
        owner=task.owner,
        action="read the DAG's page: it says what its failure means and what to do",
    )
    raise_alerts(settings(), [alert])
