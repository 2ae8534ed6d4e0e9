"""The quick way of reading and the exact one give the same rows; our masks and Great Expectations agree."""

from __future__ import annotations

import io
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from jobs.conf.contract import load_contract
from jobs.conf.policy import load_policy
from jobs.core import SluiceError
from jobs.lake.store import ContentDigest, content_digest
from jobs.lake.tables import TIMESTAMP
from jobs.quality import chunks
from jobs.quality.checkpoint import Judge
from jobs.quality.chunks import count_rows, open_rows
from jobs.quality.feeds import labels_feed, transactions_feed
from jobs.quality.frame import broken_by
from jobs.quality.parse import FIELDS, ROW, read_text, read_values
from jobs.quality.suites import Rule, labels_rules, rules_of, transactions_rules
from jobs.quality.values import texts_of, values_of

PIECES = st.sampled_from(
    [b"a", b"1", b",", b",", b"\n", b"\n", b"\r\n", b"\r", b'"', b'""', b" ", b"\xc3\xa9", b"\xff", b"\x00",
     b"\xc2", b"\xef\xbb\xbf", b'"x"', b'"x,y"', b'"x\ny"', b"\xe2\x80\x83", b"\t", b"2026-01-05"]
)  # fmt: skip
RAGGED = st.lists(PIECES, max_size=40).map(b"".join)
VALUE = st.sampled_from([b"a", b'"q"', b"", b" ", b"\xc3\xa9", b'"a,b"', b'"a""b"', b"7"])
REGULAR = st.lists(st.lists(VALUE, min_size=3, max_size=3).map(b",".join), max_size=12).map(b"\r\n".join)
Read = tuple[list[str], list[str], list[int], list[tuple[str | None, ...]]]


def by_chunks(data: bytes) -> Read | str:
    """Header, rows as they came, numbers of fields, values; or why not."""
    try:
        file = open_rows(data, "csv", "here")
        rows, fields, values = [], [], []
        for chunk in file.chunks():
            assert chunk.first == len(rows) + 1
            rows += chunk.rows(np.ones(chunk.size, dtype=bool))
            fields += chunk.fields.tolist()
            columns = [
                [
                    None if blank else value
                    for value, blank in zip(texts.values.to_pylist(), texts.blank, strict=True)
                ]
                for texts in chunk.columns.values()
            ]
            values += list(zip(*columns, strict=True))
        assert count_rows(data, "csv", "here") == len(rows)
        return file.header, rows, fields, values
    except SluiceError as error:
        return str(error)


def all_at_once(data: bytes) -> Read | str:
    try:
        frame = read_text(data, "csv", "here")
    except SluiceError as error:
        return str(error)
    names = [name for name in frame.columns if name not in (ROW, FIELDS)]
    values = list(frame[names].itertuples(index=False, name=None))
    return names, frame[ROW].tolist(), frame[FIELDS].tolist(), values


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.one_of(RAGGED, REGULAR), block=st.sampled_from([3, 7, 16, 64, 1 << 20]))
@example(data=b'h,i\n1,"a\nb"\n2,c\n', block=8)
@example(data=b"h,i\n\xef\xbb\xbf1,2\n", block=4)
def test_any_bytes_read_in_blocks_are_the_rows_that_the_csv_module_reads(data: bytes, block: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunks, "BLOCK_BYTES", block)
        assert by_chunks(b"h,i,j\n" + data) == all_at_once(b"h,i,j\n" + data)
        assert by_chunks(data) == all_at_once(data)


def test_a_parquet_file_read_in_batches_is_the_one_read_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    table = pa.table({"a": [1.5, None, float("nan"), 57.160000000000004], "b": ["x", " ", None, "y"]})
    sink = io.BytesIO()
    pq.write_table(table, sink)
    monkeypatch.setattr(chunks, "BATCH_ROWS", 3)
    found = [
        chunk.rows(np.ones(chunk.size, dtype=bool))
        for chunk in open_rows(sink.getvalue(), "parquet", "x").chunks()
    ]
    assert [row for rows in found for row in rows] == read_text(sink.getvalue(), "parquet", "x")[ROW].tolist()


