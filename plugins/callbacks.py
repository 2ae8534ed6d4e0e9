"""What happens when a task has failed, or is held up: one line in the alerts of the installation."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from jobs.alerts import Alert, raise_alerts
from jobs.conf.settings import settings

if TYPE_CHECKING:
    from airflow.sdk import Context

log = logging.getLogger(__name__)


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


def report_held(context: Context, trouble: BaseException) -> None:
    """Alert the owner that a step of a promotion is held by trouble that lasts, once per step and run."""
    task = context["task"]
    run = context["dag_run"].run_id
    alert = Alert(
        key=f"step-held/{task.dag_id}/{task.task_id}/{run}",
        cause=f"{task.dag_id}.{task.task_id} is held in run {run}: {trouble}",
        owner=task.owner,
        action="put right what its log names; the step goes on by itself",
    )
    try:
        raise_alerts(settings(), [alert])
    except Exception:  # a disk that is full holds the step as well, and must not end it
        log.exception("the alert %s was not recorded", alert.key)
