"""Features of a range are staged by one Spark job, swapped in, served and taken back."""

from __future__ import annotations

import shutil
from datetime import date, timedelta
from pathlib import Path

import pytest

from jobs.backfill import ledger
from jobs.conf.settings import Settings, load_settings
from jobs.features import build
from jobs.features.inputs import read_record
from jobs.features.online import OnlineFeatures
from jobs.features.tables import BUILT_TABLES, CUSTOMER_FEATURES
from jobs.lake.staging import StagedLake
from jobs.lake.store import content_digest, lake_of
from jobs.lake.tables import TRANSACTIONS
from tests.backfill_support import ask, contents, staged
from tests.data_support import run_named
from tests.features_data import put, transaction_rows

pytest_plugins = ("tests.spark_server",)
DAYS = [date(2026, 2, 25) + timedelta(days=number) for number in range(4)]
ROWS = transaction_rows(
    (1, "2026-02-25 10:00:00", 1, 10, 1_00),
    (2, "2026-02-26 10:00:00", 1, 10, 3_00),
    (3, "2026-02-27 10:00:00", 2, 10, 5_00),
    (4, "2026-02-28 10:00:00", 1, 11, 7_00),
)


@pytest.fixture(scope="module")
def built_home(tmp_path_factory: pytest.TempPathFactory, spark_remote: str) -> Path:
    """Four days of transactions, and the features of all of them, served: built once for all tests."""
    folder = tmp_path_factory.mktemp("built")
    home = load_settings({"SLUICE_HOME": str(folder)}).model_copy(update={"spark_remote": spark_remote})
    put(home, ROWS)
    for day in DAYS:
        build.run(build.Params(day=day), home)
        run_named("materialize_features", home, day)
    return folder


@pytest.fixture
def built(built_home: Path, spark_home: Settings) -> Settings:
    """An installation with the four days."""
    shutil.copytree(built_home, spark_home.home)
    return spark_home


def spoilt(home: Settings) -> None:
    """Features of two days that no build would have made."""
    lake = lake_of(home)
    for day in DAYS[1:3]:
        rows = lake.read(CUSTOMER_FEATURES, first=day, last=day)
        lake.replace(CUSTOMER_FEATURES, rows.slice(0, 1), day)


def test_a_range_is_built_beside_production_swapped_in_and_taken_back(built: Settings) -> None:
    right = contents(built, "fraud_features")
    spoilt(built)
    wrong = contents(built, "fraud_features")
    name = staged(built, dag="fraud_features", first=DAYS[1], last=DAYS[2])
    assert contents(built, "fraud_features") == wrong
    ask(built, "validate", name=name, accept_differences="rows were missing")
    receipt = ask(built, "swap", name=name, execute=True, accept_differences="rows were missing")
    assert contents(built, "fraud_features") == right
    record = read_record(built, DAYS[1])
    assert record is not None
    for table in BUILT_TABLES:
        assert record.versions[table.name] == receipt.facts["versions_after"][table.name]
    run_named("check_features", built, DAYS[1])
    assert OnlineFeatures(built).row("customer", 2)[1]["customer_count_1d"] == 0.0
    ask(built, "swap", name=name, execute=True, reverse=True)
    assert contents(built, "fraud_features") == wrong
    assert read_record(built, DAYS[1]) is None


def test_a_backfill_builds_the_days_that_it_was_planned_for_and_no_others(built: Settings) -> None:
    name = staged(built, dag="fraud_features", first=DAYS[1], last=DAYS[1])
    staging = ledger.staging_of(built, name).staging
    assert staging.partitions(CUSTOMER_FEATURES) == [str(DAYS[1])]


def test_spark_reads_staged_rows_over_those_of_production(built: Settings) -> None:
    lake = lake_of(built)
    one_more = transaction_rows(
        (2, "2026-02-26 10:00:00", 1, 10, 3_00), (9, "2026-02-26 11:00:00", 1, 10, 9_00)
    )
    theirs = StagedLake(lake, "mine")
    theirs.take_over(TRANSACTIONS, str(DAYS[1]), str(DAYS[2]), one_more)  # the third day has no rows now
    staged_home = built.model_copy(update={"staging": "mine"})
    for table in BUILT_TABLES:
        theirs.take_over(table, str(DAYS[3]), str(DAYS[3]), table.schema.empty_table())
    build.run(build.Params(day=DAYS[3]), staged_home)
    rows = theirs.read(CUSTOMER_FEATURES, first=DAYS[3], last=DAYS[3]).to_pylist()
    assert {row["customer_id"]: row["customer_count_7d"] for row in rows} == {1: 4.0}
    fresh = built.model_copy(update={"home": built.home / "fresh"})
    put(fresh, theirs.read(TRANSACTIONS))
    build.run(build.Params(day=DAYS[3]), fresh)
    wanted = lake_of(fresh).read(CUSTOMER_FEATURES)
    assert content_digest(theirs.read(CUSTOMER_FEATURES, first=DAYS[3], last=DAYS[3])) == content_digest(
        wanted
    )
