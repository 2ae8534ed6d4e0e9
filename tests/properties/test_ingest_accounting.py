"""For any file at all: landed = published + quarantined, or the gate says why not."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from jobs.conf.contract import load_contract
from jobs.conf.settings import Settings, load_settings
from jobs.core import GateClosed, SluiceError
from jobs.ingest.releases import quarantined as quarantined_rows
from jobs.lake.store import lake_of
from jobs.lake.tables import TRANSACTIONS
from jobs.quality.feeds import transactions_feed
from jobs.quality.parse import copy_numbers, parse, read_text, read_values
from tests.data_support import DAY, HEADER, good_rows, run_named

NASTY = st.sampled_from(
    ["", " ", "0", "-1", "1e3", "NaN", "null", '"', "'", "1.005", "12,5", "9" * 30, "\x00", "é", "\r",
     "2026-01-05T10:00:00Z", "2026-01-05", "1.00", "½", "٣", "0x10", "=1+1"]
)  # fmt: skip
FIELD = st.one_of(NASTY, st.text(max_size=8), st.integers(1, 40).map(str))
BAD_LINE = st.lists(FIELD, max_size=7).map(",".join)
EDITS = st.lists(st.tuples(st.integers(0, 99), st.integers(0, 4), FIELD), max_size=6)


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    folder = tmp_path_factory.mktemp("fuzz")
    return load_settings({"SLUICE_HOME": str(folder / "home"), "SLUICE_SOURCE_URI": str(folder / "source")})


def account(fuzzed: Settings, data: bytes) -> None:
    source = Path(fuzzed.source_uri)
    source.mkdir(parents=True, exist_ok=True)
    (source / f"{DAY}.csv").write_bytes(data)
    try:
        landed = run_named("land_transactions", fuzzed).rows
        run_named("validate_transactions", fuzzed)
    except GateClosed:
        for job in ("publish_transactions", "quarantine_transactions"):
            with pytest.raises(GateClosed):
                run_named(job, fuzzed)
        return
    except SluiceError:
        return  # no CSV file, or other columns: said in one sentence
    published = run_named("publish_transactions", fuzzed).rows
    quarantined = run_named("quarantine_transactions", fuzzed).rows
    assert landed == published + quarantined
    lake = lake_of(fuzzed)
    rows = lake.read(TRANSACTIONS, first=DAY, last=DAY)
    assert (len(rows), len(quarantined_rows(lake, day=DAY))) == (published, quarantined)
    ids = rows["transaction_id"].to_pylist()
    assert len(set(ids)) == len(ids)
    assert all(rows[name].null_count == 0 for name in rows.column_names)


@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(edits=EDITS, lines=st.lists(BAD_LINE, max_size=4), copies=st.integers(0, 1))
@example(edits=[(0, 0, '"')], lines=[], copies=0)
@example(edits=[], lines=["\x00"], copies=1)
@example(edits=[], lines=['a"b,"c', ""], copies=0)
def test_every_landed_row_is_published_or_quarantined(
    fuzzed: Settings, edits: list[tuple[int, int, str]], lines: list[str], copies: int
) -> None:
    rows = [row.split(",") for row in good_rows(150)]
    for row, column, value in edits:
        rows[row][column] = value
    text = [HEADER, *[",".join(row) for row in rows], *lines, *good_rows(copies)]
    account(fuzzed, "\n".join(text).encode("utf-8", errors="replace"))


@settings(max_examples=5, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.binary(max_size=200))
def test_any_bytes_at_all_are_refused_or_accounted_for(fuzzed: Settings, data: bytes) -> None:
    account(fuzzed, HEADER.encode() + b"\n" + data)


@settings(max_examples=200, deadline=None)
@given(st.integers(-(10**14), 10**14))
def test_money_written_out_is_read_back_exactly(minor: int) -> None:
    sign, whole, part = "-" if minor < 0 else "", abs(minor) // 100, abs(minor) % 100
    if whole >= 10**13:
        return
    assert read_values(pd.Series([f"{sign}{whole}.{part:02d}"], dtype=object), "money")[0] == minor


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 6), max_size=30))
def test_surplus_rows_are_all_rows_less_the_distinct_keys(keys: list[int]) -> None:
    feed = transactions_feed(load_contract("simulated"))
    lines = [HEADER, *[f"{key},2026-01-05T10:00:00Z,1,1,1.00" for key in keys]]
    text = read_text("\n".join(lines).encode(), "csv", "here")
    frame = parse(text, feed, date(2026, 1, 5), "here")
    assert int((copy_numbers(frame, feed) > 0).sum()) == len(keys) - len(set(keys))
