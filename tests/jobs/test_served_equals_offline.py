"""A day of transactions through the real scoring service: every feature is the offline one of its event."""

from __future__ import annotations

import itertools
import json
import shutil
from contextlib import closing
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from jobs.conf.settings import Settings, load_settings
from jobs.core import days_between, midnight
from jobs.features import build, check, materialize
from jobs.features.declarations import FEATURES, MODEL_FEATURES
from jobs.features.velocity_store import open_velocity_store
from jobs.lake.store import lake_of
from jobs.lake.tables import LABELS, TRANSACTIONS
from jobs.monitoring import compare_served
from jobs.monitoring.figures import SKEW, read_figures
from tests.jobs.test_serving_process import free_port, running, stop
from tests.redis_server import RedisServer
from tests.served_bundles import registry_in

pytest_plugins = ("tests.spark_server", "tests.redis_server")

FIRST = date(2026, 1, 25)
HISTORY, PER_DAY = 10, 120
SEED = 99  # of the served day
DATABASES = itertools.count()
SERVED = FIRST + timedelta(days=HISTORY)
DUE = midnight(SERVED) + timedelta(hours=4)  # of the files of the day before, by the contract


def transactions_of(day: date, seed: int) -> pa.Table:
    """A day of few customers and terminals, so that short windows fill; some share an instant."""
    chance = np.random.default_rng(seed)
    # in bursts of a quarter of an hour
    seconds = np.sort(3600 * chance.integers(0, 24, PER_DAY) + chance.integers(0, 900, PER_DAY))
    seconds[0:-1:7] = seconds[1::7]  # ties
    rows = [
        {
            "day": day,
            "transaction_id": seed * 1000 + number,
            "event_time": midnight(day)
            + timedelta(seconds=int(second), microseconds=int(chance.integers(0, 3))),
            "customer_id": int(chance.integers(1, 8)),
            "terminal_id": int(chance.integers(1, 6)),
            "amount_minor": int(chance.choice([500, 500, 1999, chance.integers(1, 500_000)])),
            "available_at": midnight(day + timedelta(days=1)),
            "file_day": day,
        }
        for number, second in enumerate(seconds)
    ]
    return pa.Table.from_pylist(rows, schema=TRANSACTIONS.schema)


def chargebacks_of(rows: pa.Table, known: date) -> pa.Table:
    """Every fifth transaction of a day, known some days later."""
    found = [
        {"day": known, "transaction_id": number, "available_at": midnight(known), "is_fraud": 1}
        for number in rows["transaction_id"].to_pylist()[::5]
    ]
    return pa.Table.from_pylist(found, schema=LABELS.schema)


@pytest.fixture(scope="module")
def history_home(tmp_path_factory: pytest.TempPathFactory, spark_remote: str) -> Path:
    """Ten days of history, built and checked: once for all tests, which copy it."""
    folder = tmp_path_factory.mktemp("history")
    settings = load_settings({"SLUICE_HOME": str(folder)}).model_copy(update={"spark_remote": spark_remote})
    lake = lake_of(settings)
    for number in range(HISTORY):
        day = FIRST + timedelta(days=number)
        rows = transactions_of(day, number + 1)
        lake.replace(TRANSACTIONS, rows, day)
        if number < HISTORY - 2:
            known = day + timedelta(days=2)
            lake.replace(LABELS, chargebacks_of(rows, known), known)
    last = SERVED - timedelta(days=1)
    days = ",".join(build.run(build.Params(day=FIRST, last=last), settings).facts["days"])
    check.run(check.Params(day=FIRST, days=days), settings)
    return folder


@pytest.fixture(scope="module")
def published_home(tmp_path_factory: pytest.TempPathFactory, history_home: Path, spark_remote: str) -> Path:
    """The history and the served day's file, with its features built: once for all tests."""
    folder = tmp_path_factory.mktemp("published") / "home"
    shutil.copytree(history_home, folder)
    settings = load_settings({"SLUICE_HOME": str(folder)}).model_copy(update={"spark_remote": spark_remote})
    lake_of(settings).replace(TRANSACTIONS, transactions_of(SERVED, SEED), SERVED)
    assert build.run(build.Params(day=SERVED), settings).facts["days"] == [str(SERVED)]
    return folder


@pytest.fixture
def built_history(
    request: pytest.FixtureRequest,
    history_home: Path,
    spark_home: Settings,
    redis_server: RedisServer,
    tmp_path: Path,
) -> Settings:
    """An installation with the history; nothing of it is online yet. Its store is the test's parameter."""
    shutil.copytree(history_home, spark_home.home)
    return spark_home.model_copy(
        update={
            "online_store": request.param,
            "redis_url": redis_server.database(next(DATABASES)),
            "mlflow_uri": registry_in(tmp_path / "registry"),
            "scoring_uri": f"http://127.0.0.1:{free_port()}",
        }
    )


def online(settings: Settings, first: date, last: date) -> int:
    """Make days available online; how many transactions the velocity store learned of."""
    days = ",".join(map(str, days_between(first, last)))
    receipt = materialize.run(materialize.Params(day=first, days=days), settings)
    return int(receipt.facts["velocity_recorded"])


@pytest.fixture
def installation(built_history: Settings) -> Settings:
    """The history is available online; the scoring service is not up yet."""
    assert online(built_history, FIRST, SERVED - timedelta(days=1)) == HISTORY * PER_DAY
    return built_history


