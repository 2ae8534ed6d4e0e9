"""Whether two ways came to the same: rows, keys, nulls, and the greatest relative difference by column."""

from __future__ import annotations

import math
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


def assert_same_sums(ours: Path, other: Path, keys: Sequence[str], columns: Sequence[str]) -> None:
    """Compare two such folders without joining them: rows, and of each column how many have a value, its sum
    and its sum weighed by the key, in which a value at another key shows.

    Raises:
        AssertionError: one of them differs.
    """
    found, expected = (_sums(place, keys, columns) for place in (ours, other))
    for name, value in found.items():
        same = math.isclose(value, expected[name], rel_tol=TOLERANCE, abs_tol=TOLERANCE)
        assert same, f"{name}: {value} and {expected[name]}: {ours} and {other}"


def _sums(place: Path, keys: Sequence[str], columns: Sequence[str]) -> dict[str, float]:
    typed = ", ".join(f"{key}::{'DATE' if key == 'day' else 'BIGINT'}" for key in keys)
    figures = {"rows": "count(*)"}
    for column in columns:
        figures[f"values of {column}"] = f"count({column})"
        figures[f"sum of {column}"] = f"coalesce(sum({column}::DOUBLE), 0)"
        figures[f"weighed sum of {column}"] = f"coalesce(sum({column}::DOUBLE * weight), 0)"
    found = one_row(
        f"SELECT {', '.join(figures.values())} FROM (SELECT *, (1 + hash({typed}) % 1000)::DOUBLE AS weight "
        f"FROM read_parquet('{place}/*.parquet'))"
    )
    return dict(zip(figures, map(float, found), strict=True))


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
