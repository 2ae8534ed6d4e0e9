"""Plays the policies of a replay beside each other, each in a process of its own.

In: the data of the replay, taken in. Out: the installation of each policy, as jobs/replay/loop.py leaves it.
As many policies play at once as this process may use cores. None reads what another writes, so each leaves
the same however many play beside it. One that fails, or whose process is killed, is told at once; the others
play on, and what it had played stays. No process outlives the one that started it.
Errors: SluiceError that names each policy that failed, once all have ended.
"""

from __future__ import annotations

import logging
import os
import threading
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, redirect_stdout
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection, Pipe

from jobs.conf.settings import Settings
from jobs.core import SluiceError, first_line
from jobs.replay import checkpoint
from jobs.replay.data import versions_after
from jobs.replay.loop import Loop
from jobs.replay.plan import Plan, PolicyUnderTest, data_settings, policy_settings

NOISY = ("mlflow", "alembic", "sluice", "jobs", "optuna", "great_expectations")
LOOK_SECONDS = 0.5
Progress = Callable[[PolicyUnderTest, int, str], None]  # policy, days that are played, what ended it


def play(config: Settings, plan: Plan, progress: Progress) -> None:
    """Every day of every policy that has not been played."""
    places = [policy_settings(config, plan, each) for each in plan.policies]
    count = min(len(places), len(os.sched_getaffinity(0)))
    theirs, ours = Pipe(duplex=False)
    with theirs, ours, ThreadPoolExecutor(count) as waiting:
        try:
            playing = [
                waiting.submit(_in_its_process, theirs, config, plan, number) for number in range(len(places))
            ]
            while wait(playing, timeout=LOOK_SECONDS).not_done:
                _tell(plan, places, playing, progress)
        except BaseException:
            ours.close()
            waiting.shutdown(wait=False, cancel_futures=True)
            raise
    _tell(plan, places, playing, progress)
    errors = [each.exception() for each in playing]
    failed = [
        f"policy {under_test.name}: {error}"
        for under_test, error in zip(plan.policies, errors, strict=True)
        if error is not None
    ]
    if failed:
        raise SluiceError(
            f"replay: {'; '.join(failed)} (whole days are kept, and the replay can be called again)"
        )


def _tell(plan: Plan, places: list[Settings], playing: list[Future[None]], progress: Progress) -> None:
    for under_test, place, each in zip(plan.policies, places, playing, strict=True):
        error = each.exception() if each.done() else None
        days = len([day for day in checkpoint.done_days(place) if day <= plan.last])
        progress(under_test, days, "" if error is None else str(error))


def _in_its_process(parent: Connection, config: Settings, plan: Plan, number: int) -> None:
    """Start a process for one policy and wait for it; a pool each, so that none breaks with another's."""
    context = get_context("spawn")
    with ProcessPoolExecutor(1, context, initializer=_end_with, initargs=(parent,)) as pool:
        try:
            pool.submit(_play, config, plan, number).result()
        except BrokenProcessPool:
            raise SluiceError(
                "its process was killed, as where memory is short: play fewer policies at once where it "
                "happens again"
            ) from None


def _play(config: Settings, plan: Plan, number: int) -> None:
    """One policy, in the process that is its own."""
    under_test = plan.policies[number]
    home = data_settings(config, plan, under_test).home
    try:
        with quiet():
            Loop(policy_settings(config, plan, under_test), plan, home, partial(versions_after, home)).play()
    except SluiceError as error:
        raise SluiceError(str(error)) from None  # whichever kind it is, this one travels
    except Exception as error:
        traceback.print_exc()  # the kinds of libraries do not all travel, and nobody expected this one
        raise SluiceError(f"{type(error).__name__}: {first_line(error)}") from None


def _end_with(parent: Connection) -> None:
    """End this process when the one that started it ends, or lets go of its end of the pipe."""

    def watch() -> None:
        parent.poll(None)
        os._exit(1)  # a day is done or not done: there is nothing to put in order

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def quiet() -> Iterator[None]:
    """What libraries say is not shown: there is a progress bar."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    for name in NOISY:
        logging.getLogger(name).setLevel(logging.ERROR)
    with redirect_stdout(_Nowhere()):
        yield


class _Nowhere:
    def write(self, text: str) -> int:
        return len(text)

    def flush(self) -> None:
        return None
