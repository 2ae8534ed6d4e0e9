"""The job `run_backfill`: runs the DAG's jobs over the planned days, into a staging area beside production.

In: a planned backfill. Out: its staged tables, and the state staged. Files are landed several at a time; jobs
that look at the days before run one day after another, all in this process, so that imports are paid once;
features are one Spark job for the range. Raw files are kept as always; the ledger of landed files is staged.
A day that is done is noted, so a run that was killed goes on where it was. What production has of these days
is noted too: where that has changed since, staging is dropped and filled again.
Errors: SluiceError or GateClosed that names the days which failed; the other days stay done.
"""

from __future__ import annotations

import json
import logging
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date
from functools import partial
from itertools import groupby
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from jobs.backfill.ledger import (
    Entry,
    Request,
    State,
    find,
    next_step,
    production_of,
    record,
    require,
    spans,
    staged_settings,
    staging_of,
    working,
)
from jobs.backfill.recipes import Pace, Rewritten, Start, Step, recipe_of, tables_of
from jobs.conf.contract import contract_of
from jobs.conf.policy import policy_of
from jobs.conf.settings import Settings
from jobs.core import GateClosed, Receipt, SluiceError, Stopwatch, days_between
from jobs.files import write_whole
from jobs.lake.ranges import range_digests, range_size, read_range
from jobs.lake.store import Lake
from jobs.registry import load_job

READS = ("backfills", "source")
WRITES = ("backfills", "staging")
NAMED_FAILURES = 3  # more are counted
LOGGER = logging.getLogger("sluice.backfill")

Digests = dict[str, dict[str, str]]  # table -> partition -> digest of its contents


class Params(Request):
    """The backfill to stage."""


@dataclass
class Work:
    """What one run of a backfill needs to know, and what went wrong so far."""

    entry: Entry
    settings: Settings  # of the staged lake
    failures: dict[date, SluiceError] = field(default_factory=dict)

    @property
    def days(self) -> list[date]:
        return days_between(self.entry.first, self.entry.last)

    def note(self, group: int, day: date) -> Path:
        """The file that says that a day is through a group of steps."""
        return self.settings.work / "done" / f"{group}-{day}.json"


def base_digests(settings: Settings, entry: Entry, versions: Mapping[str, int] | None = None) -> Digests:
    """What production has of the days, now or at these versions, as digests."""
    lake = production_of(settings)
    found: Digests = {}
    for item in tables_of(entry.dag, contract_of(settings)):
        version = versions[item.table.name] if versions else None
        within = entry.span(item)
        missing = version is not None and version < 0
        found[item.table.name] = {} if missing else range_digests(lake, item.table, *within, version)
    return found


def base_file(settings: Settings, name: str) -> Path:
    """Where a backfill notes what production had when staging began."""
    return staged_settings(settings, name).work / "base.json"


def read_base(settings: Settings, name: str) -> Digests | None:
    """What production had when staging began; None where staging has not begun."""
    try:
        return dict(json.loads(base_file(settings, name).read_text()))
    except (FileNotFoundError, json.JSONDecodeError):
        return None


def drop_staging(settings: Settings, name: str) -> None:
    """Remove what is staged, the note that it is whole first."""
    base_file(settings, name).unlink(missing_ok=True)
    staging_of(settings, name).drop()
    shutil.rmtree(staged_settings(settings, name).work, ignore_errors=True)


def prepare(settings: Settings, entry: Entry, base: Digests) -> None:
    """Take over the range in each table, from nothing or from production's rows; noted when all is there."""
    drop_staging(settings, entry.name)
    production, staged = production_of(settings), staging_of(settings, entry.name)
    for item in tables_of(entry.dag, contract_of(settings)):
        first, last = entry.span(item)
        staged.take_over(item.table, first, last, kept_rows(production, item, entry))
    write_whole(base_file(settings, entry.name), json.dumps(base))


def kept_rows(production: Lake, item: Rewritten, entry: Entry) -> pa.Table:
    """The rows that staging starts from."""
    if item.starts_from is Start.NOTHING:
        return item.table.schema.empty_table()
    rows = read_range(production, item.table, *entry.span(item)).read_all()
    if item.starts_from is Start.PRODUCTION:
        return rows
    before, after = (pa.scalar(day, pa.date32()) for day in (entry.first, entry.last))
    return rows.filter(pc.or_(pc.less(rows["file_day"], before), pc.greater(rows["file_day"], after)))


