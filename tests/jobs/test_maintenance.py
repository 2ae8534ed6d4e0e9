"""Cleaning removes what nobody needs, and nothing else."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError
from deltalake.table import TableOptimizer
from mlflow import MlflowClient

from jobs.conf.policy import load_policy, policy_of
from jobs.conf.settings import Settings
from jobs.core import Receipt, SluiceError, midnight
from jobs.lake.pins import pin, pinned, unpin
from jobs.lake.staging import StagedLake
from jobs.lake.store import content_digest, lake_of
from jobs.lake.tables import LANDED_FILES, MERGED_LABELS, PINS, PREDICTIONS, QUARANTINE, Table
from tests.backfill_support import planned
from tests.data_support import DAY, good_rows, put_transactions, run_named

LONG_AGO = DAY - timedelta(days=1000)
Retain = Callable[..., None]


@pytest.fixture
def retain(monkeypatch: pytest.MonkeyPatch) -> Retain:
    """Change the policy's section `retention` of every installation of this test."""

    def change(**days: int) -> None:
        policy = load_policy()
        changed = policy.model_copy(update={"retention": policy.retention.model_copy(update=days)})
        for module in ("vacuum_tables", "compact_tables", "expire_data"):
            monkeypatch.setattr(f"jobs.maintenance.{module}.policy_of", lambda _: changed)

    return change


def maintain(name: str, home: Settings, day: date = DAY, *, dry_run: bool = False) -> Receipt:
    return run_named(name, home, day, dry_run=dry_run)


def prediction(number: int, day: date = DAY) -> dict[str, object]:
    moment = midnight(day)
    return {
        "day": day, "request_id": f"r{number}", "transaction_id": number, "event_time": moment,
        "customer_id": 1, "terminal_id": 2, "amount_minor": 300, "model_version": "1",
        "variant": "champion", "step": "", "score": 0.5, "decision": "approve", "rule": "", "error": "",
        "latency_ms": 1.0, "served_at": moment, "feature_version": "v", "would_be": "",
        "features": [1.0, None],
    }  # fmt: skip


def log_predictions(home: Settings, count: int, day: date = DAY) -> None:
    """As many appends of one row each, as the scoring service does it."""
    for number in range(count):
        rows = pa.Table.from_pylist([prediction(number, day)], PREDICTIONS.schema)
        lake_of(home).append(PREDICTIONS, rows)


def merge_day(home: Settings, rows: int, day: date = DAY) -> int:
    """A version of merged_labels that says so many rows."""
    row = {"day": day, "digest": "d", "rows": rows}
    return lake_of(home).replace(MERGED_LABELS, pa.Table.from_pylist([row], MERGED_LABELS.schema), day)


def rows_at(home: Settings, version: int) -> list[int]:
    return lake_of(home).read(MERGED_LABELS, version=version)["rows"].to_pylist()


def data_files(home: Settings, table: Table) -> list[Path]:
    return sorted(Path(lake_of(home).path(table)).rglob("*.parquet"))


def live_files(home: Settings, table: Table) -> int:
    return len(lake_of(home).delta(table).file_uris())


def age(path: Path, day: date) -> None:
    """Let all files of a folder, or one file, have been changed last on a day."""
    seconds = midnight(day).timestamp()
    for entry in (path, *path.rglob("*")):
        os.utime(entry, (seconds, seconds))


# compaction


def test_compaction_makes_one_file_of_many_with_the_same_rows(home: Settings) -> None:
    log_predictions(home, 10)
    before = content_digest(lake_of(home).read(PREDICTIONS))
    receipt = maintain("compact_tables", home)
    assert receipt.facts["by_table"] == {"predictions": 9}
    assert live_files(home, PREDICTIONS) == 1
    assert content_digest(lake_of(home).read(PREDICTIONS)) == before
    assert maintain("compact_tables", home).facts["partitions"] == 0


def test_a_day_that_is_not_over_is_not_compacted(home: Settings) -> None:
    log_predictions(home, 10, DAY + timedelta(days=1))
    assert maintain("compact_tables", home).facts["partitions"] == 0
    assert live_files(home, PREDICTIONS) == 10


def test_a_dry_run_is_the_default_and_changes_nothing(home: Settings, retain: Retain) -> None:
    retain(version_days=0)
    log_predictions(home, 10)
    for number in range(3):
        merge_day(home, number)
    versions = [lake_of(home).version(table) for table in (PREDICTIONS, MERGED_LABELS)]
    files = data_files(home, MERGED_LABELS)
    assert run_named("compact_tables", home).facts["files_fewer"] == 9
    assert run_named("vacuum_tables", home).facts["files"] == 2
    assert [lake_of(home).version(table) for table in (PREDICTIONS, MERGED_LABELS)] == versions
    assert data_files(home, MERGED_LABELS) == files


