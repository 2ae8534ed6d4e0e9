"""Stages of the chain and of a backfill, each killed at random moments and run again.

In: a folder, a stage, a seed. Out: for each kill whether a write was open, and what was wrong afterwards.
A fifth of the moments are drawn over the stage's measured duration; the others fall up to a millisecond after
one of its files was begun, since the writes are short beside the reading and checking.
"""

from __future__ import annotations

import os
import random
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

from jobs.conf.settings import Settings, load_settings
from tests.data_support import DAY, good_row, put_labels, put_transactions
from tests.faults.children import DONE, Answer, Call, start_job
from tests.faults.state import State, contents, leftovers, staged
from tests.faults.watch import Beginnings, beginning

ROWS = 3_000
NEXT = DAY + timedelta(days=1)
WHO = {"person": "ada", "at": "2026-03-01T12:00:00Z"}
REASON = "the sender corrected two days"
BACKFILL = {"name": f"ingest-{DAY:%Y%m%d}-{NEXT:%Y%m%d}-1", "execute": "true", **WHO}
ACCEPTED = {**BACKFILL, "accept_differences": REASON}


class Stage(NamedTuple):
    """A job to be killed; it finds the world as the stages above it and `before` have left it."""

    job: str
    arguments: dict[str, str]
    before: Callable[[Settings], None] = lambda settings: None


def corrected(settings: Settings) -> None:
    """The source sends a day again and the next one for the first time; both are planned."""
    deliver(settings, first=3)
    put_transactions(settings, [good_row(10_000 + number, NEXT) for number in range(500)], NEXT)
    days = {"first": str(DAY), "last": str(NEXT)}
    undisturbed("plan_backfill", settings, {"dag": "fraud_ingest", "reason": REASON, **days, **WHO})


def validated(settings: Settings) -> None:
    undisturbed("validate_backfill", settings, ACCEPTED)


CHAIN = {
    "land_transactions": DAY,
    "validate_transactions": DAY,
    "quarantine_transactions": DAY,
    "publish_transactions": DAY,
    "land_labels": NEXT,
    "validate_labels": NEXT,
    "merge_labels": NEXT,
}  # job -> the day it runs for
STAGES = {
    **{job: Stage(job, {"day": str(day)}) for job, day in CHAIN.items()},
    "run_backfill": Stage("run_backfill", BACKFILL, corrected),
    "swap_backfill": Stage("swap_backfill", ACCEPTED, validated),
    "swap_backfill, reverse": Stage("swap_backfill", {**BACKFILL, "reverse": "true"}),
}
FILLS_STAGING = "run_backfill"
AIMED_SECONDS = 0.001
UNIFORM_SHARE = 0.2


class Kill(NamedTuple):
    """One kill and what came of it."""

    stage: str
    too_late: bool  # the stage was done by then
    was_open: bool  # a write was under way
    problems: tuple[str, ...]


class Prepared(NamedTuple):
    """A stage ready to be killed: the installation before it, and both states of the tables."""

    settings: Settings
    base: Path
    before: State
    after: State
    staged: State  # afterwards
    unnamed: set[str]  # files that no table names before or afterwards
    seconds: float
    files: int  # that are begun on the way


def installation(folder: Path) -> Settings:
    """An installation whose tables hold a first version of a day and of its chargebacks."""
    settings = load_settings(
        {
            "SLUICE_HOME": str(folder / "home"),
            "SLUICE_SOURCE_URI": str(folder / "source" / "transactions"),
            "SLUICE_LABELS_URI": str(folder / "source" / "labels"),
        }
    )
    deliver(settings, first=1)
    for stage in CHAIN:
        run(stage, settings)
    return settings


def deliver(settings: Settings, first: int) -> None:
    """Both feeds' files, with a row that goes into quarantine; another `first` makes other rows."""
    rows = [good_row(number) for number in range(first, first + ROWS)]
    put_transactions(settings, [*rows, good_row(first), f"{ROWS + first},soon,1,3,2.00"])
    reports = [f"{first + number},{NEXT}T09:00:00Z,1" for number in range(200)]
    put_labels(settings, [*reports, f"999,{NEXT}T10:00:00Z,{first + 6}"], NEXT)


