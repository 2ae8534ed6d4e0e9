"""What all DAGs share."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from airflow.sdk import Param

from jobs.conf.contract import contract_of
from jobs.conf.policy import Policy
from jobs.conf.settings import settings
from jobs.core import midnight
from plugins.callbacks import report_failure


def optional_text(title: str, description: str, **bounds: Any) -> Param:
    """A parameter that may stay empty; an empty text would not be taken by a form."""
    return Param(None, type=["null", "string"], title=title, description=description, **bounds)


DAY_PARAM = optional_text("Day", "UTC day as YYYY-MM-DD; empty: the run's own day", format="date")
AS_OF_PARAM = optional_text(
    "As of", "instant to judge, as 2026-01-31T06:00:00Z; empty: the run's own", format="date-time"
)


def version_param(description: str) -> Param:
    """A version of the registered model, or none."""
    return optional_text("Version", description, pattern="^[0-9]+$")


def first_instant() -> datetime:
    """The start date of every DAG: the source's first day."""
    return midnight(settings().first_day)


def last_instant() -> datetime | None:
    """The end date of every DAG: the last day of a source that ends, else none."""
    last = settings().last_day
    return midnight(last) if last else None


RETRY_DELAY = timedelta(minutes=5)
# a bad version must be off within five minutes: its promotion cannot wait that long for a second try
PROMOTION_RETRY_DELAY = timedelta(seconds=20)


# what a promotion may not leave half done is tried for a week where only trouble keeps it from being done;
# a person hears of the first try that fails
PATIENCE: dict[str, Any] = {
    "retries": 2000,
    "max_retry_delay": timedelta(minutes=5),
    "on_retry_callback": report_failure,
}


TASK_TIMEOUT = timedelta(minutes=30)


def task_defaults(
    retry_delay: timedelta = RETRY_DELAY, task_timeout: timedelta = TASK_TIMEOUT
) -> dict[str, Any]:
    """Default arguments of a DAG's tasks."""
    return {
        "owner": contract_of(settings()).owner,
        "retries": 2,
        "retry_delay": retry_delay,
        "retry_exponential_backoff": True,
        "execution_timeout": task_timeout,
        "on_failure_callback": report_failure,
    }


WEEK = timedelta(days=7)


def promotion_time(policy: Policy) -> timedelta:
    """The longest that a promotion may take: an approval, every step, and a week in which a step is held
    for want of requests. The step that is held then ends, and its version is taken back."""
    minutes = policy.shadow.minutes + sum(step.minutes for step in policy.canary.steps)
    return timedelta(days=policy.approval.expires_days, minutes=minutes) + WEEK


def promotion_timeout(policy: Policy) -> timedelta:
    """The longest that its run may take: time to take back is left, since what Airflow cuts off by it takes
    nothing back any more."""
    return promotion_time(policy) + WEEK


def dag_defaults(
    timeout: timedelta = timedelta(hours=6),
    retry_delay: timedelta = RETRY_DELAY,
    task_timeout: timedelta = TASK_TIMEOUT,
    *,
    paused: bool = True,
) -> dict[str, Any]:
    """Keyword arguments that every DAG shares; a new one is paused until somebody wants it."""
    return {
        "start_date": first_instant(),
        "end_date": last_instant(),
        "catchup": False,
        "default_args": task_defaults(retry_delay, task_timeout),
        "dagrun_timeout": timeout,
        "is_paused_upon_creation": paused,
    }
