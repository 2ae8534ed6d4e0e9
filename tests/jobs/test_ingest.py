"""From a source's file to published rows: nothing lost, nothing doubled, nothing changed on the way."""

from __future__ import annotations

import os
import shutil
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, date, datetime, timedelta
from multiprocessing import get_context
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable

from jobs.conf.settings import Settings, load_settings
from jobs.core import GateClosed, SluiceError
from jobs.ingest.landing import newest
from jobs.ingest.releases import quarantined
from jobs.lake.store import content_digest, lake_of
from jobs.lake.tables import LABELS, LANDED_FILES, MERGED_LABELS, QUARANTINE, TRANSACTIONS
from tests.data_support import (
    DAY,
    good_row,
    good_rows,
    ingest_day,
    label_day,
    put_labels,
    put_transactions,
    run_named,
)
from tests.s3_server import serve_s3

NEXT = DAY + timedelta(days=1)


def test_a_clean_day_is_published_in_minor_units_and_utc(home: Settings) -> None:
    put_transactions(home, ["1,2026-01-05T10:00:00+02:00,4,3,12.5", *good_rows(30)[1:]])
    receipts = ingest_day(home)
    assert receipts["publish_transactions"].rows == 30
    row = lake_of(home).read(TRANSACTIONS).to_pylist()[0]
    assert row == {
        "day": DAY, "transaction_id": 1, "event_time": datetime(2026, 1, 5, 8, tzinfo=UTC),
        "customer_id": 4, "terminal_id": 3, "amount_minor": 1250,
        "available_at": datetime(2026, 1, 6, tzinfo=UTC), "file_day": DAY,
    }  # fmt: skip


def test_landing_keeps_the_bytes_and_repeating_it_changes_nothing(home: Settings) -> None:
    path = put_transactions(home, good_rows(5))
    first = run_named("land_transactions", home)
    table = content_digest(lake_of(home).read(LANDED_FILES))
    second = run_named("land_transactions", home)
    assert (home.raw / first.facts["path"]).read_bytes() == path.read_bytes()
    assert (first.facts["is_new"], second.facts["is_new"]) == (True, False)
    assert first.digest == second.digest
    assert content_digest(lake_of(home).read(LANDED_FILES)) == table


def test_another_file_becomes_the_next_version_beside_the_old_one(home: Settings) -> None:
    put_transactions(home, good_rows(5))
    first = run_named("land_transactions", home)
    put_transactions(home, good_rows(6))
    second = run_named("land_transactions", home)
    put_transactions(home, good_rows(5))
    third = run_named("land_transactions", home)
    assert [receipt.facts["landed_version"] for receipt in (first, second, third)] == [1, 2, 3]
    assert (home.raw / first.facts["path"]).exists()
    assert (home.raw / second.facts["path"]).exists()
    assert newest(home, "transactions", DAY).rows == 5


def test_a_raw_object_is_never_written_again(home: Settings) -> None:
    put_transactions(home, good_rows(5))
    path = home.raw / run_named("land_transactions", home).facts["path"]
    before = path.stat()
    for rows in (6, 5):
        put_transactions(home, good_rows(rows))
        run_named("land_transactions", home)
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_the_ledger_says_when_the_source_s_object_was_last_modified(home: Settings) -> None:
    path = put_transactions(home, good_rows(5))
    os.utime(path, ns=(0, 1_767_700_000_123_456_789))
    run_named("land_transactions", home)
    arrived = datetime(2026, 1, 6, 11, 46, 40, 123456, tzinfo=UTC)
    assert newest(home, "transactions", DAY).arrived_at == arrived
    os.utime(path, ns=(0, 0))  # the same bytes sent again are no new version
    assert run_named("land_transactions", home).facts["arrived_at"] == arrived.isoformat()


def test_both_feeds_of_a_day_stay_in_the_ledger(home: Settings) -> None:
    put_transactions(home, good_rows(5))
    put_labels(home, [], DAY)
    run_named("land_transactions", home)
    run_named("land_labels", home)
    run_named("land_transactions", home)
    feeds = lake_of(home).read(LANDED_FILES)["feed"].to_pylist()
    assert sorted(feeds) == ["labels", "transactions"]


