"""Reading a raw file: first every value as text, then by the contract's types.

In: the bytes of a CSV or Parquet file. Out: frames by row number (from 1). A value that cannot be read
becomes a null in `<column>_value` while its text stays in `<column>`, so that the rule which it broke can
be named; nothing is dropped here. Money becomes integer minor units, timestamps become UTC.
Errors: SluiceError for a file that is empty, is not of its format, or has other columns than the contract.
"""

from __future__ import annotations

import csv
import io
import json
from datetime import date
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from jobs.core import SluiceError, midnight
from jobs.quality.feeds import Feed

DECIMAL = r"^\s*[+-]?[0-9]{1,18}(\.[0-9]{0,18})?([eE][+-]?[0-9]{1,2})?\s*$"
INTEGER = r"^\s*[+-]?[0-9]{1,18}\s*$"
# at most two decimals that count: a third one is not money in minor units
MONEY = r"^\s*(?P<sign>[+-]?)(?P<whole>[0-9]{1,13})(\.(?P<part>[0-9]{0,2})0*)?\s*$"
TIMESTAMP = (
    r"^\s*[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]{1,9})?)?"
    r"(Z|[+-][0-9]{2}:?[0-9]{2})?\s*$"
)
ZONE = r"(?:Z|[+-][0-9]{2}:?[0-9]{2})$"
FIELDS = "fields_found"  # number of fields of a CSV row; a Parquet row always has them all
ROW = "row"  # the row as it came, as JSON


def read_text(data: bytes, kind: str, where: str) -> pd.DataFrame:
    """Every value as text, None where it is empty; index: row number from 1; plus FIELDS and ROW.

    Raises:
        SluiceError: the file is empty, is not of its format, or names a column twice.
    """
    if not data:
        raise SluiceError(f"{where}: the file is empty; ask the sender for the day again")
    return _read_csv(data, where) if kind == "csv" else _read_parquet(data, where)


def _read_csv(data: bytes, where: str) -> pd.DataFrame:
    # a byte that is not UTF-8 spoils its value, not the file
    text = data.decode("utf-8-sig", errors="replace")
    try:
        lines = [line for line in csv.reader(io.StringIO(text, newline="")) if line]
    except csv.Error as error:
        raise SluiceError(f"{where}: not a CSV file: {error}") from None
    if not lines:
        raise SluiceError(f"{where}: the file has no header; ask the sender for the day again")
    header = [name.strip() for name in lines[0]]
    _refuse_twice(header, where)
    width = len(header)
    rows = lines[1:]
    # a row with too few or too many fields keeps its text in ROW alone: nobody knows which is which
    fitting = [line if len(line) == width else [""] * width for line in rows]
    columns: dict[str, Any] = {
        name: [value if value.strip() else None for value in values]
        for name, values in zip(header, zip(*fitting, strict=True), strict=False)
    }
    frame = pd.DataFrame(columns, columns=header, dtype=object)
    frame[FIELDS] = np.array([len(line) for line in rows], dtype=np.int64)
    frame[ROW] = [json.dumps(line, ensure_ascii=False) for line in rows]
    frame.index = pd.RangeIndex(1, len(frame) + 1)
    return frame


def _read_parquet(data: bytes, where: str) -> pd.DataFrame:
    try:
        table = pq.read_table(pa.BufferReader(data))
    except (pa.ArrowException, OSError):
        raise SluiceError(f"{where}: not a readable Parquet file; ask the sender again") from None
    _refuse_twice(table.column_names, where)
    columns = {name: _as_text(table[name], name, where) for name in table.column_names}
    frame = pd.DataFrame(columns, dtype=object)
    names = list(columns)
    rows = zip(*(columns[name] for name in names), strict=True)
    frame[FIELDS] = len(names)
    frame[ROW] = [json.dumps(list(row), ensure_ascii=False) for row in rows]
    frame.index = pd.RangeIndex(1, len(frame) + 1)
    return frame


def _as_text(column: pa.ChunkedArray, name: str, where: str) -> list[str | None]:
    if pa.types.is_floating(column.type):
        # 57.160000000000004 is 57.16 that went through binary: six decimals are more than money has
        column = pc.round(column, ndigits=6)
        column = pc.if_else(pc.is_nan(column), None, column)
    try:
        text: list[str | None] = pc.cast(column, pa.string()).to_pylist()
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid):
        raise SluiceError(f"{where}: column {name} is of type {column.type}, not a value") from None
    return [value if value is not None and value.strip() else None for value in text]


