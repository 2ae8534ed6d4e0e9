"""Tasks as function calls, so that a DAG's body reads as composition."""

from __future__ import annotations

from typing import Any

from airflow.sdk import Asset, XComArg

from plugins.operators import JobOperator


def job(
    name: str,
    /,
    *,
    after: tuple[Any, ...] = (),
    pool: str = "default_pool",
    publishes: Asset | None = None,
    **arguments: str,
) -> XComArg:
    """A task that runs the job `name` once the receipts `after` are there; gives its own receipt."""
    operator = JobOperator(
        task_id=name, job=name, arguments=arguments, after=after, pool=pool, publishes=publishes
    )
    return XComArg(operator)


def mapped_job(
    name: str, *, over: list[dict[str, Any]], after: tuple[Any, ...], pool: str, **arguments: str
) -> XComArg:
    """A job that runs once for each element of `over`, in parallel as far as the pool allows."""
    operator = JobOperator.partial(task_id=name, job=name, arguments=arguments, after=after, pool=pool)
    return XComArg(operator.expand(mapped=over))
