"""The jobs with their tables on S3: delta-rs and Spark on one lake, and no credential anywhere."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import pytest

from jobs.conf.settings import Settings, load_settings
from jobs.core import Receipt
from jobs.features.history import historical_features
from jobs.features.tables import CUSTOMER_FEATURES, TERMINAL_FEATURES
from jobs.lake.storage import spark_address
from jobs.lake.store import lake_of
from jobs.lake.tables import LABELS, TRANSACTIONS
from jobs.spark_server import HADOOP, find_java
from tests.data_support import (
    DAY,
    good_rows,
    ingest_day,
    label_day,
    put_labels,
    put_transactions,
    run_named,
)
from tests.lake_server import BUCKET, LakeServer, serve_lake
from tests.spark_server import server as spark_server

NEXT = DAY + timedelta(days=1)
LAKE = f"s3://{BUCKET}/payments/tables"


class OnS3:
    """An installation with its lake on S3 and a Spark server."""

    def __init__(self, settings: Settings, server: LakeServer) -> None:
        self.settings = settings
        self.server = server
        self.receipts: list[Receipt] = []


@pytest.fixture(scope="module")
def on_s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OnS3]:
    folder = tmp_path_factory.mktemp("on-s3")
    (folder / "spark").mkdir()
    settings = load_settings(
        {
            "SLUICE_HOME": str(folder / "home"),
            "SLUICE_LAKE_URI": LAKE,
            "SLUICE_SOURCE_URI": str(folder / "source" / "transactions"),
            "SLUICE_LABELS_URI": str(folder / "source" / "labels"),
        }
    )
    with serve_lake(folder / "s3") as server, pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment().items():
            patch.setenv(name, value)
        with spark_server(folder / "spark", SLUICE_LAKE_URI=LAKE) as remote:
            yield OnS3(settings.model_copy(update={"spark_remote": remote}), server)


@pytest.fixture(scope="module")
def built(on_s3: OnS3) -> OnS3:
    """Two days landed, published and labelled, and their features built."""
    for day in (DAY, NEXT):
        shift = 0 if day == DAY else 100
        rows = [row.replace(row.split(",")[0], str(int(row.split(",")[0]) + shift), 1)
                for row in good_rows(30, day)]  # fmt: skip
        put_transactions(on_s3.settings, rows, day)
        on_s3.receipts += ingest_day(on_s3.settings, day).values()
        put_labels(on_s3.settings, ["1,2026-01-06T09:00:00Z,1"] if day == NEXT else [], day)
        on_s3.receipts += label_day(on_s3.settings, day).values()
        on_s3.receipts.append(run_named("build_features", on_s3.settings, day))
    return on_s3


def test_the_day_is_published_labelled_and_its_features_are_built(built: OnS3) -> None:
    lake = lake_of(built.settings)
    assert lake.read(TRANSACTIONS).num_rows == 60
    assert lake.read(LABELS)["transaction_id"].to_pylist() == [1]
    assert lake.partitions(CUSTOMER_FEATURES) == [str(DAY), str(NEXT)]
    terminal = lake.read(TERMINAL_FEATURES, first=NEXT).to_pylist()
    assert [row["terminal_id"] for row in terminal] == [3]
    assert not (built.settings.home / "lake").exists()
    assert "_leases/customer_features.json" in built.server.objects("payments/tables")


def test_building_the_features_again_gives_the_same_digest(built: OnS3) -> None:
    first = run_named("build_features", built.settings, NEXT)
    second = run_named("build_features", built.settings, NEXT)
    assert first.digest == second.digest
    assert second.version == first.version + 1


def test_feast_reads_the_features_from_s3(built: OnS3) -> None:
    noon = datetime(2026, 1, 6, 12, tzinfo=UTC)
    events = pd.DataFrame(
        {"transaction_id": [1], "event_time": [noon], "customer_id": [1], "terminal_id": [3],
         "amount_minor": [1250]}
    )  # fmt: skip
    frame = historical_features(events, built.settings)
    assert frame["customer_count_1d"].tolist() == [4.0]


def test_no_credential_is_in_a_command_line_a_log_a_receipt_or_a_file(built: OnS3) -> None:
    secret = built.server.secret.encode()
    commands = subprocess.run(["ps", "-eo", "args"], capture_output=True, check=True).stdout
    assert str(find_java()).encode() in commands
    assert secret not in commands
    assert secret not in " ".join(receipt.model_dump_json() for receipt in built.receipts).encode()
    for folder in (built.settings.home, built.server.folder, built.settings.home.parent):
        for file in folder.rglob("*"):
            assert not file.is_file() or secret not in file.read_bytes(), file


def test_spark_and_hadoop_are_of_one_version() -> None:
    import pyspark

    assert list((Path(pyspark.__file__).parent / "jars").glob(f"hadoop-client-api-{HADOOP}.jar"))


def test_spark_spells_the_address_its_own_way(built: OnS3) -> None:
    assert spark_address(lake_of(built.settings).path(LABELS)) == f"s3a://{BUCKET}/payments/tables/labels"
