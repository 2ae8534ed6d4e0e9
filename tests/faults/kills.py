"""Stages of the chain, each killed at random moments and run again.

In: a folder, a stage, a seed. Out: for each kill whether a write was open, and what was wrong afterwards.
A fifth of the moments are drawn over the stage's measured duration; the others fall up to a millisecond after
a first file appeared, since the writes are short beside the reading and checking.
"""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from statistics import median
from typing import NamedTuple

from jobs.conf.settings import Settings, load_settings
from tests.data_support import DAY, good_row, good_rows, put_labels, put_transactions
from tests.faults.children import DONE, Answer, start_job
from tests.faults.state import State, contents, fingerprint, leftovers

ROWS = 3_000
NEXT = DAY + timedelta(days=1)
# stage -> the day it runs for; each finds the world as the stages above it have left it
CHAIN = {
    "land_transactions": DAY,
    "validate_transactions": DAY,
    "quarantine_transactions": DAY,
    "publish_transactions": DAY,
    "land_labels": NEXT,
    "validate_labels": NEXT,
    "merge_labels": NEXT,
}
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
    seconds: float


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
    put_transactions(settings, [*good_rows(ROWS), good_row(first), f"{ROWS + first},soon,1,3,2.00"])
    reports = [f"{first + number},{NEXT}T09:00:00Z,1" for number in range(200)]
    put_labels(settings, [*reports, f"999,{NEXT}T10:00:00Z,{first + 6}"], NEXT)


def prepare(folder: Path) -> Iterator[tuple[str, Prepared]]:
    """Each stage of the second version, in order, as it is about to be run."""
    settings = installation(folder)
    deliver(settings, first=2)
    for stage in CHAIN:
        base = folder / "base"
        shutil.rmtree(base, ignore_errors=True)
        shutil.copytree(settings.home, base)
        before, seconds = contents(settings), []
        for _ in range(3):
            restore(base, settings.home)
            start = time.perf_counter()
            run(stage, settings)
            seconds.append(time.perf_counter() - start)
        after = contents(settings)
        yield stage, Prepared(settings, base, before, after, median(seconds))
        restore(base, settings.home)
        run(stage, settings)


def restore(base: Path, home: Path) -> None:
    """The installation as it was."""
    shutil.rmtree(home)
    shutil.copytree(base, home)


def run(stage: str, settings: Settings) -> Answer:
    """Run a stage undisturbed."""
    answer = start_job(stage, settings, day=str(CHAIN[stage])).wait()
    assert answer.outcome == DONE, answer.text
    return answer


def kill(stage: str, ready: Prepared, chance: random.Random) -> Kill:
    """Run a stage, kill it with SIGKILL, look at what it left, and run it again."""
    settings = ready.settings
    restore(ready.base, settings.home)
    untouched = fingerprint(settings)
    call = start_job(stage, settings, day=str(CHAIN[stage]))
    if chance.random() < UNIFORM_SHARE:
        call.process.join(chance.uniform(0, ready.seconds))
    else:
        while call.process.is_alive() and fingerprint(settings) == untouched:
            pass
        time.sleep(chance.uniform(0, AIMED_SECONDS))
    call.process.kill()
    call.process.join()
    too_late = call.process.exitcode == 0
    left, found = leftovers(settings), contents(settings)
    problems = [
        f"{name} is neither the old version nor the new one"
        for name in sorted(ready.before.keys() | ready.after.keys())
        if found.get(name) not in (ready.before.get(name), ready.after.get(name))
    ]
    changed = {name for name in ready.after if ready.before.get(name) != ready.after[name]}
    done = {name for name in changed if found.get(name) == ready.after[name]}
    again = start_job(stage, settings, day=str(CHAIN[stage])).wait()
    if again.outcome != DONE:
        problems.append(f"the re-run: {again.text}")
    elif (finally_ := contents(settings)) != ready.after:
        wrong = sorted(name for name in ready.after if finally_.get(name) != ready.after[name])
        problems.append(f"after the re-run these differ from an undisturbed run: {', '.join(wrong)}")
    was_open = not too_late and (bool(left) or bool(done and done != changed))
    return Kill(stage, too_late, was_open, tuple(problems))
