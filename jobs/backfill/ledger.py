"""The ledger of backfills: who rewrote which days, when and why, and how far each of them is.

In: entries. Out: rows of `backfills`, one for each step of a backfill; the last step is its state. A swap
notes what it is about to do before it does it, so that whoever comes after a killed one can finish it.
Instants are given by whoever asks; nothing here reads the clock.
Errors: SluiceError where there is no such backfill, or its state does not allow what is asked for.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, timedelta
from enum import StrEnum
from typing import Any

import pyarrow as pa
from pydantic import AwareDatetime, Field

from jobs.backfill.recipes import Rewritten, recipe_of
from jobs.conf.settings import STAGING_NAME, Settings
from jobs.core import JobParams, SluiceError, StrictModel
from jobs.lake.pins import unpin
from jobs.lake.staging import StagedLake
from jobs.lake.store import Lake, lake_of
from jobs.lake.tables import BACKFILLS


class State(StrEnum):
    """How far a backfill is."""

    PLANNED = "planned"
    STAGED = "staged"
    VALIDATED = "validated"
    SWAPPING = "swapping"
    SWAPPED = "swapped"
    REVERSING = "reversing"
    REVERSED = "reversed"
    ABORTED = "aborted"
    CLOSED = "closed"  # swapped so long ago that the replaced versions are no longer kept


OPEN = (State.PLANNED, State.STAGED, State.VALIDATED, State.SWAPPING, State.REVERSING)


class Request(JobParams):
    """Who asks for something to be done with a backfill, and when."""

    name: str = Field(pattern=STAGING_NAME, min_length=1, description="the backfill, as plan named it")
    person: str = Field(min_length=1, max_length=120, description="who asks for it")
    at: AwareDatetime = Field(description="when it was asked for, as 2026-02-01T08:00:00Z")
    execute: bool = Field(False, description="do it; otherwise only say what would be done")


class Entry(StrictModel):
    """One step of one backfill."""

    name: str
    step: int = Field(ge=1)
    state: State
    dag: str
    first: date
    last: date
    earliest: date  # late rows of these files reach back to it
    person: str
    at: AwareDatetime
    reason: str
    code_commit: str
    versions_before: dict[str, int] = Field(default_factory=dict)
    versions_after: dict[str, int] = Field(default_factory=dict)
    report: str = ""
    evidence: dict[str, Any] = Field(default_factory=dict)

    @property
    def days(self) -> str:
        return f"{self.first} to {self.last}"

    def span(self, item: Rewritten) -> tuple[str, str]:
        """The first and the last partition that it rewrites in a table."""
        return item.partitions(self.earliest if item.late else self.first, self.last)

    def then(self, state: State, request: Request, **changed: Any) -> Entry:
        """The next step: by whom, when, and what is new."""
        given = {"step": self.step + 1, "state": state, "person": request.person, "at": request.at}
        return self.model_copy(update={**given, **changed})


def production_of(settings: Settings) -> Lake:
    """The lake that everybody reads, also where the settings name a staged one."""
    return lake_of(settings.model_copy(update={"staging": ""}))


def staged_settings(settings: Settings, name: str) -> Settings:
    """The settings under which jobs work on a backfill's staged tables."""
    return settings.model_copy(update={"staging": name})


def staging_of(settings: Settings, name: str) -> StagedLake:
    """The lake as a backfill sees it."""
    return StagedLake(production_of(settings), name)


def steps_of(lake: Lake, name: str = "") -> list[Entry]:
    """Every step of one backfill, or of all, in order."""
    rows = lake.read(BACKFILLS, first=name or None, last=name or None).to_pylist()
    entries = [_entry(row) for row in rows]
    return sorted(entries, key=lambda entry: (entry.name, entry.step))


def states(lake: Lake) -> list[Entry]:
    """The last step of every backfill, the one asked for last at the end."""
    newest = {entry.name: entry for entry in steps_of(lake)}
    return sorted(newest.values(), key=lambda entry: (entry.at, entry.name))


def find(lake: Lake, name: str) -> Entry:
    """The state of a backfill.

    Raises:
        SluiceError: there is no such backfill.
    """
    steps = steps_of(lake, name)
    if not steps:
        raise SluiceError(
            f"backfill {name!r}: there is none of this name; `sluice backfill status` shows all"
        )
    return steps[-1]