# vacuum


def test_vacuum_keeps_the_current_and_the_pinned_version_and_removes_the_others(
    home: Settings, retain: Retain
) -> None:
    retain(version_days=0)
    versions = [merge_day(home, number) for number in range(6)]
    pin(lake_of(home), "run.a", {MERGED_LABELS.name: versions[2]})
    receipt = maintain("vacuum_tables", home)
    assert receipt.facts["by_table"][MERGED_LABELS.name] == 4
    assert receipt.facts["bytes"] > 0
    assert rows_at(home, versions[2]) == [2]
    assert lake_of(home).read(MERGED_LABELS)["rows"].to_pylist() == [5]
    with pytest.raises((FileNotFoundError, SluiceError)):
        rows_at(home, versions[4])


def test_a_version_goes_once_its_pin_is_gone(home: Settings, retain: Retain) -> None:
    retain(version_days=0)
    versions = [merge_day(home, number) for number in range(3)]
    pin(lake_of(home), "run.a", {MERGED_LABELS.name: versions[0]})
    maintain("vacuum_tables", home)
    assert rows_at(home, versions[0]) == [0]
    unpin(lake_of(home), "run.a")
    maintain("vacuum_tables", home)
    with pytest.raises((FileNotFoundError, SluiceError)):
        rows_at(home, versions[0])


def test_versions_within_the_retention_stay_readable(home: Settings) -> None:
    versions = [merge_day(home, number) for number in range(4)]
    assert maintain("vacuum_tables", home).facts["files"] == 0
    assert [rows_at(home, version) for version in versions] == [[0], [1], [2], [3]]


def test_a_pinned_version_stays_readable_when_its_log_is_older_than_any_retention(
    home: Settings, retain: Retain
) -> None:
    """More commits than a checkpoint takes, all older than the 30 days after which Delta cuts its log."""
    retain(version_days=1)
    lake = lake_of(home)
    versions = [merge_day(home, number) for number in range(5)]
    pin(lake, "run.a", {MERGED_LABELS.name: versions[3]})
    maintain("vacuum_tables", home)
    folder = Path(lake.path(MERGED_LABELS))
    for number in range(5, 110):
        merge_day(home, number)
        if number % 50 == 0:
            age(folder, LONG_AGO)
    age(folder, LONG_AGO)
    merge_day(home, 110)
    retain(version_days=0)
    receipt = maintain("vacuum_tables", home)
    assert rows_at(home, versions[3]) == [3]
    assert lake.read(MERGED_LABELS)["rows"].to_pylist() == [110]
    assert receipt.facts["log_entries"] >= 3
    assert not (folder / "_delta_log" / f"{versions[2]:020}.json").exists()


def test_what_a_killed_writer_left_goes_and_the_table_stays(home: Settings, retain: Retain) -> None:
    retain(version_days=0)
    merge_day(home, 1)
    leftover = data_files(home, MERGED_LABELS)[0].with_name("part-00000-never-committed.parquet")
    leftover.write_bytes(b"half")
    assert maintain("vacuum_tables", home).facts["files"] == 1
    assert not leftover.exists()
    assert lake_of(home).read(MERGED_LABELS)["rows"].to_pylist() == [1]


def test_a_pin_that_cannot_be_honoured_stops_the_cleaning_of_its_table(
    home: Settings, retain: Retain
) -> None:
    retain(version_days=0)
    for number in range(3):
        merge_day(home, number)
    files = data_files(home, MERGED_LABELS)
    pin(lake_of(home), "run.a", {MERGED_LABELS.name: 99})
    with pytest.raises(SluiceError, match="merged_labels: not cleaned"):
        maintain("vacuum_tables", home)
    assert data_files(home, MERGED_LABELS) == files


# retention


def test_rows_older_than_the_policy_keeps_them_are_deleted(home: Settings) -> None:
    lake, keep = lake_of(home), policy_of(home).retention.predictions_days
    oldest = DAY - timedelta(days=keep - 1)
    for day in (oldest - timedelta(days=1), oldest, DAY):
        log_predictions(home, 1, day)
    assert maintain("expire_data", home, dry_run=True).rows == 1
    assert len(lake.read(PREDICTIONS)) == 3
    assert maintain("expire_data", home).facts["predictions"] == {"rows": 1}
    assert sorted(lake.read(PREDICTIONS)["day"].to_pylist()) == [oldest, DAY]
    assert maintain("expire_data", home).rows == 0


