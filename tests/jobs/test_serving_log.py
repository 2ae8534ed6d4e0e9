"""The prediction log holds up no request and loses no row."""

from __future__ import annotations

import math
import os
import shutil
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from jobs.conf.policy import load_policy
from jobs.conf.settings import Settings
from jobs.core import SluiceError
from jobs.features.declarations import FEATURE_VERSION, MODEL_FEATURES
from jobs.lake.store import Once, content_digest, lake_of
from jobs.lake.tables import PREDICTIONS, Table
from jobs.maintenance.compact_tables import compact, crowded
from jobs.monitoring.features_logged import Logged, logged
from jobs.monitoring.interval import Interval
from jobs.serving import prediction_log, spool
from jobs.serving.log_rows import encode
from jobs.serving.prediction_log import MEMORY_BYTES, ROW_BYTES, spool_of
from tests.prediction_log_support import NOON, killed, lake_down, landed, log_of, prediction, put, segments

LATE = datetime(2026, 1, 31, 23, 59, 59, 999999, tzinfo=UTC)
NEXT = datetime(2026, 2, 1, tzinfo=UTC)


def test_rows_land_on_the_day_of_their_event(home: Settings) -> None:
    log = log_of(home)
    for number, moment in enumerate((NOON, LATE, NEXT)):
        log.put(prediction(number, moment, would_be="block"))
    assert log.flush()
    rows = lake_of(home).read(PREDICTIONS).sort_by("transaction_id").to_pylist()
    assert [row["day"] for row in rows] == [date(2026, 1, 31), date(2026, 1, 31), date(2026, 2, 1)]
    assert [row["event_time"] for row in rows] == [NOON, LATE, NEXT]
    assert rows[0] == {
        "day": date(2026, 1, 31), "request_id": "request-0", "transaction_id": 0, "event_time": NOON,
        "customer_id": 1, "terminal_id": 2, "amount_minor": 300, "model_version": "4",
        "variant": "champion", "step": "", "score": 0.25, "decision": "approve", "rule": "", "error": "",
        "latency_ms": 1.5, "served_at": datetime(2027, 1, 15, 8, 0, 0, 250000, tzinfo=UTC),
        "feature_version": "v1", "would_be": "block", "features": [3.0, None],
    }  # fmt: skip
    counters = log.counters()
    assert {name: counters[name] for name in ("queued", "written", "waiting", "dropped", "last_error")} == {
        "queued": 3, "written": 3, "waiting": 0, "dropped": 0, "last_error": "",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("moment", "day"),
    [
        (datetime(1, 1, 1, tzinfo=UTC), date(1, 1, 1)),
        (datetime(1969, 12, 31, 23, 59, 59, 999999, tzinfo=UTC), date(1969, 12, 31)),
        (datetime(2026, 2, 1, 1, 30, tzinfo=UTC).astimezone(tz=None), date(2026, 2, 1)),
        (datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC), date(9999, 12, 31)),
    ],
)
def test_any_moment_keeps_its_microseconds_and_its_day_in_utc(moment: datetime, day: date) -> None:
    row = encode([prediction(1, moment)]).to_pylist()[0]
    assert (row["event_time"], row["day"]) == (moment, day)


@pytest.mark.parametrize(
    ("features", "stored"),
    [
        (None, None),
        ([math.inf, 0.5], [None, 0.5]),
        ([-0.0, 1e-300], [0.0, 1e-300]),
        ([1.0], None),  # not as many as names: whose value it is nobody can say
    ],
)
def test_a_gap_is_null_and_features_that_could_not_be_read_are_no_list(
    features: list[float] | None, stored: list[float | None] | None
) -> None:
    rows = encode([prediction(1, NOON, features=features), prediction(2, NOON)]).to_pylist()
    assert [row["features"] for row in rows] == [stored, [3.0, None]]