def find_by_days(lake: Lake, dag: str, first: date, last: date) -> Entry:
    """The newest backfill of exactly these days, an open one before all others.

    Raises:
        SluiceError: there is none.
    """
    recipe_of(dag)
    found = [entry for entry in states(lake) if (entry.dag, entry.first, entry.last) == (dag, first, last)]
    if not found:
        raise SluiceError(
            f"backfill of {dag}, {first} to {last}: there is none; plan it first, or look for it with "
            "`sluice backfill status`"
        )
    return ([entry for entry in found if entry.state in OPEN] or found)[-1]


def require(entry: Entry, *allowed: State) -> None:
    """Refuse what the state does not allow.

    Raises:
        SluiceError: the backfill is in another state.
    """
    if entry.state not in allowed:
        raise SluiceError(f"backfill {entry.name} is {entry.state.value}: {next_step(entry)}")


def record(lake: Lake, entry: Entry) -> Entry:
    """Add a step; one commit."""
    row = entry.model_dump()
    row["state"] = entry.state.value
    for column in ("versions_before", "versions_after", "evidence"):
        row[column] = json.dumps(row[column], sort_keys=True)
    added = pa.Table.from_pylist([row], schema=BACKFILLS.schema)
    known = lake.read(BACKFILLS, first=entry.name, last=entry.name)
    lake.replace(BACKFILLS, pa.concat_tables([known, added]), entry.name)
    return entry


@contextmanager
def planning(lake: Lake) -> Iterator[None]:
    """Only one backfill is planned at a time, so that of two over the same days one is refused."""
    with lake.exclusively("backfills-planned"):
        yield


@contextmanager
def working(lake: Lake, name: str) -> Iterator[None]:
    """Only one process works on a backfill at a time; another waits and finds the work done."""
    with lake.exclusively(f"backfill-{name}"):
        yield


def overlapping(lake: Lake, new: Entry) -> Entry | None:
    """An open backfill that rewrites a partition which a new one would rewrite too."""
    wanted = spans(new)
    for entry in states(lake):
        taken = spans(entry) if entry.state in OPEN else {}
        for table in sorted(set(taken) & set(wanted)):
            if taken[table][0] <= wanted[table][1] and wanted[table][0] <= taken[table][1]:
                return entry
    return None


def spans(entry: Entry) -> dict[str, tuple[str, str]]:
    """The first and the last partition that a backfill rewrites, by table."""
    return {item.table.name: entry.span(item) for item in recipe_of(entry.dag).tables}


def close_old(lake: Lake, request: Request, reversible_days: int) -> list[str]:
    """Let go of what old swaps replaced: they cannot be taken back any more. Gives their names."""
    oldest = request.at - timedelta(days=reversible_days)
    closed = []
    for entry in states(lake):
        if entry.state is State.SWAPPED and entry.at < oldest:
            record(lake, entry.then(State.CLOSED, request))
            unpin(lake, pin_name(entry.name))
            closed.append(entry.name)
    return closed


def pin_name(name: str) -> str:
    """Under which name the replaced versions are kept."""
    return f"backfill.{name}"


def next_step(entry: Entry) -> str:
    """What a person can do now, as a command where there is one."""
    command = f"sluice backfill {{}} --name {entry.name}"
    swap = f"`{command.format('swap')} --execute`"
    abort = f"`{command.format('abort')} --execute`"
    outcome = entry.evidence.get("outcome", "")
    match entry.state:
        case State.PLANNED:
            return f"stage it with `{command.format('run')} --execute`, or give it up with {abort}"
        case State.STAGED:
            return f"compare it with production: `{command.format('validate')}`"
        case State.VALIDATED if outcome == "pass":
            return f"it passed: {swap}, or {abort}"
        case State.VALIDATED:
            return f"{outcome}: look at the report; swap it with --accept-differences REASON, or {abort}"
        case State.SWAPPING:
            return f"the swap was cut off: finish it with {swap}, or take it back with --reverse"
        case State.REVERSING:
            return (
                f"taking it back was cut off: finish it with `{command.format('swap')} --reverse --execute`"
            )
        case State.SWAPPED:
            return f"in production; take it back with `{command.format('swap')} --reverse --execute`"
        case State.REVERSED:
            return "it was taken back; plan another one"
        case State.ABORTED:
            return "it was given up; plan another one"
        case State.CLOSED:
            return "in production; the replaced versions are no longer kept"


def _entry(row: dict[str, Any]) -> Entry:
    maps = {column: json.loads(row[column]) for column in ("versions_before", "versions_after", "evidence")}
    return Entry.model_validate({**row, **maps})