def bodies_of(rows: pa.Table) -> list[dict[str, Any]]:
    """Requests in order of time."""
    ordered = rows.sort_by("event_time").select(
        ["transaction_id", "event_time", "customer_id", "terminal_id", "amount_minor"]
    )
    return [row | {"event_time": row["event_time"].isoformat()} for row in ordered.to_pylist()]


def serve(settings: Settings, bodies: list[dict[str, Any]]) -> None:
    """Send requests one after another to the real service, and stop it."""
    with running(settings) as (http, process):
        for body in bodies:
            assert http.post("/score", json=body).status_code == 200
        assert stop(process) == 0


def publish(published_home: Path, settings: Settings) -> None:
    """The day's file comes, and its features are built: what that adds to the history's files."""

    def added(source: str, destination: str) -> None:
        if not Path(destination).exists():
            shutil.copy2(source, destination)

    shutil.copytree(published_home, settings.home, copy_function=added, dirs_exist_ok=True)
    assert lake_of(settings).read(TRANSACTIONS, first=SERVED).num_rows == PER_DAY


@pytest.mark.parametrize("built_history", ["sqlite", "redis"], indirect=True)
def test_every_feature_of_a_served_day_is_the_offline_one(
    installation: Settings, published_home: Path
) -> None:
    rows = transactions_of(SERVED, SEED)
    bodies = bodies_of(rows)
    # a restart in the middle keeps the state, and a request that is sent again counts once
    serve(installation, bodies[:60])
    serve(installation, bodies[50:])
    publish(published_home, installation)
    receipt = compare_served.run(compare_served.Params(day=SERVED), installation)
    evidence = json.loads(Path(receipt.facts["evidence"]).read_text())
    assert (receipt.rows, receipt.facts["mismatched_rows"]) == (PER_DAY, 0), evidence["examples"]
    # online before the first request, which offline says of no row
    early = sum(body["event_time"] <= DUE.isoformat() for body in bodies)
    assert 0 < receipt.facts["published_early"] <= early
    assert receipt.facts["published_late"] == 0
    assert [found["feature"] for found in evidence["features"]] == list(MODEL_FEATURES)
    assert max(found["worst"] for found in evidence["features"]) <= 1e-6
    assert_seen(installation)


def assert_seen(settings: Settings) -> None:
    """The comparison is about something: every feature takes several values over the day."""
    from jobs.features.history import historical_features

    events = lake_of(settings).read(TRANSACTIONS, first=SERVED, last=SERVED).to_pandas()
    offline = historical_features(events, settings)
    constant = {feature.name for feature in FEATURES if offline[feature.name].nunique(dropna=False) < 2}
    # one weekday; customers and terminals who are all known; windows that hold the whole of ten days
    assert constant <= {
        "is_weekend",
        "customer_missing",
        "terminal_missing",
        "velocity_missing",
        "pair_is_new_30d",
    }


@pytest.mark.parametrize("built_history", ["redis"], indirect=True)
def test_a_service_that_missed_a_part_of_the_day_is_told_apart(
    installation: Settings, published_home: Path
) -> None:
    rows = transactions_of(SERVED, SEED)
    serve(installation, bodies_of(rows)[60:])
    publish(published_home, installation)
    compare_served.run(compare_served.Params(day=SERVED), installation)
    (figure,) = read_figures(lake_of(installation), SERVED, SKEW)
    assert figure.status == "alert"
    assert "of 60 served rows differ from offline" in figure.detail


@pytest.mark.parametrize("built_history", ["sqlite"], indirect=True)
def test_what_the_service_missed_it_knows_once_the_day_is_materialized(
    installation: Settings, published_home: Path
) -> None:
    publish(published_home, installation)
    check.run(check.Params(day=SERVED), installation)
    materialize.run(materialize.Params(day=SERVED), installation)
    following = transactions_of(SERVED + timedelta(days=1), 100)
    serve(installation, bodies_of(following))
    lake_of(installation).replace(TRANSACTIONS, following, SERVED + timedelta(days=1))
    build.run(build.Params(day=SERVED + timedelta(days=1)), installation)
    receipt = compare_served.run(compare_served.Params(day=SERVED + timedelta(days=1)), installation)
    assert (receipt.rows, receipt.facts["mismatched_rows"]) == (PER_DAY, 0)


@pytest.mark.parametrize("built_history", ["redis"], indirect=True)
def test_served_equals_offline_where_each_day_comes_online_when_it_is_due(
    built_history: Settings, published_home: Path
) -> None:
    before, last = SERVED - timedelta(days=2), SERVED - timedelta(days=1)
    online(built_history, FIRST, before)
    rows = transactions_of(SERVED, SEED)
    lake = lake_of(built_history)
    with closing(open_velocity_store(built_history)) as store:  # what the service saw the day before
        store.record_many(lake.read(TRANSACTIONS, first=last, last=last))
    bodies = bodies_of(rows)
    until = sum(body["event_time"] <= DUE.isoformat() for body in bodies)
    assert 0 < until < PER_DAY
    serve(built_history, bodies[:until])
    online(built_history, last, last)
    serve(built_history, bodies[until:])
    publish(published_home, built_history)
    receipt = compare_served.run(compare_served.Params(day=SERVED), built_history)
    assert (receipt.rows, receipt.facts["mismatched_rows"]) == (PER_DAY, 0)
    assert (receipt.facts["published_early"], receipt.facts["published_late"]) == (0, 0)