def test_quarantined_rows_are_kept_for_their_days(home: Settings, retain: Retain) -> None:
    put_transactions(home, [*good_rows(30), "31,soon,1,3,2.00"])
    for job in ("land_transactions", "validate_transactions", "quarantine_transactions"):
        run_named(job, home)
    retain(quarantine_days=2)
    assert maintain("expire_data", home, DAY + timedelta(days=1)).facts["quarantine"] == {}
    assert maintain("expire_data", home, DAY + timedelta(days=2)).facts["quarantine"] == {"rows": 1}
    assert len(lake_of(home).read(QUARANTINE)) == 0


def test_only_landed_objects_that_no_longer_count_expire(home: Settings, retain: Retain) -> None:
    retain(raw_days=10)
    paths = []
    for rows in (5, 6, 5):
        put_transactions(home, good_rows(rows))
        paths.append(home.raw / run_named("land_transactions", home).facts["path"])
    later = DAY + timedelta(days=10)
    assert maintain("expire_data", home, later).facts["raw"] == {}, "landed just now, whatever its day"
    killed = home.raw / ".arriving.x"
    killed.write_text("a file whose landing was killed")
    age(home.raw, DAY)
    assert maintain("expire_data", home, later - timedelta(days=1)).facts["raw"] == {}
    assert maintain("expire_data", home, later).facts["raw"]["files"] == 2
    assert not killed.exists()
    assert (paths[0].exists(), paths[1].exists(), paths[2].exists()) == (True, False, True)
    assert len(lake_of(home).read(LANDED_FILES)) == 3
    assert run_named("validate_transactions", home).rows == 5


def test_work_and_reports_expire_when_day_and_last_change_are_old(home: Settings, retain: Retain) -> None:
    retain(work_days=3, reports_days=3)
    old, young = DAY - timedelta(days=3), DAY - timedelta(days=2)
    suite = home.reports / "data_docs" / "validations" / "suite"
    for day in (old, young):
        for folder in (home.work / "transactions" / str(day), suite / f"{day}-abc"):
            folder.mkdir(parents=True)
            (folder / "file").write_text("x")
            age(folder, day)
    owed = home.work / "features" / str(old)
    owed.mkdir(parents=True)
    (owed / "owed-1").touch()
    age(owed, old)
    facts = maintain("expire_data", home).facts
    assert (facts["work"], facts["reports"]) == ({"files": 1, "bytes": 1}, {"files": 1, "bytes": 1})
    assert [folder.name for folder in (home.work / "transactions").iterdir()] == [str(young)]
    assert [folder.name for folder in suite.iterdir()] == [f"{young}-abc"]
    assert owed.exists(), "its features are still to be served"


def test_pins_go_with_a_training_that_was_never_registered_and_stay_with_any_version(
    home: Settings, tmp_path: Path, retain: Retain
) -> None:
    retain(work_days=3)
    ours = home.model_copy(update={"mlflow_uri": f"sqlite:///{tmp_path / 'mlflow.db'}"})
    client = MlflowClient(ours.mlflow_uri, ours.mlflow_uri)
    client.create_registered_model(ours.model_name)
    client.create_model_version(ours.model_name, "file:///m", tags={"sluice.run": "kept"})
    lake = lake_of(ours)
    for name in ("run.kept", "run.forgotten", "run.running", "backfill.b"):
        pin(lake, name, {MERGED_LABELS.name: 0})
    for run, day in (("forgotten", LONG_AGO), ("kept", LONG_AGO), ("running", DAY)):
        folder = ours.work / "training" / run
        folder.mkdir(parents=True)
        (folder / "labels.json").write_text("{}")
        age(folder, day)
    assert maintain("expire_data", ours, dry_run=True).facts["pins"] == ["run.forgotten"]
    assert maintain("expire_data", ours).facts["pins"] == ["run.forgotten"]
    left = {row["name"] for row in lake.read(PINS).to_pylist()}
    assert left == {"run.kept", "run.running", "backfill.b"}
    assert pinned(lake) == {MERGED_LABELS.name: {0}}
    assert [folder.name for folder in (ours.work / "training").iterdir()] == ["running"]


def test_predictions_must_outlive_the_labels_that_judge_them(home: Settings, retain: Retain) -> None:
    retain(predictions_days=10)
    with pytest.raises(SluiceError, match="must be at least 31"):
        maintain("expire_data", home)


# freshness


def judge_freshness(home: Settings, moment: datetime) -> Receipt:
    from jobs.monitoring.freshness import Params, run

    return run(Params(as_of=moment), home)


