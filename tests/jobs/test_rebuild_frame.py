"""A training frame made again, bit for bit, after its tables have moved on."""

from __future__ import annotations

import shutil
from datetime import date, timedelta
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest

from jobs.conf.settings import Settings, load_settings
from jobs.core import GateClosed, Receipt, SluiceError, midnight
from jobs.features.tables import BUILT_TABLES, CUSTOMER_FEATURES, TRANSACTION_VELOCITY
from jobs.lake.at import LakeAt, versions_of
from jobs.lake.pins import pinned
from jobs.lake.store import lake_of
from jobs.lake.tables import LABELS, LANDED_FILES, TRANSACTIONS
from jobs.promotion.state import TAG_RUN, registry_client
from jobs.training import frame, labels, rebuild_frame
from jobs.training.frame import FrameFacts
from jobs.training.run_folder import RunFolder
from tests.filled_lake import demo_settings
from tests.frame_data import FIRST, LAST, put

pytest_plugins = ("tests.filled_lake",)
RUN = "scheduled__2026-02-14T00:00:00+00:00_x1"


def made(settings: Settings, run: str = RUN) -> Receipt:
    labels.run(labels.Params(day=LAST, run=run), settings)
    return frame.run(frame.Params(day=LAST, run=run), settings)


def rebuilt(settings: Settings, run: str = RUN, day: date = LAST) -> Receipt:
    return rebuild_frame.run(rebuild_frame.Params(day=day, run=run), settings)


@pytest.fixture(scope="module")
def first_frame(
    filled_home: Path, spark_remote: str, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, str]:
    """An installation in which RUN has made its frame, and its digest: made once, copied for each test."""
    folder = tmp_path_factory.mktemp("framed") / "home"
    shutil.copytree(filled_home, folder)
    return folder, made(demo_settings(load_settings({"SLUICE_HOME": str(folder)}), spark_remote)).digest


@pytest.fixture
def framed(home: Settings, first_frame: tuple[Path, str], spark_remote: str) -> Settings:
    """45 days of tables, of which RUN has made its frame."""
    shutil.copytree(first_frame[0], home.home)
    return demo_settings(home, spark_remote)


@pytest.fixture
def digest(first_frame: tuple[Path, str]) -> str:
    """Of the frame of RUN."""
    return first_frame[1]


def rows_of(settings: Settings, table: object, day: date) -> pd.DataFrame:
    return lake_of(settings).read(table, first=day, last=day).to_pandas()  # type: ignore[arg-type]


def late_row(settings: Settings, day: date, file_day: date, number: int) -> None:
    """One more transaction of `day`, that comes in the file of `file_day`, and its velocity features."""
    known = rows_of(settings, TRANSACTIONS, day)
    row = known.iloc[[0]].assign(
        transaction_id=number, file_day=file_day, available_at=midnight(file_day + timedelta(days=1))
    )
    put(settings, TRANSACTIONS, pd.concat([known, row]).to_dict("records"), day)
    velocity = rows_of(settings, TRANSACTION_VELOCITY, day)
    built = velocity.iloc[[0]].assign(transaction_id=number)
    put(settings, TRANSACTION_VELOCITY, pd.concat([velocity, built]).to_dict("records"), day)


def correct_labels(settings: Settings) -> None:
    """Every chargeback of one day is taken back, in that day's own file."""
    day = next(
        d for d in (FIRST + timedelta(days=n) for n in range(20, 40)) if len(rows_of(settings, LABELS, d))
    )
    put(settings, LABELS, rows_of(settings, LABELS, day).assign(is_fraud=0).to_dict("records"), day)


def land_again(settings: Settings) -> None:
    """A day's file comes again with other amounts, and the ledger says so."""
    day = FIRST + timedelta(days=25)
    rows = rows_of(settings, TRANSACTIONS, day)
    put(settings, TRANSACTIONS, rows.assign(amount_minor=rows["amount_minor"] + 1).to_dict("records"), day)
    files = lake_of(settings).read(LANDED_FILES, first=day, last=day).to_pylist()
    put(settings, LANDED_FILES, [file | {"sequence": 2} for file in files], day)