def prepare(folder: Path, stages: tuple[str, ...] = tuple(STAGES)) -> Iterator[tuple[str, Prepared]]:
    """Each of these stages of the second version, in order, as it is about to be run."""
    settings = installation(folder)
    deliver(settings, first=2)
    base, done = folder / "base", folder / "done"
    last = [*STAGES].index(stages[-1])
    for stage in [*STAGES][: last + 1]:
        STAGES[stage].before(settings)
        if stage not in stages:
            run(stage, settings)
            continue
        restore(settings.home, base)
        before, unnamed = contents(settings), _leftovers(stage, settings)
        start = time.perf_counter()
        with watched(settings) as beginnings:
            call = begin(stage, settings)
            seen = beginnings.wait(call.process.sentinel)
        answer, seconds = call.wait(), time.perf_counter() - start
        assert answer.outcome == DONE, answer.text
        unnamed |= _leftovers(stage, settings)
        after = contents(settings)
        assert after != before, f"{stage} changes nothing: kills would show nothing"
        restore(settings.home, done)
        yield stage, Prepared(settings, base, before, after, staged(settings), unnamed, seconds, seen)
        restore(done, settings.home)


def restore(base: Path, home: Path) -> None:
    """An installation as it was, as a copy."""
    shutil.rmtree(home, ignore_errors=True)
    shutil.copytree(base, home)


def begin(stage: str, settings: Settings) -> Call:
    return start_job(STAGES[stage].job, settings, STAGES[stage].arguments)


def run(stage: str, settings: Settings) -> Answer:
    """Run a stage undisturbed."""
    return undisturbed(STAGES[stage].job, settings, STAGES[stage].arguments)


def undisturbed(job: str, settings: Settings, arguments: dict[str, str]) -> Answer:
    answer = start_job(job, settings, arguments).wait()
    assert answer.outcome == DONE, answer.text
    return answer


def watched(settings: Settings) -> AbstractContextManager[Beginnings]:
    """The files that are begun in lake, raw and work."""
    return beginning(Path(settings.lake), settings.raw, settings.work)


@contextmanager
def on_one_core() -> Iterator[set[int]]:
    """Stay on one core: a notice that wakes us there halts whoever is at work on it at once."""
    cores = os.sched_getaffinity(0)
    one = {max(cores)}
    os.sched_setaffinity(0, one)
    try:
        yield one
    finally:
        os.sched_setaffinity(0, cores)


def _leftovers(stage: str, settings: Settings) -> set[str]:
    return leftovers(settings, staging=stage == FILLS_STAGING)


def kill(stage: str, ready: Prepared, chance: random.Random) -> Kill:
    """Run a stage, kill it with SIGKILL, look at what it left, and run it again."""
    settings = ready.settings
    restore(ready.base, settings.home)
    with watched(settings) as beginnings, on_one_core() as core:
        call = begin(stage, settings)
        os.sched_setaffinity(call.process.pid or 0, core)
        if chance.random() < UNIFORM_SHARE:
            call.process.join(chance.uniform(0, ready.seconds))
        else:
            beginnings.wait(call.process.sentinel, wanted=chance.randint(1, max(ready.files, 1)))
            time.sleep(chance.uniform(0, AIMED_SECONDS))
        call.process.kill()
    call.process.join()
    too_late = call.process.exitcode == 0
    left = _leftovers(stage, settings) - ready.unnamed
    problems = neither_nor(contents(settings), ready)
    again = begin(stage, settings).wait()
    if again.outcome != DONE:
        problems.append(f"the re-run: {again.text}")
    problems += differences(ready.after | ready.staged, contents(settings) | staged(settings))
    return Kill(stage, too_late, bool(left) and not too_late, tuple(problems))


def neither_nor(found: State, ready: Prepared) -> list[str]:
    """What is neither as it was nor as it becomes."""
    return [
        f"{name} is neither the old version nor the new one"
        for name in sorted(found.keys() | ready.before.keys() | ready.after.keys())
        if found.get(name) not in (ready.before.get(name), ready.after.get(name))
    ]


def differences(wanted: State, found: State) -> list[str]:
    """What differs from an undisturbed run."""
    return [
        f"{name}: after the re-run it differs from an undisturbed run"
        for name in sorted(wanted.keys() | found.keys())
        if wanted.get(name) != found.get(name)
    ]
