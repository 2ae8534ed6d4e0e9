"""The service as a process: start, follow, stop, and what it must not load."""

from __future__ import annotations

import http.client
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pyarrow as pa
import pytest

from jobs.conf.settings import Settings, load_settings
from jobs.core import SluiceError
from jobs.features import materialize
from jobs.features.declarations import FEATURE_VERSION, MODEL_FEATURES, stored_features
from jobs.features.tables import FEATURE_TABLES
from jobs.lake.store import lake_of
from jobs.lake.tables import PREDICTIONS
from jobs.serving.__main__ import address_of, is_loopback
from tests.served_bundles import constant_graph, logistic_graph, register, registry_in, write_bundle

ROOT = Path(__file__).parents[2]
COLUMNS = len(MODEL_FEATURES)
DAY = date(2026, 1, 30)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def running(settings: Settings, *words: str) -> Iterator[tuple[httpx.Client, subprocess.Popen[str]]]:
    """`python -m jobs.serving` until the block ends."""
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith("SLUICE_")},
        "SLUICE_HOME": str(settings.home),
        "SLUICE_MLFLOW_URI": settings.mlflow_uri,
        "SLUICE_SCORING_URI": settings.scoring_uri,
        "SLUICE_ONLINE_STORE": settings.online_store,
        "SLUICE_REDIS_URL": settings.redis_url,
    }
    command = [sys.executable, "-m", "jobs.serving", *words]
    with subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True) as process:
        try:
            with httpx.Client(base_url=settings.scoring_uri, timeout=10) as client:
                wait_until(lambda: is_ready(client), 180)  # MLflow alone takes its time to load
                yield client, process
        finally:
            if process.poll() is None:
                process.kill()


def is_ready(client: httpx.Client) -> bool:
    try:
        return client.get("/ready").status_code == 200
    except httpx.TransportError:
        return False


def wait_until(holds: Callable[[], bool], seconds: float) -> float:
    """How long it took."""
    start = time.monotonic()
    while not holds():
        assert time.monotonic() - start < seconds, "not in time"
        time.sleep(0.05)
    return time.monotonic() - start


def stop(process: subprocess.Popen[str]) -> int:
    process.send_signal(signal.SIGTERM)
    return process.wait(30)


@pytest.fixture
def installation(home: Settings, tmp_path: Path) -> Settings:
    return home.model_copy(
        update={
            "mlflow_uri": registry_in(tmp_path / "registry"),
            "scoring_uri": f"http://127.0.0.1:{free_port()}",
        }
    )


def publish_features(settings: Settings) -> None:
    """One customer and one terminal with a fresh row each: every feature is 2, so the store is real."""
    for entity, table in FEATURE_TABLES.items():
        values: dict[str, Any] = {
            "day": [DAY],
            f"{entity}_id": [5],
            "as_of": [datetime(2026, 1, 31, tzinfo=UTC)],
        }
        values |= {feature.name: [2.0] for feature in stored_features(entity)}
        columns = {field.name: pa.array(values[field.name], field.type) for field in table.schema}
        lake_of(settings).replace(table, pa.table(columns), DAY)
    materialize.run(materialize.Params(day=DAY), settings)


def transaction(number: int, customer: int = 5) -> dict[str, Any]:
    return {
        "transaction_id": number,
        "event_time": "2026-01-31T12:00:00Z",
        "customer_id": customer,
        "terminal_id": 5,
        "amount_minor": 100,
    }


def test_a_service_follows_the_registry_scores_stored_features_and_flushes_its_log(
    installation: Settings, tmp_path: Path
) -> None:
    publish_features(installation)
    place = MODEL_FEATURES.index("customer_count_7d")
    rising = write_bundle(
        tmp_path / "rising",
        MODEL_FEATURES,
        logistic_graph({place: 1.0}, 0.0, COLUMNS),
        feature_version=FEATURE_VERSION,
    )
    flat = write_bundle(
        tmp_path / "flat",
        MODEL_FEATURES,
        constant_graph(0.95, COLUMNS),
        feature_version=FEATURE_VERSION,
    )
    completed = {"sluice.promotion": "completed"}
    client, first = register(installation, rising, completed)
    _, second = register(installation, flat, completed)
    name = installation.model_name
    client.set_registered_model_alias(name, "champion", first)
    with running(installation) as (http, process):
        wait_until(lambda: http.get("/state").json()["champion"] == first, 30)
        known = http.post("/score", json=transaction(1)).json()
        unknown = http.post("/score", json=transaction(2, customer=6)).json()
        assert known["score"] == pytest.approx(0.880797, abs=1e-5)  # sigmoid(2)
        assert unknown["score"] == pytest.approx(0.5, abs=1e-5)  # a gap counts as 0 in this graph
        client.set_registered_model_alias(name, "champion", second)
        wait_until(lambda: http.get("/state").json()["champion"] == second, 5)
        assert http.post("/score", json=transaction(3)).json()["decision"] == "block"
        for number in range(4, 104):
            http.post("/score", json=transaction(number))
        assert stop(process) == 0
    rows = lake_of(installation).read(PREDICTIONS)
    assert sorted(rows["transaction_id"].to_pylist()) == list(range(1, 104))

    # a restart while the registry is away serves the same
    away = installation.model_copy(
        update={
            "mlflow_uri": "http://127.0.0.1:9",
            "scoring_uri": f"http://127.0.0.1:{free_port()}",
        }
    )
    with running(away) as (http, process):
        wait_until(lambda: http.post("/score", json=transaction(200)).json()["rule"] == "", 30)
        answer = http.post("/score", json=transaction(201)).json()
        assert (answer["model_version"], answer["decision"]) == (second, "block")
        assert "MLflow does not answer" in http.get("/state").json()["registry_error"]
        assert stop(process) == 0


