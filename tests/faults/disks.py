"""Stages of the chain on a disk that fills up.

In: a stage, and how much may still be written. Out: what was wrong. A real small disk is a tmpfs, which needs
root; without it, a limit on the size of each file refuses the same writes with nearly the same error.
"""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jobs.conf.settings import Settings
from tests.faults.children import DONE, REFUSED, Answer, run_as_typed, start
from tests.faults.kills import STAGES, Prepared, neither_nor, restore
from tests.faults.state import contents

NO_ROOT = "mounting a tmpfs needs root"


def can_mount() -> bool:
    return os.geteuid() == 0 and shutil.which("mount") is not None


@contextmanager
def small_disk(folder: Path, size: str = "32m") -> Iterator[Path]:
    """A tmpfs at a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(disk: Path, left: int) -> Path:
    """Leave so many bytes free; gives the file that takes the rest."""
    filler = disk / "filler"
    state = os.statvfs(disk)
    with filler.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(state.f_bavail * state.f_frsize - left, 1))
    return filler


def run_limited(name: str, arguments: dict[str, str], limit: int) -> str:
    """A job whose process cannot make any file larger than so many bytes."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    return run_as_typed(name, arguments)


def on_limited_files(stage: str, ready: Prepared, limit: int) -> list[str]:
    """Problems of a stage whose files may not grow beyond a limit, and then may."""
    restore(ready.base, ready.settings.home)
    answer = start(run_limited, *_call(stage), limit, settings=ready.settings).wait()
    return judge(stage, ready, ready.settings, answer)


def on_full_disk(stage: str, ready: Prepared, disk: Path, left: int) -> list[str]:
    """Problems of a stage on a disk with so many bytes left, and then with room."""
    settings = ready.settings.model_copy(update={"home": disk / "home"})
    shutil.rmtree(settings.home, ignore_errors=True)
    shutil.copytree(ready.base, settings.home)
    filler = fill(disk, left)
    answer = start(run_as_typed, *_call(stage), settings=settings).wait()
    filler.unlink()
    return judge(stage, ready, settings, answer)


def judge(stage: str, ready: Prepared, settings: Settings, answer: Answer) -> list[str]:
    """What is wrong with a stage that met a full disk; runs it again with room."""
    problems = []
    if answer.outcome not in (DONE, REFUSED):
        problems.append(answer.text)
    if answer.outcome == REFUSED and "is full" not in answer.text:
        problems.append(f"the sentence does not name the disk: {answer.text}")
    found = contents(settings)
    problems += neither_nor(found, ready)
    if answer.outcome == DONE and found != ready.after:
        problems.append("the run succeeded and left something else than on a disk with room")
    again = start(run_as_typed, *_call(stage), settings=settings).wait()
    if again.outcome != DONE:
        problems.append(f"with room again: {again.text}")
    elif contents(settings) != ready.after:
        problems.append("with room again, the run leaves something else than an undisturbed one")
    return problems


def _call(stage: str) -> tuple[str, dict[str, str]]:
    return STAGES[stage].job, STAGES[stage].arguments