def run_steps(work: Work, progress: Progress) -> None:
    """All steps over all days; what fails is noted in `work`, and the other days go on."""
    groups = [(pace, list(steps)) for pace, steps in groupby(recipe_of(work.entry.dag).steps, _pace)]
    total = sum(1 if pace is Pace.RANGE else len(work.days) for pace, _ in groups)
    bar = progress.add_task(f"staging {work.entry.name}", total=total)
    for number, (pace, steps) in enumerate(groups):
        days = [day for day in work.days if day not in work.failures]
        if pace is Pace.RANGE:
            days = [work.entry.first] if len(days) == len(work.days) else []
        missing = [day for day in days if not work.note(number, day).exists()]
        if pace is Pace.IN_ORDER and missing:
            # what comes after a day that is done now has not seen it
            missing = [day for day in days if day >= missing[0]]
        progress.advance(bar, len(days) - len(missing))
        at_once = policy_of(work.settings).backfill.landings_at_once if pace is Pace.AT_ONCE else 1
        for _ in _each(partial(_run_day, work, number, steps), missing, at_once):
            progress.advance(bar)


def _each(do: Callable[[date], None], days: list[date], at_once: int) -> Iterator[None]:
    """Do each day, so many at a time; whoever stops in between leaves those that have not begun."""
    if at_once == 1:
        yield from map(do, days)
        return
    pool = ThreadPoolExecutor(at_once)
    try:
        yield from pool.map(do, days)
    finally:
        pool.shutdown(cancel_futures=True)


def _pace(step: Step) -> Pace:
    return step.pace


def _run_day(work: Work, group: int, steps: list[Step], day: date) -> None:
    note = work.note(group, day)
    note.unlink(missing_ok=True)
    receipts = {}
    try:
        for step in steps:
            job = load_job(step.job)
            params = job.Params.model_validate(step.arguments(day, work.entry.last))
            receipts[step.job] = job.run(params, work.settings).model_dump(mode="json")
    except SluiceError as error:
        work.failures[day] = error
        for earlier in range(group):  # what its mending changes begins with the file
            work.note(earlier, day).unlink(missing_ok=True)
        LOGGER.warning("backfill %s: %s: %s", work.entry.name, day, error)
    else:
        write_whole(note, json.dumps(receipts))


def raise_failures(work: Work) -> None:
    """Say which days failed.

    Raises:
        GateClosed: only gates were closed, so that trying again changes nothing.
        SluiceError: something else failed.
    """
    if not work.failures:
        return
    failed = sorted(work.failures.items())
    named = "; ".join(f"{day}: {error}" for day, error in failed[:NAMED_FAILURES])
    more = f"; and {len(failed) - NAMED_FAILURES} more" if len(failed) > NAMED_FAILURES else ""
    sentence = (
        f"backfill {work.entry.name}: {len(failed)} of {len(work.days)} days failed and nothing is swapped: "
        f"{named}{more}. Mend them and run it again, which keeps the days before; or plan other days"
    )
    first = failed[0][1]
    if isinstance(first, GateClosed) and all(isinstance(error, GateClosed) for _, error in failed):
        closed = GateClosed(first.verdict, sentence)
        closed.args = (sentence,)
        raise closed
    raise SluiceError(sentence)


@contextmanager
def shown_progress() -> Iterator[Progress]:
    """A progress bar on a terminal, nothing elsewhere; standard output belongs to the receipt."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, disable=not sys.stderr.isatty(), transient=True) as progress:
        yield progress


def run(params: Params, settings: Settings) -> Receipt:
    """Fill the staging area, or say what that would run."""
    watch = Stopwatch()
    lake = production_of(settings)
    with working(lake, params.name):
        entry = find(lake, params.name)
        require(entry, State.PLANNED, State.STAGED, State.VALIDATED)
        base = base_digests(settings, entry)
        fresh = read_base(settings, entry.name) == base
        done = fresh and entry.state is not State.PLANNED
        if params.execute and not done:
            if entry.state is not State.PLANNED:  # what was whole is no longer: it may end half way
                entry = record(lake, entry.then(State.PLANNED, params, evidence={}))
            work = Work(entry, staged_settings(settings, entry.name))
            if not fresh:
                prepare(settings, entry, base)
            with shown_progress() as progress:
                run_steps(work, progress)
            raise_failures(work)
            evidence = {"seconds": watch.seconds, **staged_rows(settings, entry)}
            entry = record(lake, entry.then(State.STAGED, params, evidence=evidence))
    jobs = [step.job for step in recipe_of(entry.dag).steps]
    return Receipt(
        job="run_backfill",
        table="staging",
        partition=entry.name,
        rows=sum(staged_rows(settings, entry)["rows"].values()) if entry.state is not State.PLANNED else 0,
        seconds=watch.seconds,
        facts={
            "state": entry.state.value,
            "executed": params.execute and not done,
            "days": entry.days,
            "jobs": jobs,
            "next_step": next_step(entry),
        },
    )


def staged_rows(settings: Settings, entry: Entry) -> dict[str, dict[str, int]]:
    """How many rows are staged, by table."""
    tables = [item.table for item in recipe_of(entry.dag).tables]
    staged = staging_of(settings, entry.name).staging
    within = spans(entry)
    return {"rows": {table.name: range_size(staged, table, *within[table.name])[0] for table in tables}}