def test_the_digest_of_rows_tells_their_features_apart() -> None:
    lists: list[list[float] | None] = [[3.0, math.nan], [math.nan, 3.0], [3.0, 0.0], None]
    rows = [encode([prediction(1, NOON, features=features)]) for features in lists]
    assert len({content_digest(pa.Table.from_batches([each])) for each in rows}) == len(lists)
    both = [pa.Table.from_batches(order) for order in (rows[:2], rows[1::-1])]
    assert content_digest(both[0]) == content_digest(both[1])


def test_a_row_that_no_table_can_hold_is_dropped_and_counted_and_the_others_land(home: Settings) -> None:
    log = log_of(home)
    put(log, 0)
    log.put(prediction(1, NOON, amount_minor=2**63))
    log.put(prediction(2, NOON, error="\ud800"))
    put(log, 3)
    assert log.flush()
    assert landed(home) == [0, 3]
    assert (log.counters()["dropped"], log.counters()["waiting"]) == (2, 0)


def test_rows_in_memory_stay_below_the_stated_bytes_and_the_rest_is_dropped_and_counted(
    home: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    allowed = MEMORY_BYTES // 16  # a row's share of them is what counts, and counting bytes is slow
    monkeypatch.setattr(prediction_log, "MEMORY_BYTES", allowed)
    log = log_of(home)
    capacity = allowed // ROW_BYTES
    names = tuple(f"feature {place}" for place in range(100))
    tracemalloc.start()
    for number in range(capacity + 100):
        values = [number + place / 7 for place in range(100)]
        log.put(
            prediction(number, NOON + timedelta(seconds=number), names=names, features=values,
                       request_id=f"{number:032x}", error=f"{number:0300d}", score=number / 3,
                       latency_ms=number / 11, served_at=number / 13, customer_id=number + 10**6)
        )  # fmt: skip
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert held < allowed
    assert log.counters()["dropped"] == 100
    assert log.counters()["waiting"] == capacity


def test_rows_wait_while_the_lake_cannot_be_written_and_land_once_afterwards(home: Settings) -> None:
    up = lake_down(home)
    log = log_of(home)
    put(log, 0)
    assert not log.flush()
    assert log.counters()["last_error"]
    put(log, 1)
    assert not log.flush()
    assert log.counters()["waiting"] == 2
    up()
    assert log.flush()
    assert log.flush()
    assert landed(home) == [0, 1]
    assert (log.counters()["waiting"], log.counters()["last_error"]) == (0, "")


def test_a_lake_that_is_down_for_long_costs_only_what_is_above_the_spools_limit(
    home: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prediction_log, "SEGMENT_BYTES", 1 << 20)
    up = lake_down(home)
    log = log_of(home)
    row = prediction(0, NOON, error="e" * 10_000)
    for _ in range(3_000):
        log.put(row)
    assert log.spool_waiting()
    waiting, dropped = int(log.counters()["waiting"]), int(log.counters()["dropped"])
    assert waiting + dropped == 3_000
    assert dropped > 0
    assert sum(path.stat().st_size for path in segments(home)) <= 16 << 20
    up()
    while log.counters()["waiting"]:
        assert log.flush()
    assert log.counters()["spool_bytes"] == 0
    log.put(row)
    assert log.flush()
    assert len(landed(home)) == waiting + 1
    assert segments(home) == []


def test_a_graceful_stop_writes_what_waits_and_leaves_no_folder(home: Settings) -> None:
    log = log_of(home)
    log.start()
    put(log, *range(500))
    log.stop()
    assert landed(home) == list(range(500))
    assert [path.name for path in spool_of(home.home).iterdir()] == [".lock"]


def test_what_a_stop_cannot_write_the_next_start_does(home: Settings) -> None:
    up = lake_down(home)
    log = log_of(home)
    log.start()
    put(log, 1, 2)
    log.stop()
    assert len(segments(home)) == 1
    up()
    later = log_of(home)
    later.start()
    put(later, 3)
    later.stop()
    assert landed(home) == [1, 2, 3]
    assert (later.counters()["written"], later.counters()["recovered"]) == (1, 2)
    assert segments(home) == []


def test_the_open_rows_of_a_killed_process_land_once_and_those_of_a_living_one_are_left_to_it(
    home: Settings,
) -> None:
    dead, alive, third = log_of(home), log_of(home), log_of(home)
    put(dead, 1)
    put(alive, 2)
    assert dead.spool_waiting()
    assert alive.spool_waiting()
    killed(dead)
    assert third.append_spooled()
    assert landed(home) == [1]
    assert third.append_spooled()
    assert alive.flush()
    assert landed(home) == [1, 2]


def test_a_kill_between_the_append_and_the_removal_of_its_segment_repeats_no_row(
    home: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = log_of(home)
    put(log, 1)
    assert log.flush()
    put(log, 2, 3)
    monkeypatch.setattr(Path, "unlink", lambda *_args, **_more: (_ for _ in ()).throw(OSError("killed")))
    assert not log.flush()
    assert landed(home) == [1, 2, 3]
    monkeypatch.undo()
    assert len(segments(home)) == 1
    killed(log)
    # a summary of the log, and the removal of what came before it, keep what is known of the writer
    delta = lake_of(home).delta(PREDICTIONS)
    delta.create_checkpoint()
    for commit in Path(lake_of(home).path(PREDICTIONS)).glob("_delta_log/*.json"):
        if int(commit.stem) < delta.version():
            commit.unlink()
    later = log_of(home)
    put(later, 4)
    assert later.flush()
    assert landed(home) == [1, 2, 3, 4]
    assert later.counters()["recovered"] == 0
    assert segments(home) == []


def test_a_reader_sees_every_row_once_while_the_day_is_compacted_and_appended_to(home: Settings) -> None:
    first, second = log_of(home), log_of(home)
    for number in range(24):
        put((first, second)[number % 2], number)
        assert (first, second)[number % 2].flush()
    lake = lake_of(home)
    assert crowded(lake, PREDICTIONS, NOON.date(), 2) == {"2026-01-31": 24}
    with ThreadPoolExecutor(2) as pool:
        compacting = pool.submit(compact, lake, PREDICTIONS, "2026-01-31")
        put(first, 24)
        appending = pool.submit(first.flush)
        seen = [landed(home)]
        while not (compacting.done() and appending.done()):
            seen.append(landed(home))
    assert compacting.result().files >= 22
    assert appending.result()
    assert all(rows in (list(range(24)), list(range(25))) for rows in seen)
    assert landed(home) == list(range(25))
    assert {tuple(row) for row in lake.read(PREDICTIONS)["features"].to_pylist()} == {(3.0, None)}
    writer = str(first._spool._folder.path.name) if first._spool._folder else ""
    rows = pa.Table.from_batches([encode([prediction(0, NOON)])])
    assert not lake.append(PREDICTIONS, rows, Once(writer, 12)), "compaction forgot what a writer has written"


@pytest.mark.parametrize("cut", [1, 4, 9, 400])
def test_a_torn_last_record_is_left_out_and_all_before_it_lands(home: Settings, cut: int) -> None:
    log = log_of(home)
    put(log, 1)
    assert log.spool_waiting()
    put(log, 2)
    assert log.spool_waiting()
    killed(log)
    (path,) = segments(home)
    os.truncate(path, path.stat().st_size - cut)
    assert log_of(home).append_spooled()
    assert landed(home) == [1]
    assert segments(home) == []


@pytest.mark.parametrize("size", [0, 5, 100])
def test_a_segment_without_a_whole_record_holds_no_row(home: Settings, size: int) -> None:
    log = log_of(home)
    put(log, 1)
    assert log.spool_waiting()
    killed(log)
    (path,) = segments(home)
    os.truncate(path, size)
    assert log_of(home).append_spooled()
    assert segments(home) == []


def test_a_segment_that_nobody_understands_is_set_aside_and_holds_up_no_other(home: Settings) -> None:
    log = log_of(home)
    put(log, 1)
    assert log.spool_waiting()
    killed(log)
    (path,) = segments(home)
    junk = b"no message of Arrow"
    path.write_bytes(spool.FRAME.pack(len(junk), spool.zlib.crc32(junk)) + junk)
    later = log_of(home)
    put(later, 2)
    assert later.flush()
    assert landed(home) == [2]
    assert later.counters()["set_aside"] == 1
    assert [each.name for each in spool_of(home.home).glob("*.unreadable")] == [
        f"{path.parent.name}.00000001.unreadable"
    ]


def test_a_dead_processs_segment_that_the_lake_always_refuses_holds_up_none_and_is_set_aside(
    home: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prediction_log, "ADOPT_SECONDS", 0.0)
    dead = log_of(home)
    for number in (1, 2):
        put(dead, number)
        assert dead.spool_waiting()
        dead._spool.rotate()
    killed(dead)
    refused, behind = segments(home)
    lake = lake_of(home)
    took = lake.append

    def append(table: Table, rows: pa.Table, name: Once) -> bool:
        if 1 in rows["transaction_id"].to_pylist():
            raise SluiceError("no lake takes this row")
        return took(table, rows, name)

    monkeypatch.setattr(lake, "append", append)
    log, mine = log_of(home, lake), range(3, 3 + prediction_log.REFUSALS)
    for number in mine:
        put(log, number)
        assert not log.flush()
        assert (refused.exists(), behind.exists()) == (True, True)  # in their order, or the table loses one
    assert log.flush()
    assert landed(home) == [2, *mine]
    assert log.counters()["set_aside"] == 1
    assert [each.name for each in spool_of(home.home).glob("*.refused")] == [
        f"{refused.parent.name}.00000001.refused"
    ]


def test_a_lake_that_is_down_makes_no_segment_a_refused_one(
    home: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prediction_log, "ADOPT_SECONDS", 0.0)
    dead = log_of(home)
    put(dead, 1)
    assert dead.spool_waiting()
    killed(dead)
    up = lake_down(home)
    log = log_of(home)
    for _ in range(2 * prediction_log.REFUSALS):
        assert not log.flush()
    up()
    assert log.flush()
    assert (landed(home), log.counters()["set_aside"]) == ([1], 0)


def test_a_full_disk_lets_rows_wait_in_memory_and_half_a_record_is_taken_back(
    home: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = log_of(home)
    put(log, 1)
    assert log.spool_waiting()
    whole = segments(home)[0].stat().st_size
    handle: Any = log._spool._open

    class Full:
        """The kernel takes some bytes of each record and then no more."""

        def write(self, data: bytes) -> int:
            handle.write(data[:100])
            return 100

        def __getattr__(self, name: str) -> Any:
            return getattr(handle, name)

    monkeypatch.setattr(log._spool, "_open", Full())
    put(log, 2)
    assert not log.spool_waiting()
    assert segments(home)[0].stat().st_size == whole
    assert log.counters()["waiting"] == 2
    monkeypatch.setattr(log._spool, "_open", handle)
    assert log.flush()
    assert landed(home) == [1, 2]


def test_a_home_that_cannot_be_written_fails_no_request_and_the_rows_land_later(home: Settings) -> None:
    home.home.parent.mkdir(parents=True, exist_ok=True)
    home.home.write_text("a file where the folder should be")
    log = log_of(home)
    put(log, 1)
    assert not log.flush()
    assert "cannot be written" in str(log.counters()["last_error"])
    home.home.unlink()
    assert log.flush()
    assert landed(home) == [1]


def test_a_spool_that_somebody_removed_is_made_again(home: Settings) -> None:
    log = log_of(home)
    put(log, 1)
    assert log.flush()
    shutil.rmtree(spool_of(home.home))
    put(log, 2)
    assert log.flush()
    assert landed(home) == [1, 2]


def test_an_error_that_nobody_foresaw_ends_no_thread(home: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    log = log_of(home)
    monkeypatch.setattr(log._spool, "write", lambda _rows: {}["unforeseen"])
    log.start()
    put(log, 1)
    deadline = time.monotonic() + 60
    while "unforeseen" not in str(log.counters()["last_error"]) and time.monotonic() < deadline:
        time.sleep(0.01)
    monkeypatch.undo()
    log.stop()
    assert landed(home) == [1]


def old_table() -> Table:
    """The table as an older version of Sluice declared it."""
    fields = [field for field in PREDICTIONS.schema if field.name not in ("feature_version", "would_be")]
    schema = pa.schema([pa.field("features", pa.string()) if f.name == "features" else f for f in fields])
    return Table("predictions", "", schema, PREDICTIONS.key)


def old_rows(*texts: str) -> pa.Table:
    rows = [
        dict.fromkeys(old_table().schema.names)
        | {"day": NOON.date(), "transaction_id": place, "features": text}
        for place, text in enumerate(texts)
    ]
    return pa.Table.from_pylist(rows, old_table().schema)


def every_row(settings: Settings, column: str, features: tuple[str, ...] = ()) -> Logged:
    def wanted(batch: pa.RecordBatch) -> pa.Array:
        return pa.repeat(True, len(batch))

    return logged(lake_of(settings), Interval(NOON.date()), [column], wanted, features, np.float64)


def test_a_table_of_an_older_version_keeps_its_rows_and_takes_the_columns_of_this_one(home: Settings) -> None:
    ours = "{" + ", ".join(f'"{name}": {place}' for place, name in enumerate(reversed(MODEL_FEATURES))) + "}"
    lake_of(home).append(old_table(), old_rows(ours, '{"of_another_declaration": 1.0}', ""))
    with pytest.raises(SluiceError, match="start the scoring service once"):
        every_row(home, "transaction_id")
    log = log_of(home)
    put(log, 9)
    assert log.flush()
    rows = lake_of(home).read(PREDICTIONS).sort_by("transaction_id").to_pylist()
    count = len(MODEL_FEATURES)
    assert [(row["transaction_id"], row["feature_version"], row["features"]) for row in rows] == [
        (0, FEATURE_VERSION, [float(count - 1 - place) for place in range(count)]),
        (1, "", None),
        (2, "", None),
        (9, "v1", [3.0, None]),
    ]
    assert every_row(home, "would_be").rows["would_be"].tolist() == [""] * 4


def test_features_of_another_declaration_are_told_and_never_read_as_those_of_today(
    home: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    log = log_of(home)
    values = [float(place) for place in range(len(MODEL_FEATURES))]
    for number, version in enumerate((FEATURE_VERSION, "older")):
        log.put(
            prediction(number, NOON, names=MODEL_FEATURES, features=[math.nan, *values[1:]],
                       feature_version=version)
        )  # fmt: skip
    assert log.flush()
    read = every_row(home, "transaction_id", MODEL_FEATURES)
    assert dict(zip(read.rows["transaction_id"], read.readable, strict=True)) == {0: True, 1: False}
    found = read.at(np.arange(2)).set_index("transaction_id")
    assert list(found.columns) == list(MODEL_FEATURES)
    assert found.loc[0].tolist()[1:] == values[1:]
    assert found.loc[0].isna().tolist() == [True] + [False] * (len(values) - 1)
    assert found.loc[1].isna().all()
    assert "1 rows of the prediction log hold features of version older" in caplog.text


def test_the_default_limits_are_the_policys() -> None:
    limits = load_policy().serving.log
    assert (limits.append_seconds, limits.spool_mb) == (5.0, 2048)
    assert load_policy("demo").serving.log.append_seconds == 1.0