def build_features_again(settings: Settings) -> None:
    """The features of a day come out otherwise."""
    day, table = FIRST + timedelta(days=30), CUSTOMER_FEATURES
    rows = rows_of(settings, table, day)
    put(settings, table, rows.assign(customer_count_7d=rows["customer_count_7d"] + 1).to_dict("records"), day)


def move_on(settings: Settings) -> None:
    """Everything that later days do to a past one."""
    correct_labels(settings)
    late_row(settings, FIRST + timedelta(days=22), FIRST + timedelta(days=24), 900_001)
    land_again(settings)
    build_features_again(settings)


def test_a_frame_is_made_again_bit_for_bit_after_corrections_late_rows_and_rebuilds(
    framed: Settings,
    digest: str,
) -> None:
    original = pd.read_parquet(framed.work / "training" / RUN / "frame.parquet")
    move_on(framed)
    again = rebuilt(framed)
    assert again.facts["identical"] is True
    assert again.digest == digest
    pd.testing.assert_frame_equal(pd.read_parquet(again.facts["frame"]), original)
    assert made(framed, "today").digest != digest
    assert rebuilt(framed).digest == digest


@pytest.mark.parametrize("change", [correct_labels, land_again, build_features_again])
def test_each_of_these_changes_a_frame_that_is_not_made_of_the_old_versions(
    framed: Settings, digest: str, change: object
) -> None:
    change(framed)  # type: ignore[operator]
    assert made(framed, "today").digest != digest


def test_every_table_that_was_read_is_pinned_under_the_run(framed: Settings) -> None:
    facts = RunFolder(framed, RUN).read_model("frame.json", FrameFacts)
    assert pinned(lake_of(framed)) == {name: {version} for name, version in facts.table_versions.items()}
    assert set(facts.table_versions) == {
        "transactions", "labels", "landed_files", "merged_labels", "customer_features", "terminal_features",
        "transaction_velocity",
    }  # fmt: skip


