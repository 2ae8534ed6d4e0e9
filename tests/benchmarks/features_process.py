"""How a way is measured: in a process of its own that has done its imports, with its greatest memory.

A way of ours works in a Spark server, so the server's memory is added to that of the process that asks it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.conf.settings import load_settings
from jobs.spark import close_session, spark_session
from jobs.spark_server import server_command
from tests.spark_server import free_port, listens, spark_process

ROOT = Path(__file__).parents[2]
CORES = 2  # the server's local[2]
HEAP = "3g"  # of the Spark server
START_SECONDS = 500  # the first start of a fresh clone fetches jars


class NoFigure(Exception):
    """A way that failed."""


@dataclass(frozen=True)
class Found:
    """What the best run of a way took."""

    seconds: float
    cpu: float
    peak_mb: float
    facts: dict[str, Any]


@dataclass(frozen=True)
class Server:
    """A Spark server of the benchmark's own, and the seconds until a session on it had answered."""

    remote: str
    pid: int
    start_seconds: float

    @property
    def peak_mb(self) -> float:
        return peak_mb(self.pid)


def same_cores() -> None:
    """Leave this process, and all that it starts, the cores that the Spark server works with."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])


def peak_mb(pid: int | None = None) -> float:
    """The greatest resident memory of a process; unlike getrusage's, without that of its parent."""
    status = Path(f"/proc/{pid or 'self'}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return float(line.split()[1]) / 1024


@contextmanager
def spark_server(folder: Path) -> Iterator[Server]:
    """A server that runs inside the block; its state and log lie in the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    settings = load_settings(
        {
            "SLUICE_HOME": str(folder),
            "SLUICE_SPARK_REMOTE": f"sc://127.0.0.1:{port}",
            "SLUICE_SPARK_MEMORY": HEAP,
        }
    )
    start = time.perf_counter()
    with spark_process(folder, server_command(settings, port), settings) as process:
        while not listens(port):
            if process.poll() is not None or time.perf_counter() - start > START_SECONDS:
                raise AssertionError((folder / "server.log").read_text()[-2000:])
            time.sleep(0.1)
        spark_session(settings).range(1).count()
        try:
            yield Server(settings.spark_remote, process.pid, time.perf_counter() - start)
        finally:
            close_session(settings.spark_remote)


def best_of(times: int, module: str, way: str, **arguments: object) -> Found:
    """The fastest of some runs, with the greatest memory of any."""
    found = [run_way(module, way, **arguments) for _ in range(times)]
    best = min(found, key=lambda each: each.seconds)
    return Found(best.seconds, best.cpu, max(each.peak_mb for each in found), best.facts)


def run_way(module: str, way: str, **arguments: object) -> Found:
    """One run of a module's way; `target`, where it writes, is emptied before.

    Raises:
        NoFigure: it failed, with the end of what it said.
    """
    if "target" in arguments:
        shutil.rmtree(str(arguments["target"]), ignore_errors=True)
    asked = json.dumps(arguments, default=str)
    command = [sys.executable, "-W", "ignore", "-m", f"tests.benchmarks.{module}", way, asked]
    # a session of Spark Connect in this process leaves word of it, which would forbid any other
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("SPARK_")}
    environment = {**inherited, "FEAST_USAGE": "False", "TZ": "UTC"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise NoFigure(f"{module} {way} ended with {done.returncode}: {done.stderr[-2000:]}")
    said: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return Found(said.pop("seconds"), said.pop("cpu"), said.pop("peak_mb"), said)


def timed(work: Callable[[], object], **facts: object) -> dict[str, Any]:
    """What a way prints: seconds, processor time and memory of this process, and what it says itself."""
    start, cpu = time.perf_counter(), time.process_time()
    work()
    return {
        "seconds": time.perf_counter() - start,
        "cpu": time.process_time() - cpu,
        "peak_mb": peak_mb(),
        **facts,
    }


def answer(ways: dict[str, Callable[..., dict[str, Any]]]) -> None:
    """The main of a module of ways: runs the one that was asked for and prints what it found."""
    arguments = {
        name: Path(value) if name in ("source", "target", "warm", "scratch") else value
        for name, value in json.loads(sys.argv[2]).items()
    }
    print(json.dumps(ways[sys.argv[1]](**arguments)))
