"""Servers are started, found again and stopped with all that they have started."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from pathlib import Path

import pytest

from jobs.core import SluiceError
from stack.processes import ProcessFolder, require_free_port, resident_bytes, running_pid, start, stop
from tests.installation import free_port

SLEEP = "import time; time.sleep(60)"
# a parent whose child leads a process group of its own, as an Airflow task does
PARENT = f"""
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "{SLEEP}"], preexec_fn=os.setpgrp)
open("CHILD", "w").write(str(child.pid))
time.sleep(60)
"""


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_for(file: Path) -> str:
    deadline = time.monotonic() + 10
    while not (file.exists() and file.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return file.read_text()


def parent_with_child(tmp_path: Path) -> tuple[ProcessFolder, int, int]:
    folder, child_file = ProcessFolder(tmp_path), tmp_path / "child"
    script = PARENT.replace("CHILD", str(child_file))
    parent = start(folder, "parent", [sys.executable, "-c", script], os.environ)
    return folder, parent, int(wait_for(child_file))


def test_a_started_process_is_found_and_stopped(tmp_path: Path) -> None:
    folder = ProcessFolder(tmp_path)
    pid = start(folder, "sleeper", [sys.executable, "-c", SLEEP], os.environ)
    assert running_pid(folder, "sleeper") == pid
    assert resident_bytes(pid) > 0
    assert stop(folder, "sleeper")
    assert not alive(pid)
    assert running_pid(folder, "sleeper") is None
    assert not stop(folder, "sleeper")


def test_children_that_lead_their_own_group_are_stopped_too(tmp_path: Path) -> None:
    folder, parent, child = parent_with_child(tmp_path)
    stop(folder, "parent", patience_seconds=1.0)
    assert not alive(parent)
    assert not alive(child)


def test_children_whose_parent_has_died_are_stopped_too(tmp_path: Path) -> None:
    folder, parent, child = parent_with_child(tmp_path)
    os.kill(parent, signal.SIGKILL)
    os.waitpid(parent, 0)
    assert running_pid(folder, "parent") is None
    assert alive(child)
    stop(folder, "parent", patience_seconds=1.0)
    assert not alive(child)


def test_a_pid_that_the_kernel_gave_to_somebody_else_is_left_alone(tmp_path: Path) -> None:
    folder = ProcessFolder(tmp_path)
    folder.pid_file("stranger").parent.mkdir(parents=True)
    folder.pid_file("stranger").write_text(f"{os.getpid()} 1\n")
    assert running_pid(folder, "stranger") is None
    assert not stop(folder, "stranger")
    assert not folder.pid_file("stranger").exists()


def test_a_busy_port_is_named(tmp_path: Path) -> None:
    require_free_port("127.0.0.1", free_port(), "nobody")
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        with pytest.raises(SluiceError, match=f"port {busy.getsockname()[1]} .* mlflow needs it"):
            require_free_port("127.0.0.1", busy.getsockname()[1], "mlflow")
