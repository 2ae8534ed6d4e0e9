"""Servers on one core, and the load on another: our own client (load.c), compiled where there is a compiler.

Out: latencies and errors as the client saw them, and what the server's process took: processor time, memory.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).parents[2]
CORES = sorted(os.sched_getaffinity(0))
SERVER_CORE, LOAD_CORE, OTHER_CORE = CORES[0], CORES[1 % len(CORES)], CORES[-1]
SCORE_BODY = '{"transaction_id":$T,"event_time":"$M","customer_id":$C,"terminal_id":$L,"amount_minor":$A}'
TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")
START_SECONDS = 120.0


def family_of(pid: int) -> list[int]:
    """The process and all below it."""
    pids, found = [pid], []
    while pids:
        pid = pids.pop()
        found.append(pid)
        for task in Path(f"/proc/{pid}/task").glob("*/children"):
            pids += [int(child) for child in task.read_text().split()]
    return found


@dataclass(frozen=True)
class Server:
    """A process that answers on a port of loopback."""

    process: subprocess.Popen[bytes]
    port: int

    @property
    def family(self) -> list[int]:
        """The process and all below it."""
        return family_of(self.process.pid)

    def processor_seconds(self) -> float:
        """User and system time of the family so far."""
        return sum(sum(map(int, _stat(pid)[11:13])) for pid in self.family) / TICKS

    def memory_mb(self) -> float:
        """Resident memory of the family."""
        pages = sum(
            int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in family_of(self.process.pid)
        )
        return pages * PAGE / 1e6


@dataclass(frozen=True)
class Loaded:
    """What one stretch of load showed; latencies in milliseconds."""

    requests: int
    errors: int
    rate: float
    p50: float
    p99: float
    p999: float
    example: str  # of an error
    processor_us: float  # the server's, for each answered request
    memory_mb: list[float] = field(default_factory=list)  # once a second

    @property
    def growth_mb(self) -> float:
        """Memory of the last fifth of the time beyond that of the second fifth, both medians."""
        fifth = max(1, len(self.memory_mb) // 5)
        late, early = self.memory_mb[-fifth:], self.memory_mb[fifth : 2 * fifth] or self.memory_mb
        return sorted(late)[len(late) // 2] - sorted(early)[len(early) // 2]


@contextmanager
def serving(
    command: Sequence[str],
    port: int,
    core: int,
    ready: str,
    *,
    environment: Mapping[str, str] | None = None,
    folder: Path = ROOT,
    log: Path,
) -> Iterator[Server]:
    """A server on a core, once it answers 200 at the path `ready`, until the block ends."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("SLUICE_")}
    threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["taskset", "-c", str(core), *command],
            cwd=folder,
            env=inherited | threads | {"PYTHONPATH": str(ROOT)} | dict(environment or {}),
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        try:
            deadline = time.monotonic() + START_SECONDS
            while not _answers(f"http://127.0.0.1:{port}{ready}"):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"{command[0]} did not start: {log.read_text()[-2000:]}")
                time.sleep(0.2)
            yield Server(process, port)
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)


class Client:
    """The compiled client, and where the stream of transactions stands."""

    def __init__(self, folder: Path, first_moment: int, customers: int, terminals: int) -> None:
        self._folder = folder
        self._moment = first_moment
        self._next_id = 10_000_000
        self._entities = ["--customers", str(customers), "--terminals", str(terminals)]
        self._program = folder / "load"
        source = Path(__file__).with_name("load.c")
        subprocess.run(["cc", "-O2", "-o", str(self._program), str(source), "-lm"], check=True)

    def run(
        self,
        server: Server,
        *,
        rate: float,
        seconds: int,
        connections: int = 16,
        path: str = "/score",
        bodies: Sequence[str] = (SCORE_BODY,),
        headers: Sequence[str] = (),
        expect: str = "",
        random: bool = False,
    ) -> Loaded:
        """Load for some seconds, at a rate of requests or, where it is 0, as fast as answers come."""
        lines = {"--bodies": bodies, "--headers": headers}
        files = []
        for option, texts in lines.items():
            if texts:  # by a file that others cannot read: headers may hold a token
                file = self._folder / option.strip("-")
                file.touch(mode=0o600)
                file.write_text("\n".join(texts) + "\n")
                files += [option, str(file)]
        options = {
            "--port": server.port, "--path": path, "--rate": rate, "--seconds": seconds,
            "--connections": connections, "--first-id": self._next_id, "--start-micros": self._moment,
            "--expect": expect, "--random": int(random),
        }  # fmt: skip
        command = ["taskset", "-c", str(LOAD_CORE), str(self._program), *files, *self._entities]
        command += [str(word) for option in options.items() for word in option]
        before = server.processor_seconds()
        with _memory_of(server) as memory:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"the load ended: {done.stderr[-1000:]}")
        taken = server.processor_seconds() - before
        found: dict[str, Any] = json.loads(done.stdout)
        self._next_id += found["requests"]
        self._moment += (seconds + 1) * 1_000_000
        return Loaded(
            requests=found["requests"],
            errors=found["errors"],
            rate=found["rate"],
            p50=found["p50"],
            p99=found["p99"],
            p999=found["p999"],
            example=found["example"],
            processor_us=taken / max(found["answered"], 1) * 1e6,
            memory_mb=memory,
        )


def why_not() -> str:
    """Why the load cannot be made on this machine; empty where it can."""
    missing = [name for name in ("cc", "taskset") if shutil.which(name) is None]
    if missing:
        return f"{missing[0]} is not installed (Debian: {'gcc' if missing[0] == 'cc' else 'util-linux'})"
    return "" if len(CORES) > 1 else "one core is too few: the server has one, the load another"


@contextmanager
def _memory_of(server: Server) -> Iterator[list[float]]:
    found: list[float] = []
    over = threading.Event()

    def sample() -> None:
        while not over.wait(1.0):
            found.append(server.memory_mb())

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        over.set()
        thread.join()


def _answers(address: str) -> bool:
    try:
        return httpx.get(address, timeout=2.0).status_code == 200
    except httpx.TransportError:
        return False


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat behind the name, which may hold blanks."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
