"""Real servers on loopback that can be stopped, killed and started again at the same address.

In: a folder. Out: a `World`: scoring services over one home, Redis that keeps its rows over a stop, a
registry (MLflow's server or its database file), a lake, and published features of every customer.
"""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa

from jobs.conf.settings import PROJECT_ROOT, Settings
from jobs.features import materialize
from jobs.features.declarations import stored_features
from jobs.features.tables import FEATURE_TABLES
from jobs.lake.store import lake_of
from jobs.lake.tables import PREDICTIONS
from jobs.promotion.state import registry_client
from stack.services import services
from tests import redis_server
from tests.faults.load import CUSTOMERS, TERMINALS, Exchange
from tests.s3_server import free_port, listens
from tests.served_bundles import registry_in

START_SECONDS = 240.0  # on a machine that is busy with other things
PUBLISHED = date(2026, 1, 30)


class Server:
    """One process, in a group of its own, at one address."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str],
        ready: Callable[[], bool],
        folder: Path,
    ) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        self._command, self._environment, self._ready = list(command), dict(environment), ready
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *words: str, wait: bool = True) -> None:
        """Start it, with further words behind its command."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*self._command, *words],
                cwd=PROJECT_ROOT,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        if wait:
            self.wait()

    def wait(self) -> float:
        """Until it is ready; gives how long that took."""
        return wait_until(self.is_ready, START_SECONDS, f"{self.name} is not ready, see {self.log}")

    def is_ready(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, f"{self.name} ended by itself, see {self.log}"
        return self._ready()

    def stop(self, patience: float = 40.0) -> int:
        """Ask it to end, as a supervisor does; gives its exit status."""
        return self._end(signal.SIGTERM, patience)

    def pause(self) -> None:
        """It keeps its connections and answers nobody."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def succeed(self, *words: str) -> int:
        """Start the next process beside this one, which ends of itself; gives the exit status of this one."""
        process = self._process
        assert process is not None
        self.start(*words, wait=False)
        try:
            return process.wait(START_SECONDS)
        finally:
            if process.poll() is None:
                process.kill()

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        os.killpg(self._process.pid, number)

    def kill(self) -> None:
        """As the kernel does when memory is short: nothing of it runs any more."""
        self._end(signal.SIGKILL, 10.0)

    def _end(self, number: signal.Signals, patience: float) -> int:
        process, self._process = self._process, None
        if process is None:
            return 0
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGCONT)  # one that was paused hears nothing else
        for group_signal in (number, signal.SIGKILL):
            with suppress(ProcessLookupError):
                os.killpg(process.pid, group_signal)
            try:
                return process.wait(patience)
            except subprocess.TimeoutExpired:
                continue
        return process.wait(patience)


@dataclass
class World:
    """Everything that a scoring service stands on, and the service itself."""

    folder: Path
    settings: Settings
    environment: dict[str, str]
    replicas: list[Server] = field(default_factory=list)
    addresses: list[str] = field(default_factory=list)
    redis: Server | None = None
    mlflow: Server | None = None

    def state(self, place: int = 0) -> dict[str, Any]:
        """What one replica says of itself."""
        answer = httpx.get(f"{self.addresses[place]}/state", timeout=10)
        answer.raise_for_status()
        found: dict[str, Any] = answer.json()
        return found

    def states(self) -> list[dict[str, Any]]:
        return [self.state(place) for place in range(len(self.addresses))]

    def add_replica(self) -> None:
        address = f"http://127.0.0.1:{free_port()}"
        mine = self.settings.model_copy(update={"scoring_uri": address})
        server = Server(
            f"scoring-{len(self.replicas)}",
            (sys.executable, "-m", "jobs.serving"),
            {**self.environment, **variables(mine), "OMP_NUM_THREADS": "1"},
            lambda: answers(f"{address}/ready"),
            self.folder,
        )
        self.replicas.append(server)
        self.addresses.append(address)


@contextmanager
def world(
    folder: Path,
    home: Settings,
    *,
    replicas: int = 1,
    mlflow_server: bool = False,
    lake_environment: Mapping[str, str] | None = None,
    lake_uri: str = "",
) -> Iterator[World]:
    """Registry, Redis and features are there; replicas are started by the caller or by `start_all`."""
    folder.mkdir(parents=True, exist_ok=True)
    redis, redis_url = redis_at(folder)
    registry = f"http://127.0.0.1:{free_port()}" if mlflow_server else registry_in(folder / "registry")
    settings = home.model_copy(
        update={
            "mlflow_uri": registry,
            "online_store": "redis",
            "redis_url": redis_url,
            "policy_overlay": "small",
            "lake_uri": lake_uri,
        }
    )
    plain = {key: value for key, value in os.environ.items() if not key.startswith("SLUICE_")}
    ours = World(folder, settings, plain | dict(lake_environment or {}), redis=redis)
    try:
        redis.start()
        if mlflow_server:
            ours.mlflow = mlflow_at(folder, settings, plain)
            ours.mlflow.start()
        registry_client(settings)  # makes the database of a registry in a folder
        publish_features(settings)
        for _ in range(replicas):
            ours.add_replica()
        yield ours
    finally:
        for server in (*ours.replicas, ours.mlflow, redis):
            if server is not None:
                server.kill()


def start_all(ours: World) -> None:
    """Start the replicas beside each other."""
    for replica in ours.replicas:
        replica.start(wait=False)
    for replica in ours.replicas:
        replica.wait()


def redis_at(folder: Path) -> tuple[Server, str]:
    """Redis that is full again after a stop, and the value of SLUICE_REDIS_URL."""
    found = redis_server.binary()
    assert found, redis_server.NOWHERE
    port, password = free_port(), secrets.token_hex(12)
    configuration = folder / "redis.conf"
    configuration.touch(mode=0o600)
    configuration.write_text(
        f"bind 127.0.0.1\nport {port}\nrequirepass {password}\nsave 3600 1\nappendonly no\ndir {folder}\n"
    )
    server = Server("redis", (found, str(configuration)), os.environ, lambda: listens(port), folder)
    return server, f"127.0.0.1:{port},password={password}"


def mlflow_at(folder: Path, settings: Settings, environment: Mapping[str, str]) -> Server:
    """MLflow's server, started as `make up` starts it."""
    (service,) = (each for each in services(settings) if each.name == "mlflow")
    launch = service.launch(settings)
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "1"}
    return Server(
        "mlflow",
        launch.command,
        {**environment, **launch.environment, **quiet},
        lambda: answers(f"{settings.mlflow_uri}{service.ready_path}"),
        folder,
    )


