"""The same jobs on a real standalone cluster, by configuration alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from jobs.conf.settings import Settings, load_settings
from jobs.core import midnight
from jobs.features import build, check
from jobs.features.history import historical_features
from jobs.features.tables import BUILT_TABLES
from jobs.lake.store import lake_of
from jobs.lake.tables import TRANSACTIONS
from jobs.spark import spark_session
from tests.features_data import DAY, label_rows, put
from tests.spark_cluster import WORKERS, cluster
from tests.spark_server import server

pytest_plugins = ("tests.spark_server",)
DAYS = [DAY + timedelta(days=number) for number in range(4)]
ROWS, HOT = 400, 7  # a fifth of all transactions is at one terminal


@dataclass(frozen=True)
class Cluster:
    """Where its Spark Connect server listens, and the folder in which its workers keep their logs."""

    remote: str
    folder: Path


@pytest.fixture(scope="module")
def on_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("cluster")
    home = tmp_path_factory.mktemp("cluster_server")
    with cluster(folder) as master, server(home, SLUICE_SPARK_MASTER=master) as remote:
        yield Cluster(remote, folder)


def fill(settings: Settings) -> None:
    """Four days with a hot terminal, and a few chargebacks."""
    chance = np.random.default_rng(5)
    for place, day in enumerate(DAYS):
        seconds = np.sort(chance.integers(0, 86_400, ROWS))
        terminals = np.where(chance.random(ROWS) < 0.2, HOT, chance.integers(10, 60, ROWS))
        rows = [
            {
                "day": day,
                "transaction_id": place * ROWS + number,
                "event_time": midnight(day) + timedelta(seconds=int(second)),
                "customer_id": int(chance.integers(1, 40)),
                "terminal_id": int(terminals[number]),
                "amount_minor": int(chance.integers(1, 90_000)),
                "available_at": midnight(day + timedelta(days=1)),
                "file_day": day,
            }
            for number, second in enumerate(seconds)
        ]
        put(settings, pa.Table.from_pylist(rows, schema=TRANSACTIONS.schema))
    put(settings, TRANSACTIONS.schema.empty_table(), label_rows((5, "2026-03-02 08:00:00", 1)))


def built(settings: Settings) -> dict[str, pd.DataFrame]:
    days = ",".join(build.run(build.Params(day=DAYS[0], last=DAYS[-1]), settings).facts["days"])
    check.run(check.Params(day=DAYS[0], days=days), settings)
    return {
        table.name: lake_of(settings)
        .read(table)
        .to_pandas()
        .sort_values(list(table.key))
        .reset_index(drop=True)
        for table in BUILT_TABLES
    }


def joined(settings: Settings) -> pd.DataFrame:
    """The last day's transactions with their features."""
    return historical_features(lake_of(settings).read(TRANSACTIONS, first=DAYS[-1]).to_pandas(), settings)


@pytest.fixture(scope="module")
def of_one_machine(
    tmp_path_factory: pytest.TempPathFactory, spark_remote: str
) -> tuple[dict[str, pd.DataFrame], pd.DataFrame]:
    """What one machine builds, and what it joins."""
    folder = tmp_path_factory.mktemp("one_machine")
    settings = load_settings({"SLUICE_HOME": str(folder)}).model_copy(update={"spark_remote": spark_remote})
    fill(settings)
    return built(settings), joined(settings)


@pytest.mark.parametrize("returned", [2_000_000, 0], ids=["returned", "written where computed"])
def test_the_cluster_builds_and_joins_what_one_machine_does(
    of_one_machine: tuple[dict[str, pd.DataFrame], pd.DataFrame],
    home: Settings,
    on_cluster: Cluster,
    monkeypatch: pytest.MonkeyPatch,
    returned: int,
) -> None:
    monkeypatch.setattr(build, "RETURNED_ROWS", returned)
    theirs = home.model_copy(update={"spark_remote": on_cluster.remote})
    fill(theirs)
    expected, features = of_one_machine
    found = built(theirs)
    for name, rows in expected.items():
        assert len(rows) > ROWS / 10
        pd.testing.assert_frame_equal(found[name], rows, check_exact=True)
    pd.testing.assert_frame_equal(joined(theirs), features)


def test_both_workers_take_part(spark_home: Settings, on_cluster: Cluster) -> None:
    session = spark_session(spark_home.model_copy(update={"spark_remote": on_cluster.remote}))
    assert session.range(1000).repartition(8).selectExpr("sum(id)").collect()[0][0] == 499_500
    executors = [
        list((on_cluster.folder / f"worker{number}" / "work").glob("app-*/*/stderr"))
        for number in range(WORKERS)
    ]
    assert [len(found) for found in executors] == [1] * WORKERS
    for (log,) in executors:
        assert "Finished task" in log.read_text(errors="replace")
