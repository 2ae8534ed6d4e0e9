"""From a chunk of texts to typed columns, to the frame that the rules look at, and to the parsed rows.

Parsed rows: row_number, the feed's columns typed (int64, int64 minor units, UTC microseconds; null where
unreadable), `day` (the row's own: the file's day unless the row is late), `available_at`, `rule` ("" for a
good row, else all rules it broke) and `row` (a broken row as it came, JSON).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from jobs.conf.contract import Column
from jobs.core import SluiceError, midnight
from jobs.lake.tables import RULE_SEPARATOR, TIMESTAMP, stored_type
from jobs.quality.chunks import Chunk
from jobs.quality.feeds import Feed
from jobs.quality.suites import FIELDS, SECOND, Rule, missing, unreadable
from jobs.quality.values import Bools, Texts, values_of

Frame = dict[str, NDArray[np.float64]]
MINOR_UNITS = 100


def check_columns(header: Sequence[str], feed: Feed, where: str) -> None:
    """Refuse a file with other columns than the contract's.

    Raises:
        SluiceError: a column of the contract is missing, or there is one that it does not know.
    """
    expected = [column.source for column in feed.columns.values()]
    for column in feed.columns.values():
        if column.source not in header and not column.optional:
            found = ", ".join(map(repr, header))
            raise SluiceError(f"{where}: column {column.source!r} is missing; the file has {found}")
    for name in header:
        if name not in expected and name not in feed.ignored:
            raise SluiceError(
                f"{where}: column {name!r} is not in the contract; name it there, or among the ignored ones"
            )


def texts_in(chunk: Chunk, column: Column) -> Texts:
    """The texts of a column of the contract; all blank where an optional one is absent."""
    there = chunk.columns.get(column.source)
    if there is not None:
        return there
    return Texts(pa.array([""] * chunk.size, type=pa.string()), np.ones(chunk.size, dtype=bool))


def typed(chunk: Chunk, feed: Feed) -> dict[str, pa.Array]:
    """The feed's columns by type; null where a value is missing or cannot be read."""
    return {
        name: values_of(texts_in(chunk, column), column.type).cast(stored_type(column))
        for name, column in feed.columns.items()
    }


def incomplete(values: Mapping[str, pa.Array], feed: Feed) -> Bools:
    """Rows in which a value that must be there cannot be read."""
    found = np.zeros(len(next(iter(values.values()))), dtype=bool)
    for name, column in feed.columns.items():
        if not column.optional and values[name].null_count:
            found |= _nulls(values[name])
    return found


def checked(
    chunk: Chunk, values: Mapping[str, pa.Array], copies: Mapping[str, NDArray[Any]], feed: Feed, day: date
) -> Frame:
    """What the rules look at, in the units of the contract's bounds; NaN where a rule does not apply.

    `copies`: the columns that need the whole file and what is published (`Copies.of`).
    """
    expected = len(feed.columns) + len(feed.ignored)
    # a column that may be absent counts as there: the rule about the number of fields knows the contract
    absent = expected - len(chunk.columns)
    fields = chunk.fields + absent
    frame: Frame = {FIELDS: fields.astype(np.float64)}
    fitting = fields == expected
    for name, column in feed.columns.items():
        blank, null = texts_in(chunk, column).blank, _nulls(values[name])
        frame[missing(name)] = np.where(fitting, blank, np.nan)
        frame[unreadable(name)] = np.where(blank, np.nan, null)
        if column.minimum is not None or column.maximum is not None:
            numbers = _floats(values[name])
            frame[name] = numbers / MINOR_UNITS if column.type == "money" else numbers
    if feed.instant:
        moments = _floats(values[feed.instant].cast(pa.int64()))
        frame[SECOND] = (moments - midnight(day).timestamp() * 1e6) / 1e6
    return frame | {name: column.astype(np.float64) for name, column in copies.items()}


def broken_by(rule: Rule, frame: Mapping[str, NDArray[np.float64]]) -> Bools:
    """The rows that break a rule; one to which it does not apply breaks nothing."""
    values = frame[rule.column]
    broken = np.zeros(len(values), dtype=bool)
    with np.errstate(invalid="ignore"):
        if rule.minimum is not None:
            broken |= values < rule.minimum
        if rule.maximum is not None:
            broken |= (values >= rule.maximum) if rule.strict_max else (values > rule.maximum)
    return broken


def rule_texts(broken: Mapping[str, Bools], size: int) -> NDArray[Any]:
    """For each row all rules that it broke, in the order of the suite."""
    texts = np.full(size, "", dtype=object)
    for name, rows in broken.items():
        for place in np.flatnonzero(rows):
            texts[place] = f"{texts[place]}{RULE_SEPARATOR}{name}" if texts[place] else name
    return texts


def parsed_schema(feed: Feed) -> pa.Schema:
    """The columns of the parsed rows."""
    fields = [("row_number", pa.int64())]
    fields += [(name, stored_type(column)) for name, column in feed.columns.items()]
    fields += [("day", pa.date32())]
    fields += [] if "available_at" in feed.columns else [("available_at", TIMESTAMP)]
    return pa.schema([*fields, ("rule", pa.string()), ("row", pa.string())])


def parsed(
    chunk: Chunk, values: Mapping[str, pa.Array], rules: NDArray[Any], feed: Feed, day: date
) -> pa.RecordBatch:
    """The rows for the jobs that follow."""
    schema = parsed_schema(feed)
    columns: dict[str, Any] = dict(values)
    columns["row_number"] = pa.array(np.arange(chunk.first, chunk.first + chunk.size, dtype=np.int64))
    columns["day"] = _days(values, rules, feed, day)
    known_from = midnight(day) if feed.name == "labels" else midnight(day + timedelta(days=1))
    delivered = pa.repeat(pa.scalar(known_from, type=TIMESTAMP), chunk.size)
    told = values.get("available_at") if feed.name != "labels" else values.get("reported_at")
    columns["available_at"] = delivered if told is None else pc.coalesce(told, delivered)
    columns["rule"] = pa.array(rules, type=pa.string())
    bad = rules != ""
    rows = np.full(chunk.size, None, dtype=object)
    if bad.any():
        rows[bad] = chunk.rows(bad)
    columns["row"] = pa.array(rows, type=pa.string())
    return pa.record_batch([columns[name] for name in schema.names], schema=schema)


def _days(values: Mapping[str, pa.Array], rules: NDArray[Any], feed: Feed, day: date) -> pa.Array:
    """The file's day, but of a good row that is late the day of its event."""
    same = pa.repeat(pa.scalar(day, type=pa.date32()), len(rules))
    if not feed.late_days:
        return same
    own = values[feed.instant].cast(pa.date32())
    late = pc.and_(pc.fill_null(pc.less(own, pa.scalar(day)), False), pa.array(rules == ""))
    return pc.if_else(late, own, same)


def _nulls(values: pa.Array) -> Bools:
    if not values.null_count:
        return np.zeros(len(values), dtype=bool)
    found: Bools = values.is_null().to_numpy(zero_copy_only=False)
    return found


def _floats(values: pa.Array) -> NDArray[np.float64]:
    """Numbers as float64; NaN where there is none."""
    if values.null_count:
        found: NDArray[np.float64] = values.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
        return found
    whole: NDArray[np.float64] = values.to_numpy(zero_copy_only=False).astype(np.float64)
    return whole
