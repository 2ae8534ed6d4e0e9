"""The job `plan_backfill`: reserves days of a DAG for one backfill, and says what it will cost.

In: the DAG, the first and the last day, a reason. Out: a row of `backfills` in state planned, whose name the
other jobs take; in the receipt the days, the rows and bytes that production has of them, and how long the
last backfill of this DAG took for each day.
Errors: SluiceError for a DAG that cannot be backfilled, days outside the source, or days that another open
backfill rewrites.
"""

from __future__ import annotations

from datetime import date, timedelta
from typing import Any

from pydantic import AwareDatetime, Field

from jobs.backfill.ledger import (
    Entry,
    Request,
    State,
    close_old,
    next_step,
    overlapping,
    planning,
    production_of,
    record,
    steps_of,
)
from jobs.backfill.recipes import recipe_of
from jobs.commit import code_commit
from jobs.conf.contract import contract_of
from jobs.conf.policy import policy_of
from jobs.conf.settings import Settings
from jobs.core import JobParams, Receipt, SluiceError, Stopwatch, days_between
from jobs.lake.ranges import partitions_within, range_size
from jobs.lake.store import Lake
from jobs.lake.tables import BACKFILLS

READS = ("backfills",)
WRITES = ("backfills",)


class Params(JobParams):
    """What is to be rewritten, and why."""

    dag: str = Field(description="fraud_ingest, fraud_labels or fraud_features")
    first: date = Field(description="first UTC day, as YYYY-MM-DD")
    last: date = Field(description="last UTC day, included")
    reason: str = Field(min_length=1, max_length=500, description="why these days are rewritten")
    person: str = Field(min_length=1, max_length=120, description="who asks for it")
    at: AwareDatetime = Field(description="when it was asked for, as 2026-02-01T08:00:00Z")
    continue_open: bool = Field(
        False, description="go on with an open backfill of exactly these days instead of refusing"
    )


def check_days(params: Params, settings: Settings) -> None:
    """Refuse days that no source has.

    Raises:
        SluiceError: the range is empty, or begins before the source or ends after it.
    """
    if params.first > params.last:
        raise SluiceError(f"backfill: --from {params.first} lies after --to {params.last}")
    if params.first < settings.first_day:
        raise SluiceError(
            f"backfill: --from {params.first} lies before the source's first day {settings.first_day} "
            "(SLUICE_FIRST_DAY)"
        )
    if settings.last_day and params.last > settings.last_day:
        raise SluiceError(
            f"backfill: --to {params.last} lies after the source's last day {settings.last_day} "
            "(SLUICE_LAST_DAY)"
        )


def cost(lake: Lake, entry: Entry) -> dict[str, Any]:
    """What there is of these days now, and what the last backfill of this DAG took."""
    days = len(days_between(entry.first, entry.last))
    tables = {}
    for item in recipe_of(entry.dag).tables:
        first, last = entry.span(item)
        rows, size = range_size(lake, item.table, first, last)
        there = len(partitions_within(lake, item.table, first, last))
        tables[item.table.name] = {"days": there, "rows": rows, "bytes": size}
    measured = [
        other.evidence["seconds"] / len(days_between(other.first, other.last))
        for other in sorted(steps_of(lake), key=lambda other: other.at)
        if other.state is State.STAGED and other.dag == entry.dag
    ]
    seconds = round(measured[-1] * days, 1) if measured else None
    return {"days": days, "tables": tables, "expected_seconds": seconds}


def new_name(lake: Lake, params: Params) -> str:
    """A name that no backfill has had: the DAG's stage, the days and a number."""
    stem = f"{params.dag.removeprefix('fraud_')}-{params.first:%Y%m%d}-{params.last:%Y%m%d}"
    used = {entry.name for entry in steps_of(lake)}
    number = 1
    while f"{stem}-{number}" in used:
        number += 1
    return f"{stem}-{number}"


def run(params: Params, settings: Settings) -> Receipt:
    """Reserve the days."""
    watch = Stopwatch()
    recipe_of(params.dag)
    check_days(params, settings)
    lake = production_of(settings)
    with planning(lake):
        new = Entry(
            name=new_name(lake, params),
            step=1,
            state=State.PLANNED,
            **params.model_dump(include={"dag", "first", "last", "person", "at", "reason"}),
            earliest=params.first - timedelta(days=contract_of(settings).transactions.late_days),
            code_commit=code_commit(),
        )
        other = overlapping(lake, new)
        if other is not None and not _is_this(other, params):
            raise SluiceError(
                f"backfill of {params.dag}, {params.first} to {params.last}: {other.name} ({other.dag}, "
                f"{other.days}, by {other.person}) is {other.state.value} and rewrites some of the same "
                f"days; {next_step(other)}"
            )
        entry = other or record(lake, new)
        asked = Request(name=entry.name, person=params.person, at=params.at, execute=True)
        closed = close_old(lake, asked, policy_of(settings).backfill.reversible_days)
    return Receipt(
        job="plan_backfill",
        table="backfills",
        partition=entry.name,
        version=lake.version(BACKFILLS),
        seconds=watch.seconds,
        facts={
            "state": entry.state.value,
            "is_new": other is None,
            "closed": closed,
            "next_step": next_step(entry),
            **cost(lake, entry),
        },
    )


def _is_this(entry: Entry, params: Params) -> bool:
    """Whether an open backfill is the very one that is asked for: the request came twice, or goes on."""
    same_days = (entry.dag, entry.first, entry.last) == (params.dag, params.first, params.last)
    same_request = (entry.person, entry.at, entry.reason) == (params.person, params.at, params.reason)
    return same_days and (params.continue_open or same_request)
