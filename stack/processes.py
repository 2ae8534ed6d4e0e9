"""Long-running processes with a pid file each: start, stop, and say whether they are alive.

Every process leads a group of its own, so that stopping it stops its children too. A pid file also
holds the process's start time: a pid that the kernel has given to somebody else is never signalled.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jobs.core import SluiceError


@dataclass(frozen=True)
class ProcessFolder:
    """Where the pid files and logs of an installation lie."""

    root: Path

    def pid_file(self, name: str) -> Path:
        return self.root / "run" / f"{name}.pid"

    def log_file(self, name: str) -> Path:
        return self.root / "logs" / f"{name}.log"


def start(folder: ProcessFolder, name: str, command: Sequence[str], environment: Mapping[str, str]) -> int:
    """Start a process that outlives us; gives its pid."""
    for file in (folder.pid_file(name), folder.log_file(name)):
        file.parent.mkdir(parents=True, exist_ok=True)
    with folder.log_file(name).open("ab") as log:
        process = subprocess.Popen(
            list(command),
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        folder.pid_file(name).write_text(f"{process.pid} {_start_time(process.pid)}\n")
    except BaseException:
        _signal_group(process.pid, signal.SIGKILL)  # what nobody could stop later must not stay
        raise
    return process.pid


def running_pid(folder: ProcessFolder, name: str) -> int | None:
    """The pid of a process that we started and that still lives."""
    try:
        pid, started = folder.pid_file(name).read_text().split()
    except (FileNotFoundError, ValueError):
        return None
    return int(pid) if _start_time(int(pid)) == started else None


def stop(folder: ProcessFolder, name: str, patience_seconds: float = 20.0) -> bool:
    """Stop a process and all that it started: asked first, unless there is no patience, then killed.

    True where there was one.

    Children that lead groups of their own, as Airflow's tasks do, still belong to the process's session; and
    they are found when the process itself has died before them.
    """
    leader = running_pid(folder, name)
    session = leader or _session_left_behind(folder, name)
    if leader is not None and patience_seconds > 0:
        _signal_group(leader, signal.SIGTERM)
    deadline = time.monotonic() + patience_seconds
    while session and (members := _members(session)):
        _reap(session)
        if time.monotonic() >= deadline or leader is None:
            for pid in members:
                _signal(pid, signal.SIGKILL)
        time.sleep(0.05)
    folder.pid_file(name).unlink(missing_ok=True)
    return session is not None


def resident_bytes(pid: int) -> int:
    """Resident memory of a process and all that it started, shared pages divided among their users."""
    return sum(_proportional_bytes(Path("/proc") / str(member)) for member in _members(pid))


def require_free_port(host: str, port: int, needed_by: str) -> None:
    """Raise a SluiceError that names the port if somebody listens on it."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            raise SluiceError(
                f"port {port} on {host} is busy, and {needed_by} needs it: stop what listens there "
                f"(`ss -ltnp 'sport = :{port}'` shows it) or set another address, see .env.example"
            ) from None


def _start_time(pid: int) -> str:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return "gone"
    return "gone" if fields[0] == "Z" else fields[19]


def _members(session: int) -> list[int]:
    """The living processes of a session."""
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    return [pid for pid in pids if _session_of(pid) == session and _start_time(pid) != "gone"]


def _session_of(pid: int) -> int:
    try:
        return os.getsid(pid)
    except (ProcessLookupError, PermissionError):
        return -1


def _session_left_behind(folder: ProcessFolder, name: str) -> int | None:
    """The session of a process that died before its children; the kernel keeps its number while they live."""
    try:
        pid, started = folder.pid_file(name).read_text().split()
    except (FileNotFoundError, ValueError):
        return None
    return int(pid) if _start_time(int(pid)) in (started, "gone") and _members(int(pid)) else None


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def _signal_group(group: int, number: signal.Signals) -> None:
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return


def _reap(pid: int) -> None:
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return


def _proportional_bytes(entry: Path) -> int:
    try:
        for line in (entry / "smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return 0
    return 0
