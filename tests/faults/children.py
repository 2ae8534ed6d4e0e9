"""Jobs in processes of their own that start in milliseconds.

A server process imports the jobs once and forks a child for each call, as Airflow's warm executor does. The
server never opens a table: delta-rs keeps threads, and a child forked after its first use would lack them.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from typing import Any, NamedTuple

from jobs.conf.settings import Settings
from jobs.registry import JOBS

# what the stages of tests/faults run; the server imports them all
STAGES = (
    "land_transactions", "validate_transactions", "quarantine_transactions", "publish_transactions",
    "land_labels", "validate_labels", "merge_labels", "plan_backfill", "run_backfill", "validate_backfill",
    "swap_backfill",
)  # fmt: skip
SERVER = get_context("forkserver")
# a child imports its parent's main module again, which is pytest's in the tests
SERVER.set_forkserver_preload([*(JOBS[stage] for stage in STAGES), "tests.faults.fuzz", "pytest"])

DONE, REFUSED, TRACEBACK = "done", "refused", "traceback"


class Answer(NamedTuple):
    """How a call ended: with a receipt, with a sentence for a person, or with a traceback."""

    outcome: str
    text: str


class Call(NamedTuple):
    """A child at work."""

    process: ForkServerProcess
    answer: Connection

    def wait(self) -> Answer:
        """The answer; what ended without one was killed or died by itself."""
        try:
            found: Answer = self.answer.recv()
        except EOFError:
            found = Answer(TRACEBACK, "the process died without an answer")
        self.process.join()
        return found


def environment_of(settings: Settings) -> dict[str, str]:
    """The variables that give these settings."""
    return {
        "SLUICE_HOME": str(settings.home),
        "SLUICE_SOURCE_URI": settings.source_uri,
        "SLUICE_LABELS_URI": settings.labels_uri,
        "SLUICE_CONTRACT": settings.contract,
    }


def start(work: Callable[..., str], *arguments: Any, settings: Settings) -> Call:
    """Fork a child that runs `work` under these settings."""
    ours, theirs = SERVER.Pipe(duplex=False)
    process = SERVER.Process(target=_answer, args=(theirs, environment_of(settings), work, arguments))
    process.start()
    theirs.close()  # the child's end: without it here, the end of the child is the end of the pipe
    return Call(process, ours)


def start_job(name: str, settings: Settings, arguments: dict[str, str]) -> Call:
    """Fork a child that runs a job as the command line does."""
    return start(run_as_typed, name, arguments, settings=settings)


def run_as_typed(name: str, arguments: dict[str, str]) -> str:
    from jobs.registry import run_job

    return run_job(name, arguments).model_dump_json()


def _answer(
    answer: Connection, environment: dict[str, str], work: Callable[..., str], arguments: tuple[Any, ...]
) -> None:
    from jobs.core import SluiceError

    os.environ.update(environment)
    try:
        found = Answer(DONE, work(*arguments))
    except SluiceError as error:
        found = Answer(REFUSED, str(error))
    except BaseException:  # also a panic of a native library
        found = Answer(TRACEBACK, traceback.format_exc())
    answer.send(found)
    answer.close()
    os._exit(0)