def test_a_feed_is_overdue_only_after_its_due_hours_and_the_policys(home: Settings) -> None:
    put_transactions(home, good_rows(5))
    for job in ("land_transactions", "validate_transactions", "quarantine_transactions"):
        run_named(job, home)
    run_named("publish_transactions", home)
    merge_day(home, 0)
    late = deadline(home, DAY + timedelta(days=1))
    assert judge_freshness(home, late - timedelta(seconds=1)).facts["overdue"] == []
    receipt = judge_freshness(home, late)
    assert receipt.rows == 2
    assert receipt.facts["overdue"][0].startswith("transactions of 2026-01-06 is not there")
    assert judge_freshness(home, late + timedelta(hours=5)).rows == 0, "one alert for a feed and day"
    assert "fraud_ingest for 2026-01-06" in (home.home / "alerts.jsonl").read_text()
    merge_day(home, 0, DAY + timedelta(days=1))
    assert len(judge_freshness(home, late).facts["overdue"]) == 1


def test_a_source_that_has_not_begun_or_has_ended_is_never_overdue(home: Settings) -> None:
    first = midnight(home.first_day)
    assert judge_freshness(home, first + timedelta(hours=20)).facts["overdue"] == []
    assert len(judge_freshness(home, deadline(home, home.first_day)).facts["overdue"]) == 2
    ended = home.model_copy(update={"last_day": DAY, "home": home.home / "ended"})
    merge_day(ended, 0)
    far = datetime(2027, 1, 1, tzinfo=UTC)
    assert [text.split()[0] for text in judge_freshness(ended, far).facts["overdue"]] == ["transactions"]


def deadline(home: Settings, day: date) -> datetime:
    """When transactions of a day are overdue; both feeds of the simulated source are due alike."""
    from jobs.conf.contract import contract_of

    hours = contract_of(home).transactions.due_hours + policy_of(home).quality.freshness_alert_hours
    return midnight(day + timedelta(days=1)) + timedelta(hours=hours)


def test_an_object_that_counts_again_once_a_swap_is_taken_back_stays(home: Settings, retain: Retain) -> None:
    retain(raw_days=10)
    put_transactions(home, good_rows(5))
    first = home.raw / run_named("land_transactions", home).facts["path"]
    pin(lake_of(home), "backfill.a", {LANDED_FILES.name: lake_of(home).version(LANDED_FILES)})
    put_transactions(home, good_rows(6))
    run_named("land_transactions", home)
    age(home.raw, DAY)
    later = DAY + timedelta(days=20)
    assert maintain("expire_data", home, later).facts["raw"] == {}
    unpin(lake_of(home), "backfill.a")
    assert maintain("expire_data", home, later).facts["raw"]["files"] == 1
    assert not first.exists()


def test_an_object_that_an_open_backfill_has_landed_stays(home: Settings, retain: Retain) -> None:
    retain(raw_days=10)
    for rows in (5, 6):
        put_transactions(home, good_rows(rows))
        run_named("land_transactions", home)
    age(home.raw, DAY)
    name = planned(home, first=DAY, last=DAY)
    staged = StagedLake(lake_of(home), name)
    staged.take_over(LANDED_FILES, str(DAY), str(DAY), lake_of(home).read(LANDED_FILES))
    put_transactions(home, good_rows(5))
    beside = home.model_copy(update={"staging": name})
    path = home.raw / run_named("land_transactions", beside).facts["path"]
    maintain("expire_data", home, DAY + timedelta(days=20))
    assert path.exists()


def test_raw_objects_expire_only_while_nothing_is_landed(home: Settings, retain: Retain) -> None:
    retain(raw_days=10)
    put_transactions(home, good_rows(5))
    run_named("land_transactions", home)
    with ThreadPoolExecutor(1) as pool, lake_of(home).exclusively("landing"):
        cleaning = pool.submit(maintain, "expire_data", home, DAY + timedelta(days=20))
        with pytest.raises(TimeoutError):
            cleaning.result(timeout=1.0)


@pytest.mark.parametrize("job", ["compact_tables", "vacuum_tables"])
def test_what_a_store_answers_is_not_repeated(
    home: Settings, job: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_predictions(home, 10)
    answer = "403 Forbidden\n<?xml version='1.0'?><AWSAccessKeyId>AKIA</AWSAccessKeyId>"

    def refused(*_: object, **__: object) -> None:
        raise DeltaError(answer)

    monkeypatch.setattr(TableOptimizer, "compact", refused)
    monkeypatch.setattr(DeltaTable, "vacuum", refused)
    with pytest.raises(SluiceError, match="403 Forbidden") as caught:
        maintain(job, home)
    assert "AKIA" not in str(caught.value)
