"""What the service answers while a store, the registry or the lake is away: the real ones, taken away."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from redis import Redis

from jobs.conf.policy import load_policy
from jobs.conf.settings import Settings
from jobs.features.declarations import FEATURE_VERSION, MODEL_FEATURES
from jobs.lake.store import lake_of
from jobs.lake.tables import PREDICTIONS
from jobs.serving.app import Service, create_app
from jobs.serving.bundle import ModelBundle
from jobs.serving.follower import ServingState
from jobs.serving.loading import ServedModel
from tests.redis_server import serve_redis
from tests.served_bundles import constant_graph, write_bundle

POLICY = load_policy()
NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)


def payment(number: int, seconds: int, **changes: Any) -> dict[str, Any]:
    """Payment `number` of customer 5, so many seconds after noon."""
    return {
        "transaction_id": number,
        "event_time": (NOON + timedelta(seconds=seconds)).isoformat(),
        "customer_id": 5,
        "terminal_id": 7,
        "amount_minor": 100,
    } | changes


@contextmanager
def served(settings: Settings, *, follows: bool = False) -> Iterator[tuple[TestClient, Service]]:
    """The service with its own stores and a champion that says 0.6 to everything.

    Where it does not follow the registry, the test alone says when stores are opened again.
    """
    settings = settings.model_copy(update={"mlflow_uri": "http://127.0.0.1:9"})
    folder = write_bundle(
        settings.home.parent / "bundle",
        MODEL_FEATURES,
        constant_graph(0.6, len(MODEL_FEATURES)),
        feature_version=FEATURE_VERSION,
    )
    app = create_app(settings, policy=POLICY)
    service: Service = app.state.service
    if not follows:
        service.follower.start = lambda: None  # type: ignore[method-assign]
    with TestClient(app) as client:
        service.follower.state = ServingState(ServedModel("3", ModelBundle.load(folder, POLICY.decisions)))
        service.features.connect()
        yield client, service


def asked(client: TestClient, number: int, seconds: int, **changes: Any) -> tuple[str, str, str, str]:
    """Variant, decision, rule and what is degraded."""
    answer = client.post("/score", json=payment(number, seconds, **changes))
    assert answer.status_code == 200
    body = answer.json()
    return body["variant"], body["decision"], body["rule"], body["degraded"]


def damage(path: Path) -> None:
    """Put something else in the place of a database that is in use."""
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    path.write_bytes(b"no database at all " * 500)


def test_a_feature_store_that_is_removed_leaves_the_rules_with_the_last_known_velocity(
    home: Settings,
) -> None:
    with served(home) as (client, service):
        for number in range(1, 4):
            assert asked(client, number, number) == ("champion", "review", "", "")
        assert asked(client, 4, 4) == ("champion", "challenge", "customer_count_5m", "")
        features: Any = service.features
        features._reader._online.teardown(features._reader._config, [], [])  # the file, and who has it open
        damage(home.home / "feast" / "online.db")
        velocity = features._velocity
        features._velocity = None  # the velocity store is away too, as where one Redis holds both
        # the rules still know that this customer has paid three times within the last minute
        known = ("rules", "challenge", "customer_count_5m", "features_unavailable")
        assert asked(client, 10, 20) == known
        assert asked(client, 11, 21) == known  # the same again: nothing is drawn
        assert asked(client, 12, 20, customer_id=6) == (
            "rules", "approve", "features_unavailable", "features_unavailable"
        )  # fmt: skip
        # after the policy's minute it is not known any more, and fires nothing
        assert asked(client, 13, 65)[1:3] == ("approve", "features_unavailable")
        trouble = client.get("/metrics").text
        assert 'sluice_feature_store_up{store="online"} 0.0' in trouble
        assert 'sluice_degraded_answers_total{reason="features_unavailable"} 4.0' in trouble
        (home.home / "feast" / "online.db").unlink()
        features._velocity = velocity
        features.connect()
        assert asked(client, 14, 400)[0] == "champion"


def test_a_locked_velocity_store_costs_its_features_and_no_answer(home: Settings) -> None:
    with served(home) as (client, service):
        assert asked(client, 1, 0)[3] == ""
        with sqlite3.connect(home.home / "feast" / "velocity.db") as other:
            other.execute("BEGIN EXCLUSIVE")
            assert asked(client, 2, 1) == ("champion", "review", "", "velocity_unavailable")
            other.execute("ROLLBACK")
        service.features.connect()
        assert asked(client, 3, 2)[3] == ""


def test_a_redis_that_stops_leaves_the_rules_and_comes_back_without_hands(
    home: Settings, tmp_path: Path
) -> None:
    with serve_redis(tmp_path / "redis") as server:
        settings = home.model_copy(update={"online_store": "redis", "redis_url": server.url})
        with served(settings) as (client, service):
            assert asked(client, 1, 0) == ("champion", "review", "", "")
            Redis(port=server.port, password=server.password).shutdown(nosave=True)
            stopped = [asked(client, number, number) for number in range(2, 5)]
            assert set(stopped) == {("rules", "approve", "features_unavailable", "features_unavailable")}
            assert service.features.troubles()["velocity"]
            explained = client.post("/explain", json=payment(9, 9))
            assert explained.status_code == 503


def test_a_transaction_that_is_sent_again_gets_the_same_features(home: Settings) -> None:
    with served(home) as (client, _):
        asked(client, 1, 0)
        asked(client, 2, 10)
        asked(client, 2, 10)
        asked(client, 3, 20)
        asked(client, 2, 10)
    rows = lake_of(home).read(PREDICTIONS).to_pylist()
    told = [
        dict(zip(MODEL_FEATURES, row["features"], strict=True)) for row in rows if row["transaction_id"] == 2
    ]
    assert len(told) == 3
    assert told[0] == told[1] == told[2]
    assert told[0]["customer_count_5m"] == 1.0  # the first payment, and never itself
    assert told[0]["pair_is_new_30d"] == 0.0


def test_a_lake_that_cannot_be_written_and_a_registry_that_is_away_stop_nothing(home: Settings) -> None:
    home.home.mkdir(parents=True, exist_ok=True)
    (home.home / "lake").write_text("a file where the tables should be")
    with served(home, follows=True) as (client, service):
        assert service.ready.wait(300)
        assert [asked(client, number + 1, number * 90)[0] for number in range(5)] == ["champion"] * 5
        service.log.flush()
        assert service.log.counters()["queued"] == 5
        assert service.log.counters()["written"] == 0
        assert client.get("/ready").status_code == 200
        (home.home / "lake").unlink()
        assert service.log.flush()
        assert service.log.counters()["written"] == 5


@pytest.fixture(autouse=True)
def _ends_quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.serving.app.WARM_UPS", 2)