def variables(settings: Settings) -> dict[str, str]:
    """The environment that gives these settings."""
    defaults = {name: each.default for name, each in Settings.model_fields.items()}
    given = {name: getattr(settings, name) for name in defaults}
    return {
        f"SLUICE_{name.upper()}": str(value)
        for name, value in given.items()
        if value != defaults[name] and value is not None
    }


def publish_features(settings: Settings) -> None:
    """A fresh row for every customer and terminal that the load knows."""
    for entity, table in FEATURE_TABLES.items():
        count = CUSTOMERS if entity == "customer" else TERMINALS
        values: dict[str, Any] = {
            "day": [PUBLISHED] * count,
            f"{entity}_id": list(range(count)),
            "as_of": [datetime(2026, 1, 31, tzinfo=UTC)] * count,
        }
        values |= {feature.name: [2.0] * count for feature in stored_features(entity)}
        columns = {name.name: pa.array(values[name.name], name.type) for name in table.schema}
        lake_of(settings).replace(table, pa.table(columns), PUBLISHED)
    materialize.run(materialize.Params(day=PUBLISHED), settings)


def answers(address: str) -> bool:
    try:
        return httpx.get(address, timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


def wait_until(holds: Callable[[], bool], seconds: float, otherwise: str) -> float:
    """How long it took until it held."""
    start = time.monotonic()
    while not holds():
        assert time.monotonic() - start < seconds, f"{otherwise} after {seconds:g} s"
        time.sleep(0.05)
    return time.monotonic() - start


def logged_answers(settings: Settings) -> Counter[str]:
    """How often the log holds each request's answer; shadow scores and failed tries are none."""
    rows = lake_of(settings).read(PREDICTIONS, columns=["request_id", "variant", "decision"]).to_pylist()
    return Counter(row["request_id"] for row in rows if row["decision"] and row["variant"] != "shadow")


def not_logged(settings: Settings, exchanges: Sequence[Exchange], seconds: float = 30.0) -> list[Exchange]:
    """Answers that the log does not hold within so many seconds."""
    deadline = time.monotonic() + seconds
    while True:
        known = logged_answers(settings)
        missing = [each for each in exchanges if not each.lost and each.answer["request_id"] not in known]
        if not missing or time.monotonic() > deadline:
            return missing
        time.sleep(0.3)


def logged_twice(settings: Settings) -> list[str]:
    """Requests whose answer the log holds more than once."""
    return [request for request, count in logged_answers(settings).items() if count > 1]