def test_what_is_written_while_the_frame_is_made_is_not_in_it(
    framed: Settings, digest: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = frame.known_transactions

    def meanwhile(*arguments: object, **named: object) -> pa.Table:
        move_on(framed)
        return real(*arguments, **named)  # type: ignore[arg-type]

    labels.run(labels.Params(day=LAST, run="disturbed"), framed)
    monkeypatch.setattr(frame, "known_transactions", meanwhile)
    assert frame.run(frame.Params(day=LAST, run="disturbed"), framed).digest == digest


def test_a_frame_asks_for_the_velocity_of_a_late_row_that_was_not_built_yet(filled: Settings) -> None:
    day = FIRST + timedelta(days=22)
    late_row(filled, day, FIRST + timedelta(days=24), 900_001)
    velocity = rows_of(filled, TRANSACTION_VELOCITY, day)
    put(filled, TRANSACTION_VELOCITY, velocity.iloc[:-1].to_dict("records"), day)
    with pytest.raises(SluiceError, match=f"sluice build_features --day {day} --last {day}"):
        made(filled)


def test_a_row_that_came_after_the_runs_day_is_in_no_frame_of_that_day(framed: Settings, digest: str) -> None:
    late_row(framed, LAST - timedelta(days=5), LAST + timedelta(days=1), 900_002)
    assert made(framed, "later").digest == digest
    late_row(framed, LAST - timedelta(days=5), LAST, 900_003)  # its file ends with the run's day
    made(framed, "in-time")
    ids = pd.read_parquet(framed.work / "training" / "in-time" / "frame.parquet")["transaction_id"]
    assert {900_002, 900_003} & set(ids) == {900_003}


def test_rows_of_a_day_whose_own_file_never_came_are_in_no_frame(framed: Settings, digest: str) -> None:
    early = FIRST - timedelta(days=1)
    row = rows_of(framed, TRANSACTIONS, FIRST).iloc[[0]]
    row = row.assign(day=early, transaction_id=900_004, event_time=midnight(early))
    put(framed, TRANSACTIONS, row.to_dict("records"), early)
    assert made(framed, "today").digest == digest


def test_a_difference_closes_the_gate_and_names_what_differs(framed: Settings) -> None:
    file = framed.work / "training" / RUN / "frame.json"
    facts = FrameFacts.model_validate_json(file.read_text())
    build_features_again(framed)
    newer = facts.table_versions | versions_of(lake_of(framed), BUILT_TABLES)
    file.write_text(facts.model_copy(update={"table_versions": newer}).model_dump_json())
    with pytest.raises(GateClosed, match="column customer_count_7d: was") as closed:
        rebuilt(framed)
    failed = {check.name for check in closed.value.verdict.checks if check.outcome == "fail"}
    assert failed == {"digest", "column customer_count_7d"}


@pytest.mark.parametrize(
    ("update", "named"),
    [
        ({"ttl_hours": 1.0}, r"batch_ttl_hours: was 1\.0, is 48"),
        ({"published_after_hours": 0.0}, r"due_hours: was 0\.0, is 4"),
    ],
)
def test_other_definitions_than_then_are_named_before_anything_is_read(
    framed: Settings, update: dict[str, float], named: str
) -> None:
    file = framed.work / "training" / RUN / "frame.json"
    facts = FrameFacts.model_validate_json(file.read_text())
    file.write_text(facts.model_copy(update=update).model_dump_json())
    with pytest.raises(GateClosed, match=named):
        rebuilt(framed)


@pytest.mark.parametrize("table", ["labels", "terminal_features"])
def test_a_version_that_was_cleaned_away_is_said_with_its_table(framed: Settings, table: str) -> None:
    file = framed.work / "training" / RUN / "frame.json"
    facts = FrameFacts.model_validate_json(file.read_text())
    gone = facts.table_versions | {table: 999_999}
    file.write_text(facts.model_copy(update={"table_versions": gone}).model_dump_json())
    with pytest.raises(SluiceError, match=f"table {table}: version 999999 cannot be read any more"):
        rebuilt(framed)


def test_without_its_folder_a_run_is_looked_up_by_the_version_it_registered(
    framed: Settings, digest: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # a SQLite registry keeps its artifacts beside the working directory
    settings = framed.model_copy(update={"mlflow_uri": f"sqlite:///{tmp_path / 'mlflow.db'}"})
    client = registry_client(settings)
    run_id = client.create_run("0").info.run_id
    client.log_artifact(run_id, str(settings.work / "training" / RUN / "frame.json"), "evidence")
    client.create_registered_model(settings.model_name)
    client.create_model_version(settings.model_name, "nowhere", run_id, tags={TAG_RUN: RUN})
    shutil.rmtree(settings.work)
    move_on(settings)
    assert rebuilt(settings).digest == digest
    with pytest.raises(SluiceError, match="training run other: .* no version of fraud was trained by it"):
        rebuilt(settings, "other")


def test_the_day_must_be_the_runs_own(framed: Settings) -> None:
    with pytest.raises(SluiceError, match=f"its day is {LAST}, not {FIRST}"):
        rebuilt(framed, day=FIRST)


def test_a_lake_at_noted_versions_reads_these_and_is_never_written(filled: Settings) -> None:
    lake = lake_of(filled)
    noted = LakeAt(lake, versions_of(lake, [TRANSACTIONS]))
    before = noted.read(TRANSACTIONS).num_rows
    late_row(filled, FIRST, FIRST + timedelta(days=2), 900_005)
    assert noted.read(TRANSACTIONS).num_rows == before == lake.read(TRANSACTIONS).num_rows - 1
    with pytest.raises(SluiceError, match="labels: its version was not noted"):
        noted.read(LABELS)
    with pytest.raises(SluiceError, match="never written"):
        noted.replace(TRANSACTIONS, TRANSACTIONS.schema.empty_table(), FIRST)
    absent = LakeAt(lake, {LABELS.name: -1})
    assert absent.read(LABELS, columns=["day"]).column_names == ["day"]
    gone = LakeAt(lake, {LABELS.name: 999_999})
    with pytest.raises(SluiceError, match="version 999999 cannot be read any more"):
        gone.read(LABELS)