def run_briefly(uri: str, *words: str, home: Settings | None = None) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if "SLUICE" not in key}
    place = {"SLUICE_HOME": str(home.home)} if home else {}
    return subprocess.run(
        [sys.executable, "-m", "jobs.serving", *words],
        cwd=ROOT,
        env=environment | place | {"SLUICE_SCORING_URI": uri},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_busy_port_is_one_clear_sentence() -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        ended = run_briefly(f"http://127.0.0.1:{port}")
    assert ended.returncode == 1
    assert f"cannot listen on 127.0.0.1:{port}" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_an_address_that_others_can_reach_needs_a_token() -> None:
    ended = run_briefly("http://0.0.0.0:8765")
    assert ended.returncode == 1
    assert "set SLUICE_TOKEN" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("uri", ["127.0.0.1:8000", "https://127.0.0.1:8000", "http://h:x", "http://h"])
def test_an_address_that_is_none_is_refused(uri: str) -> None:
    with pytest.raises(SluiceError, match="SLUICE_SCORING_URI"):
        address_of(uri)


def test_loopback_is_what_only_this_machine_can_reach() -> None:
    assert [is_loopback(host) for host in ("127.0.0.1", "127.9.9.9", "::1", "localhost")] == [True] * 4
    assert [is_loopback(host) for host in ("::", "10.0.0.1", "192.168.0.1", "example.org")] == [False] * 4


def test_serving_loads_neither_spark_nor_training_nor_airflow() -> None:
    program = (
        "import sys\n"
        "import jobs.serving.app, jobs.serving.bundles, jobs.promotion.state\n"
        "from jobs.serving.__main__ import keep_out; keep_out()\n"
        "import jobs.features.online, jobs.features.velocity_sqlite, jobs.features.velocity_redis, mlflow\n"
        "heavy = ('pyspark', 'jobs.training', 'airflow', 'torch', 'xgboost', 'jobs.spark')\n"
        "print([name for name in heavy if sys.modules.get(name)])"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert ended.stdout.strip() == "[]"


class Sender(threading.Thread):
    """Sends one transaction after the other over one connection, and anew where it is asked to."""

    def __init__(self, uri: str, first: int) -> None:
        super().__init__(daemon=True)
        self.answered: list[int] = []
        self.lost: list[str] = []
        self.stopping = threading.Event()
        self._uri = urlsplit(uri)
        self._first = first

    def run(self) -> None:
        connection = http.client.HTTPConnection(self._uri.hostname or "", self._uri.port, timeout=10)
        for number in itertools.count(self._first):
            if self.stopping.is_set():
                return
            try:
                connection.request("POST", "/score", json.dumps(transaction(number)))
                response = connection.getresponse()
                response.read()
            except OSError as error:
                self.lost.append(repr(error))
                connection.close()
                continue
            if response.status == 200:
                self.answered.append(number)
            else:
                self.lost.append(str(response.status))
            time.sleep(0.03)  # below the rate of one client, all senders together


def test_the_next_process_takes_over_and_no_request_is_lost() -> None:
    # a short path: a Unix socket has one
    with tempfile.TemporaryDirectory(prefix="sluice-") as folder:
        settings = load_settings({"SLUICE_HOME": f"{folder}/home"}).model_copy(
            update={"scoring_uri": f"http://127.0.0.1:{free_port()}", "mlflow_uri": "http://127.0.0.1:9"}
        )
        with running(settings) as (_, first):
            senders = [Sender(settings.scoring_uri, 1 + number * 1_000_000) for number in range(4)]
            for sender in senders:
                sender.start()
            wait_until(lambda: all(len(sender.answered) > 5 for sender in senders), 60)
            with running(settings, "--take-over") as (_, second):
                assert first.wait(180) == 0
                so_far = [len(sender.answered) for sender in senders]
                wait_until(
                    lambda: all(
                        len(sender.answered) > before + 5
                        for sender, before in zip(senders, so_far, strict=True)
                    ),
                    60,
                )
                for sender in senders:
                    sender.stopping.set()
                for sender in senders:
                    sender.join()
                assert stop(second) == 0
        assert [sender.lost for sender in senders] == [[]] * 4
        logged = lake_of(settings).read(PREDICTIONS)["transaction_id"].to_pylist()
        assert sorted(logged) == sorted(number for sender in senders for number in sender.answered)


def test_there_must_be_somebody_to_take_over_from(home: Settings) -> None:
    ended = run_briefly(f"http://127.0.0.1:{free_port()}", "--take-over", home=home)
    assert ended.returncode == 1
    assert "nobody to take over from" in ended.stderr
    assert "Traceback" not in ended.stderr
