"""What happens when a task has failed or is held up, or a run was cut off: an alert of the installation."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from jobs.alerts import Alert, raise_alerts
from jobs.conf.contract import contract_of
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


def take_back_what_was_cut_off(context: Context) -> None:
    """Alert, and take the version back, where Airflow ended the run of a promotion for taking too long.

    Airflow skips all tasks of such a run, the one that takes back as well. It calls this once, in the DAG
    processor: the alert comes first. A run that failed otherwise has taken back by its own task.
    """
    if context.get("reason") != "timed_out":
        return
    from jobs.promotion.roll_back import running_promotion
    from plugins.operators import call_job

    dag, run = context["dag"].dag_id, context["run_id"]
    cause = f"run {run} of {dag} took too long and was ended by Airflow"
    alert = Alert(
        key=f"promotion-cut-off/{dag}/{run}",
        cause=f"{cause}: its version is taken back",
        owner=contract_of(settings()).owner,
        action="see that no challenger has traffic, else `sluice roll_back`; find out what held it",
    )
    try:
        raise_alerts(settings(), [alert])
    except Exception:  # customers must not keep the version for want of a line
        log.exception("the alert %s was not recorded", alert.key)
    if running := running_promotion(settings()):
        call_job("roll_back", {**running, "reason": cause})


def _alert(context: Context, kind: str, what: str, trouble: object, action: str) -> Alert:
    """What happened to the context's task, under a key of its own for each kind, task and run."""
    task, run = context["task"], context["dag_run"].run_id
    return Alert(
        key=f"{kind}/{task.dag_id}/{task.task_id}/{run}",
        cause=f"{task.dag_id}.{task.task_id} {what} in run {run}: {trouble}",
        owner=task.owner,
        action=action,
    )
