"""A real Spark standalone cluster on this machine: a master and two workers of one core each."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import pytest

from jobs.conf.settings import load_settings
from jobs.spark_server import java_command
from tests.spark_server import free_port, listens, spark_process

WORKERS = 2
MASTER = "org.apache.spark.deploy.master.Master"
WORKER = "org.apache.spark.deploy.worker.Worker"
START_SECONDS = 60


@contextmanager
def cluster(folder: Path) -> Iterator[str]:
    """Address of a master, spark://127.0.0.1:PORT, with its workers registered, until the block ends."""
    port = free_port()
    address = f"spark://127.0.0.1:{port}"
    with ExitStack() as running:
        at = ["--host", "127.0.0.1", "--webui-port", "0"]
        master = running.enter_context(_process(folder / "master", [MASTER, *at, "--port", str(port)]))
        _wait(lambda: listens(port), master, folder / "master")
        for number in range(WORKERS):
            place = folder / f"worker{number}"
            share = ["--cores", "1", "--memory", "1g", "--work-dir", str(place / "work")]
            worker = running.enter_context(_process(place, [WORKER, *at, *share, address]))
            _wait(partial(_registered, place), worker, place)
        yield address


@contextmanager
def _process(folder: Path, arguments: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    folder.mkdir(parents=True)
    settings = load_settings({"SLUICE_HOME": str(folder)})
    command = [*java_command("512m", folder), *arguments]
    with spark_process(folder, command, settings, SPARK_SCALA_VERSION="2.13") as process:
        yield process


def _log(folder: Path) -> str:
    return (folder / "server.log").read_text(errors="replace")


def _registered(worker: Path) -> bool:
    return "Successfully registered" in _log(worker)


def _wait(holds: Callable[[], bool], process: subprocess.Popen[bytes], folder: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not holds():
        if process.poll() is not None or time.monotonic() > deadline:
            pytest.fail(f"no Spark cluster:\n{_log(folder)[-3000:]}")
        time.sleep(0.1)