DIGITS = st.text(alphabet="0123456789.-+ eTZ:,x", max_size=30)
WHOLE = st.one_of(
    st.integers(-(10**19), 10**19).map(str), DIGITS, st.sampled_from(["٣", "0x10", "+5", "\x1c"])
)
MONEY = st.one_of(
    st.decimals(-(10**14), 10**14, allow_nan=False, places=2).map(str),
    st.from_regex(r"[0-9]{1,14}\.?[0-9]{0,4}", fullmatch=True), DIGITS,
)  # fmt: skip
MOMENT = st.one_of(
    st.datetimes().map(lambda moment: moment.isoformat() + "Z"),
    st.datetimes().map(lambda moment: moment.isoformat(sep=" ", timespec="seconds")),
    st.from_regex(
        r"20[0-9]{2}-[01][0-9]-[0-3][0-9][T ][0-2][0-9]:[0-6][0-9]"
        r"(:[0-6][0-9](\.[0-9]{0,10})?)?(Z|[+-]0[0-9]:00)?", fullmatch=True,
    ),
    DIGITS,
)  # fmt: skip


@pytest.mark.parametrize(("kind", "texts"), [("integer", WHOLE), ("money", MONEY), ("timestamp", MOMENT)])
def test_all_rows_at_once_and_one_by_one_give_the_same_values(
    kind: str, texts: st.SearchStrategy[str]
) -> None:
    @settings(max_examples=300, deadline=None, database=None)
    @given(st.lists(texts, max_size=8))
    def same(values: list[str]) -> None:
        found = values_of(texts_of(pa.array(values, type=pa.string())), kind)
        each = [
            read_values(pd.Series([value if value.strip() else None], dtype=object), kind) for value in values
        ]
        target = TIMESTAMP if kind == "timestamp" else pa.int64()
        assert found.to_pylist() == [pa.Array.from_pandas(one, type=target)[0].as_py() for one in each]

    same()


@pytest.mark.parametrize("space", [" ", "\t", "\x1c", "\x1e", "\u2003"])
@pytest.mark.parametrize(("kind", "value"), [("integer", 7), ("money", 700), ("decimal", 7.0)])
def test_a_number_is_read_whatever_white_space_stands_around_it(space: str, kind: str, value: float) -> None:
    assert read_values(pd.Series([f"{space}7{space}"], dtype=object), kind)[0] == value


CONTRACT, QUALITY = load_contract("simulated"), load_policy().quality
SUITES: dict[str, tuple[Rule, ...]] = {
    "transactions": (*rules_of(transactions_feed(CONTRACT), QUALITY), *transactions_rules(QUALITY, 6)),
    "labels": (*rules_of(labels_feed(CONTRACT), QUALITY), *labels_rules(QUALITY)),
}
NUMBER = st.one_of(
    st.just(float("nan")),
    st.sampled_from(
        [-259_200.0, -1.0, 0.0, 0.01, 1.0, 2.0, 5.0, 20_000.0, 20_000.01, 86_399.999999, 86_400.0]
    ),
    st.floats(-1e6, 1e6),
)


@pytest.mark.parametrize("feed", SUITES)
def test_our_masks_and_great_expectations_agree_on_every_rule(feed: str) -> None:
    rules = [rule for rule in SUITES[feed] if rule.scope == "row"]
    judge = Judge(feed, SUITES[feed])

    @settings(max_examples=25, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(st.lists(NUMBER, min_size=len(rules), max_size=len(rules)), min_size=1, max_size=30))
    def agree(rows: list[list[float]]) -> None:
        frame = dict(zip([rule.column for rule in rules], np.array(rows).T, strict=True))
        assert judge.rows(frame) == {rule.name: int(broken_by(rule, frame).sum()) for rule in rules}

    agree()


@given(
    st.lists(st.tuples(st.one_of(st.none(), st.integers(-5, 5)), st.text(max_size=3)), max_size=20),
    st.integers(1, 7),
)
@settings(max_examples=60, deadline=None)
def test_a_digest_is_the_same_in_however_many_pieces_the_rows_come(
    rows: list[tuple[int | None, str]], size: int
) -> None:
    table = pa.table(
        {
            "a": pa.array([row[0] for row in rows], pa.int64()),
            "b": pa.array([row[1] for row in rows], pa.string()),
        }
    )
    digest = ContentDigest()
    for start in range(0, len(rows), size):
        digest.add(table.slice(start, size))
    assert digest.hexdigest() == content_digest(table)


def test_a_file_in_small_blocks_has_the_same_outcome(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    feed, day = transactions_feed(CONTRACT), date(2026, 1, 5)
    lines = [f"{number},{day}T20:00:00Z,1,1,{number}.00" for number in range(1, 200)]
    data = "\n".join(["transaction_id,event_time,customer_id,terminal_id,amount", *lines]).encode()
    monkeypatch.setattr(chunks, "BLOCK_BYTES", 500)
    sizes = [chunk.size for chunk in open_rows(data, feed.format, "here").chunks()]
    assert (len(sizes) > 5, sum(sizes)) == (True, 199)
