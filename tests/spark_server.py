"""One Spark Connect server for all tests of a session that ask for it."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from jobs.conf.settings import Settings, load_settings
from jobs.spark import close_session, spark_session
from jobs.spark_server import server_command, server_environment

# Of a few rows, compiling what Spark generates for them costs more than all that they cost otherwise. The
# servers of other fixtures (end to end, cluster, S3) run as shipped, and the cluster's answers are held
# against this one's.
INTERPRETED = "spark.sql.codegen.factoryMode NO_CODEGEN\nspark.sql.codegen.wholeStage false\n"
GENERATED = {"spark.sql.codegen.factoryMode": "FALLBACK", "spark.sql.codegen.wholeStage": "true"}
START_SECONDS = 500  # the first start of a fresh clone fetches the jars of Delta, and of s3a


def free_port() -> int:
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        port: int = place.getsockname()[1]
        return port


def listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def spark_process(
    folder: Path, command: list[str], settings: Settings, **more: str
) -> Iterator[subprocess.Popen[bytes]]:
    """A process of Spark's that runs inside the block; it says what it says into FOLDER/server.log."""
    with (folder / "server.log").open("w") as log:
        process = subprocess.Popen(
            command,
            env={**os.environ, **server_environment(settings), **more},
            cwd=folder,
            stdout=log,
            stderr=log,
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()


@contextmanager
def server(folder: Path, defaults: str = "", **more: str) -> Iterator[str]:
    """Address of a server that runs inside the block; its state and log lie in the folder.

    `defaults`: further settings of Spark's own. `more`: further variables of the installation that it serves.
    """
    (folder / "conf").mkdir(parents=True, exist_ok=True)
    (folder / "conf" / "spark-defaults.conf").write_text(defaults)
    settings = load_settings({"SLUICE_HOME": str(folder), **more})
    port = free_port()
    remote = f"sc://127.0.0.1:{port}"
    command = server_command(settings, port)
    with spark_process(folder, command, settings, SPARK_CONF_DIR=str(folder / "conf")) as process:
        deadline = time.monotonic() + START_SECONDS
        while not listens(port):
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"no Spark server:\n{_tail(folder / 'server.log')}")
            time.sleep(0.2)
        try:
            yield remote
        finally:
            close_session(remote)


@pytest.fixture(scope="session")
def spark_remote(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a server that runs while the tests run; SLUICE_TEST_SPARK_REMOTE lends one instead."""
    lent = os.environ.get("SLUICE_TEST_SPARK_REMOTE")
    if lent:
        yield lent
        return
    with server(tmp_path_factory.mktemp("spark"), INTERPRETED) as remote:
        yield remote


@pytest.fixture
def spark_home(home: Settings, spark_remote: str) -> Settings:
    """An empty installation that has a Spark server."""
    return home.model_copy(update={"spark_remote": spark_remote})


@pytest.fixture
def generated_code(spark_home: Settings) -> Iterator[None]:
    """For a test of many rows: Spark generates code for them, as it is shipped."""
    conf = spark_session(spark_home).conf
    for name, value in GENERATED.items():
        conf.set(name, value)
    yield
    for name in GENERATED:
        conf.unset(name)


def _tail(log: Path) -> str:
    return "\n".join(log.read_text().splitlines()[-30:])
