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
    action = "read the DAG's page: it says what its failure means and what to do"
    raise_alerts(settings(), [_alert(context, "task-failed", "failed", context.get("exception"), action)])


def report_held(context: Context, trouble: BaseException) -> None:
    """Alert the owner that a step of a promotion is held by trouble that lasts, once per step and run."""
    action = "put right what its log names; the step goes on by itself"
    alert = _alert(context, "step-held", "is held", trouble, action)
    try:
        raise_alerts(settings(), [alert])
    except Exception:  # a disk that is full holds the step as well, and must not end it
        log.exception("the alert %s was not recorded", alert.key)


def _alert(context: Context, kind: str, what: str, trouble: object, action: str) -> Alert:
    """What happened to the context's task, under a key of its own for each kind, task and run."""
    task, run = context["task"], context["dag_run"].run_id
    return Alert(
        key=f"{kind}/{task.dag_id}/{task.task_id}/{run}",
        cause=f"{task.dag_id}.{task.task_id} {what} in run {run}: {trouble}",
        owner=task.owner,
        action=action,
    )