def test_running_a_day_again_gives_the_same_contents(home: Settings) -> None:
    put_transactions(home, [*good_rows(140), good_row(140), "141,soon,1,3,2.00"])
    lake = lake_of(home)
    digests = []
    for _ in range(2):
        receipts = ingest_day(home)
        digests.append(
            (receipts["publish_transactions"].digest, receipts["quarantine_transactions"].digest,
             content_digest(lake.read(TRANSACTIONS)), content_digest(lake.read(QUARANTINE)))
        )  # fmt: skip
    assert digests[0] == digests[1]
    assert len(lake.read(TRANSACTIONS)) == 140


def test_a_source_that_the_installation_does_not_name_is_never_opened(home: Settings, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    with pytest.raises(SluiceError, match="not one of this installation's sources"):
        run_named("land_transactions", home, source_uri=str(tmp_path / "other"))
    named = home.model_copy(update={"extra_source_uris": f"s3://x-y/z, {tmp_path / 'other'}"})
    with pytest.raises(SluiceError, match="empty"):
        run_named("land_transactions", named, source_uri=str(tmp_path / "other"))


def test_an_empty_file_is_refused_before_anything_is_landed(home: Settings) -> None:
    put_transactions(home, []).write_bytes(b"")
    with pytest.raises(SluiceError, match="the file is empty"):
        run_named("land_transactions", home)
    assert not (home.raw / "transactions").exists()
    assert list(home.raw.glob(".arriving.*")) == []
    with pytest.raises(SluiceError, match="nothing was landed"):
        run_named("validate_transactions", home)


def test_a_raw_object_that_was_changed_is_noticed(home: Settings) -> None:
    put_transactions(home, good_rows(5))
    path = home.raw / run_named("land_transactions", home).facts["path"]
    path.write_bytes(path.read_bytes() + b"6,2026-01-05T10:00:00Z,1,1,1.00\n")
    with pytest.raises(SluiceError, match="was changed after landing"):
        run_named("validate_transactions", home)


def test_a_day_is_landed_from_s3_and_from_a_directory_alike(
    home: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = put_transactions(home, good_rows(5))
    (tmp_path / "s3" / "bucket").mkdir(parents=True)
    shutil.copy(path, tmp_path / "s3" / "bucket")
    with serve_s3(tmp_path / "s3") as server:
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        from_s3 = run_named("land_transactions", home.model_copy(update={"source_uri": "s3://bucket"}))
    assert run_named("land_transactions", home).digest == from_s3.digest


@pytest.mark.parametrize("job", ["quarantine_transactions", "publish_transactions"])
def test_without_a_passed_validation_of_this_very_file_nothing_is_published(home: Settings, job: str) -> None:
    put_transactions(home, good_rows(10))
    run_named("land_transactions", home)
    with pytest.raises(GateClosed, match="there is no validation"):
        run_named(job, home)
    run_named("validate_transactions", home)
    put_transactions(home, good_rows(11))
    run_named("land_transactions", home)
    with pytest.raises(GateClosed, match="about another landed file"):
        run_named(job, home)
    run_named("validate_transactions", home)
    folder = home.work / "transactions" / str(DAY)
    evidence = (folder / "validation.json").read_bytes()
    (folder / "validation.json").write_bytes(b"")
    with pytest.raises(GateClosed, match="not readable"):
        run_named(job, home)
    (folder / "validation.json").write_bytes(evidence)
    pq.write_table(pq.read_table(folder / "parsed.parquet").slice(0, 3), folder / "parsed.parquet")
    with pytest.raises(GateClosed, match="not those of the validation"):
        run_named(job, home)


def test_a_failed_day_keeps_what_was_published_until_it_is_repaired(home: Settings) -> None:
    put_transactions(home, good_rows(10))
    ingest_day(home)
    put_transactions(home, [",,,,"] * 10)
    run_named("land_transactions", home)
    with pytest.raises(GateClosed):
        run_named("validate_transactions", home)
    with pytest.raises(GateClosed, match="fail"):
        run_named("publish_transactions", home)
    assert len(lake_of(home).read(TRANSACTIONS)) == 10
    put_transactions(home, good_rows(12))
    ingest_day(home)
    assert len(lake_of(home).read(TRANSACTIONS)) == 12


def test_chargebacks_become_labels_of_the_day_on_which_they_are_reported(home: Settings) -> None:
    put_transactions(home, good_rows(10))
    ingest_day(home)
    put_labels(home, ["3,2026-01-06T09:30:00Z,1", "4,2026-01-06T10:00:00Z,0"], NEXT)
    label_day(home, NEXT)
    assert lake_of(home).read(LABELS).to_pylist() == [
        {"day": NEXT, "transaction_id": 3, "is_fraud": 1,
         "available_at": datetime(2026, 1, 6, 9, 30, tzinfo=UTC)},
        {"day": NEXT, "transaction_id": 4, "is_fraud": 0,
         "available_at": datetime(2026, 1, 6, 10, 0, tzinfo=UTC)},
    ]  # fmt: skip


def test_a_day_without_chargebacks_is_noted_as_merged_and_a_new_file_only_once_it_is(home: Settings) -> None:
    put_transactions(home, good_rows(10))
    ingest_day(home)
    put_labels(home, [], NEXT)
    label_day(home, NEXT)
    lake = lake_of(home)
    merged = lake.read(MERGED_LABELS).to_pylist()
    assert merged == [{"day": NEXT, "digest": newest(home, "labels", NEXT).digest, "rows": 0}]
    put_labels(home, ["3,2026-01-06T09:30:00Z,1"], NEXT)
    run_named("land_labels", home, NEXT)
    assert lake.read(MERGED_LABELS).to_pylist() == merged
    label_day(home, NEXT)
    assert lake.read(MERGED_LABELS)["digest"].to_pylist() == [newest(home, "labels", NEXT).digest]


def test_an_append_that_was_committed_is_never_an_error(
    home: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = {"day": NEXT, "digest": "a", "rows": 0}
    rows, lake = pa.Table.from_pylist([row], MERGED_LABELS.schema), lake_of(home)
    monkeypatch.setattr(DeltaTable, "version", lambda self: 1 / 0)
    lake.append(MERGED_LABELS, rows)
    monkeypatch.undo()
    assert lake.read(MERGED_LABELS).to_pylist() == [row]


def test_quarantined_labels_and_transactions_of_one_day_do_not_replace_each_other(
    home: Settings,
) -> None:
    put_transactions(home, good_rows(30))
    ingest_day(home)
    others = [good_row(number, NEXT) for number in range(101, 141)]
    put_transactions(home, [*others, "141,soon,1,3,2.00"], NEXT)
    put_labels(
        home,
        [*[f"{number},2026-01-06T09:00:00Z,1" for number in range(1, 31)], "999,2026-01-06T10:00:00Z,7"],
        NEXT,
    )
    label_day(home, NEXT)
    ingest_day(home, NEXT)
    lake = lake_of(home)
    assert quarantined(lake, feed="transactions", day=NEXT)["rule"].to_pylist() == [
        "event_time: not a timestamp"
    ]
    assert quarantined(lake, feed="labels").to_pylist() == [
        {"part": "labels.2026-01-06", "day": NEXT, "feed": "labels", "row_number": 31,
         "rule": "is_fraud: bounds", "row": '["999", "2026-01-06T10:00:00Z", "7"]',
         "digest": newest(home, "labels", NEXT).digest,
         "run": f"2026-01-06-{newest(home, 'labels', NEXT).digest[:16]}"}
    ]  # fmt: skip


# a source without a chargeback feed: the label is a column of the transactions


@pytest.fixture
def with_label_column(tmp_path: Path) -> Settings:
    settings = load_settings(
        {
            "SLUICE_HOME": str(tmp_path / "home"),
            "SLUICE_CONTRACT": "handbook",
            "SLUICE_SOURCE_URI": str(tmp_path / "source"),
        }
    )
    (tmp_path / "source").mkdir()
    for offset in range(3):
        day = date(2018, 4, 1) + timedelta(days=offset)
        ids = [10 * offset + number for number in range(1, 5)]
        times = [datetime(day.year, day.month, day.day, 23, 30, tzinfo=UTC)] * 4
        table = pa.table(
            {
                "TRANSACTION_ID": pa.array(ids, pa.int32()),
                "TX_DATETIME": pa.array(times, pa.timestamp("ms", "UTC")),
                "CUSTOMER_ID": pa.array([1, 2, 3, 4], pa.int32()),
                "TERMINAL_ID": pa.array([5, 6, 7, 8], pa.int32()),
                "TX_AMOUNT": [57.16, 0.1 + 0.2, 100.0, 5.5],
                "TX_FRAUD": pa.array([0, 1, 0, 1], pa.int8()),
                "TX_FRAUD_SCENARIO": pa.array([0, 1, 0, 2], pa.int8()),
            }
        )
        pq.write_table(table, tmp_path / "source" / f"{day}.parquet")
    return settings


def test_parquet_is_mapped_by_the_contract_and_the_answer_is_left_out(
    with_label_column: Settings,
) -> None:
    ingest_day(with_label_column, date(2018, 4, 1))
    table = lake_of(with_label_column).read(TRANSACTIONS)
    assert table.column_names == TRANSACTIONS.schema.names
    assert table["amount_minor"].to_pylist() == [5716, 30, 10000, 550]


def test_labels_from_transactions_arrive_after_the_delay(with_label_column: Settings) -> None:
    ingest_day(with_label_column, date(2018, 4, 1))
    day = date(2018, 4, 8)
    receipts = label_day(with_label_column, day)
    assert receipts["land_labels"].facts["remark"] == "frauds of 2018-04-01"
    about = Path(with_label_column.source_uri) / "2018-04-01.parquet"
    arrived = newest(with_label_column, "labels", day).arrived_at
    assert arrived is not None
    assert arrived.timestamp() == pytest.approx(about.stat().st_mtime, abs=1e-5)
    rows = lake_of(with_label_column).read(LABELS).to_pylist()
    assert [row["transaction_id"] for row in rows] == [2, 4]
    assert {row["available_at"] for row in rows} == {datetime(2018, 4, 8, tzinfo=UTC)}


def test_before_the_data_begins_the_derived_feed_is_empty_and_says_so(
    with_label_column: Settings,
) -> None:
    receipts = label_day(with_label_column, date(2018, 4, 7))
    assert receipts["land_labels"].facts["remark"].startswith("the data begins on 2018-04-01")
    assert newest(with_label_column, "labels", date(2018, 4, 7)).arrived_at is None
    assert receipts["merge_labels"].rows == 0


def test_a_derived_feed_after_the_data_ends_is_refused(with_label_column: Settings) -> None:
    with pytest.raises(SluiceError, match="last day 2018-04-03"):
        run_named("land_labels", with_label_column, date(2018, 4, 11))


# many days at once


DAYS_AT_ONCE = [DAY + timedelta(days=offset) for offset in range(3)]


def _ingest(settings: Settings, day: date) -> int:
    return ingest_day(settings, day)["publish_transactions"].rows


def test_days_that_run_at_the_same_time_do_not_disturb_each_other(home: Settings) -> None:
    for day in DAYS_AT_ONCE:
        ids = range(100 * day.day, 100 * day.day + 20 + day.day)
        put_transactions(home, [good_row(number, day) for number in ids], day)
    # not forked: delta-rs keeps threads that a fork of a process which has used it would lack
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        published = list(pool.map(_ingest, [home] * len(DAYS_AT_ONCE), DAYS_AT_ONCE))
    assert published == [20 + day.day for day in DAYS_AT_ONCE]
    lake = lake_of(home)
    assert lake.partitions(TRANSACTIONS) == [str(day) for day in DAYS_AT_ONCE]
    assert len(lake.read(LANDED_FILES)) == len(DAYS_AT_ONCE)
    index = (home.reports / "data_docs" / "index.html").read_text()
    assert all(str(day) in index for day in DAYS_AT_ONCE)