def _refuse_twice(names: list[str], where: str) -> None:
    for name in names:
        if names.count(name) > 1:
            raise SluiceError(f"{where}: column {name!r} is there twice")


def parse(text: pd.DataFrame, feed: Feed, day: date, where: str) -> pd.DataFrame:
    """The frame that is checked.

    Columns: for each column of the feed `<column>` (text) and `<column>_value` (number, instant; null where
    it cannot be read), `fields_found`, `row`, `copy_number` (0 for the row that is kept of each key) and,
    where the feed has an instant, `second_of_day`.

    Raises:
        SluiceError: a column of the contract is missing, or there is one that it does not know.
    """
    found = [name for name in text.columns if name not in (FIELDS, ROW)]
    expected = [column.source for column in feed.columns.values()]
    for name in (column.source for column in feed.required.values()):
        if name not in found:
            raise SluiceError(
                f"{where}: column {name!r} is missing; the file has {', '.join(map(repr, found))}"
            )
    for name in found:
        if name not in expected and name not in feed.ignored:
            raise SluiceError(
                f"{where}: column {name!r} is not in the contract; name it there, or among the ignored ones"
            )
    frame = pd.DataFrame(index=text.index)
    absent = pd.Series(None, index=text.index, dtype=object)
    for name, column in feed.columns.items():
        values = text.get(column.source, absent)
        frame[name] = values
        frame[f"{name}_value"] = read_values(values, column.type)
    # a column that may be absent counts as there: the rule about the number of fields knows the contract
    frame[FIELDS] = text[FIELDS] + len({*expected, *feed.ignored} - set(found))
    frame[ROW] = text[ROW]
    if feed.instant:
        instants = frame[f"{feed.instant}_value"]
        frame["second_of_day"] = (instants - pd.Timestamp(midnight(day))).dt.total_seconds()
    frame["copy_number"] = copy_numbers(frame, feed)
    return frame


def read_values(text: pd.Series[Any], kind: str) -> pd.Series[Any]:
    """Values of one column: Int64, Float64, text or UTC instants; null where unreadable."""
    if kind == "text":
        return text.astype("string")
    if kind == "decimal":
        fits = text.str.fullmatch(DECIMAL, na=False).astype(bool)
        # \s knows separators (0x1c to 0x1f) that float and int refuse, strip knows them too
        return text.where(fits).str.strip().map(float, na_action="ignore").astype("Float64")
    if kind == "timestamp":
        fits = text.str.fullmatch(TIMESTAMP, na=False).astype(bool)
        cleaned = text.where(fits).str.strip()
        # pandas lends a text without a zone the zone of the one before it
        cleaned = cleaned.where(cleaned.str.contains(ZONE, na=True), cleaned + "Z")
        instants = pd.to_datetime(cleaned, format="ISO8601", utc=True, errors="coerce")
        return instants.dt.floor("us")
    if kind == "integer":
        fits = text.str.fullmatch(INTEGER, na=False).astype(bool)
        # not through map: with a null beside them large numbers would go through a float
        numbers = [int(value.strip()) if fit else None for value, fit in zip(text, fits, strict=True)]
        return pd.Series(pd.array(numbers, dtype="Int64"), index=text.index)
    parts = text.astype("string").str.extract(MONEY)
    whole = parts["whole"].astype("Int64")
    cents = parts["part"].fillna("").str.ljust(2, "0").astype("Int64")
    minor = whole * 100 + cents
    signed: pd.Series[Any] = minor.where(parts["sign"].fillna("") != "-", -minor)
    return signed


def copy_numbers(frame: pd.DataFrame, feed: Feed) -> pd.Series[Any]:
    """0 for the row to keep of each key, 1 and up for its surplus copies; 0 without a readable key.

    The row to keep is the first that can be read in full; of reports that differ in time, the latest.
    """
    values = [f"{name}_value" for name in feed.required]
    order = pd.DataFrame({"incomplete": frame[values].isna().any(axis=1)}, index=frame.index)
    ascending = [True]
    if feed.instant == "reported_at":
        order["instant"] = frame["reported_at_value"]
        ascending.append(False)
    ranked = order.sort_values(list(order.columns), ascending=ascending, kind="stable").index
    keys = frame.loc[ranked, f"{feed.key}_value"]
    copies = keys.groupby(keys).cumcount().reindex(frame.index)
    numbers: pd.Series[Any] = copies.fillna(0).astype("int64")  # without a key: no copy of anything
    return numbers
