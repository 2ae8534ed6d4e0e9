"""Whether two ways came to the same: rows, keys, nulls, and the greatest relative difference by column."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb

TOLERANCE = 1e-9
TOGETHER = 8  # columns in one join: the tables as a whole would not fit in memory
DIFFERENCE = """
count(*) FILTER ((l.{0} IS NULL) <> (r.{0} IS NULL)),
max(abs(l.{0} - r.{0}) / greatest(abs(l.{0}), abs(r.{0}), 1e-6))
"""


def assert_equal(ours: Path, other: Path, keys: Sequence[str], columns: Sequence[str]) -> int:
    """Compare two folders of Parquet files that hold one row for each key; gives the rows.

    Raises:
        AssertionError: another number of rows, a key on one side only or twice, or a value that differs.
    """
    left, right = (f"read_parquet('{place}/*.parquet')" for place in (ours, other))
    counts = [one_row(f"SELECT count(*) FROM {side}")[0] for side in (left, right)]
    assert counts[0] == counts[1], f"{ours} has {counts[0]} rows, {other} has {counts[1]}"
    for start in range(0, len(columns), TOGETHER):
        part = columns[start : start + TOGETHER]
        _compare(left, right, keys, part, int(counts[0]), f"{ours} and {other}")
    return int(counts[0])


def _compare(
    left: str, right: str, keys: Sequence[str], columns: Sequence[str], rows: int, what: str
) -> None:
    chosen = ", ".join([*keys, *(f"{column}::DOUBLE AS {column}" for column in columns)])
    matched, *found = one_row(
        f"SELECT count(*), {', '.join(DIFFERENCE.format(column) for column in columns)} "
        f"FROM (SELECT {chosen} FROM {left}) l JOIN (SELECT {chosen} FROM {right}) r "
        f"USING ({', '.join(keys)})",
    )
    assert matched == rows, f"{rows} rows, {matched} matched: {what}"
    for column, nulls, difference in zip(columns, found[::2], found[1::2], strict=True):
        assert nulls == 0, f"{column}: {nulls} rows are null on one side only: {what}"
        assert (difference or 0) < TOLERANCE, f"{column}: differs by {difference}: {what}"


def one_row(query: str) -> tuple[Any, ...]:
    """The only row of an answer of DuckDB, with times in UTC."""
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    found = connection.execute(query).fetchone()
    assert found is not None
    return tuple(found)
