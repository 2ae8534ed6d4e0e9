"""Reading a column of texts by the contract's types, all rows at once.

In: texts and which of them are blank. Out: an Arrow array, null where a text cannot be read as its type.
Plain spellings are read from the bytes: digits, money with at most two decimals, `YYYY-MM-DD hh:mm:ss` with
`T` or a space, fractions and `Z`. Each other spelling goes through `parse.read_values`, which says what is
allowed; so both give the same values, and the rarer way costs more.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from jobs.lake.tables import TIMESTAMP
from jobs.quality.parse import read_values

Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]

ZERO, NINE, DOT = ord("0"), ord("9"), ord(".")
MOMENT = 19  # characters of YYYY-MM-DDThh:mm:ss
FRACTION_DIGITS = 6  # microseconds; what lies behind is cut off
# pandas' nanoseconds reach no further, and what they cannot hold is no timestamp here
YEARS = (1678, 2261)
MONTHS = np.arange(f"{YEARS[0]}-01", f"{YEARS[1] + 1}-02", dtype="datetime64[M]").astype("datetime64[D]")
FIRST_DAYS = MONTHS.astype(np.int64)
MICROSECONDS = 1_000_000
DAY_MICROSECONDS = 86_400 * MICROSECONDS


class Texts(NamedTuple):
    """A column as it came: no nulls, and which values are blank."""

    values: pa.Array
    blank: Bools


class Bytes(NamedTuple):
    """The same column as bytes."""

    data: NDArray[np.uint8]
    starts: Ints
    lengths: Ints


def texts_of(values: pa.Array | pa.ChunkedArray) -> Texts:
    """Strings with the blank ones marked; a null becomes a blank text."""
    array = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
    if array.null_count:
        array = pc.fill_null(array, "")
    data, starts, lengths = bytes_of(array)
    blank = lengths == 0
    if data.size:
        first = data[np.minimum(starts, data.size - 1)]
        # every space of Unicode begins with one of these bytes
        for place in np.flatnonzero(~blank & ((first <= ord(" ")) | (first > 126))):
            blank[place] = not array[int(place)].as_py().strip()
    return Texts(array, blank)


def bytes_of(array: pa.Array) -> Bytes:
    """The bytes behind an array of strings without nulls."""
    _, places, data = array.buffers()
    if data is None or len(array) == 0:
        empty = np.zeros(len(array), dtype=np.int64)
        return Bytes(np.empty(0, dtype=np.uint8), empty, empty)
    offsets = np.frombuffer(places, dtype=np.int32)[array.offset : array.offset + len(array) + 1]
    begin, end = int(offsets[0]), int(offsets[-1])
    starts = offsets.astype(np.int64) - begin
    return Bytes(np.frombuffer(data, dtype=np.uint8)[begin:end], starts[:-1], np.diff(starts))


def values_of(texts: Texts, kind: str) -> pa.Array:
    """The values of a column of the contract; null where blank or unreadable."""
    if kind == "integer":
        values, known = _integers(texts)
    elif kind == "money":
        values, known = _money(texts)
    elif kind == "timestamp":
        values, known = _timestamps(texts)
    else:
        return _by_reference(texts, np.ones(len(texts.blank), dtype=bool), kind)
    found = pa.array(values, mask=~known)
    if kind == "timestamp":
        found = found.cast(TIMESTAMP)
    rest = ~known & ~texts.blank
    if rest.any():
        found = pc.replace_with_mask(found, pa.array(rest), _by_reference(texts, rest, kind))
    return found


def _by_reference(texts: Texts, chosen: Bools, kind: str) -> pa.Array:
    """The chosen values, read one by one."""
    values = texts.values.filter(pa.array(chosen)).to_pandas().astype(object)
    values[texts.blank[chosen]] = None
    read = read_values(pd.Series(values, dtype=object), kind)
    if kind == "timestamp":
        return pa.Array.from_pandas(read, type=TIMESTAMP)
    return pa.Array.from_pandas(read, type=pa.int64() if kind in ("integer", "money") else None)


def _rows_with(wrong: Bools, column: Bytes) -> Ints:
    """The rows that have a marked byte."""
    places = np.flatnonzero(wrong)
    return np.searchsorted(column.starts + column.lengths, places, side="right")


def _integers(texts: Texts) -> tuple[Ints, Bools]:
    column = bytes_of(texts.values)
    plain = (column.lengths > 0) & (column.lengths <= 18) & ~texts.blank
    digits = (column.data >= ZERO) & (column.data <= NINE)
    if not digits.all():
        plain[_rows_with(~digits, column)] = False
    return _as_numbers(texts.values, plain), plain


def _as_numbers(values: pa.Array, plain: Bools) -> Ints:
    """The chosen texts, all digits, as numbers; 0 elsewhere."""
    if plain.all():
        found: Ints = pc.cast(values, pa.int64()).to_numpy(zero_copy_only=False)
        return found
    numbers = np.zeros(len(values), dtype=np.int64)
    numbers[plain] = pc.cast(values.filter(pa.array(plain)), pa.int64()).to_numpy(zero_copy_only=False)
    return numbers


def _money(texts: Texts) -> tuple[Ints, Bools]:
    column = bytes_of(texts.values)
    count = len(column.lengths)
    plain = (column.lengths > 0) & ~texts.blank
    dots = column.data == DOT
    wrong = ~(((column.data >= ZERO) & (column.data <= NINE)) | dots)
    if wrong.any():
        plain[_rows_with(wrong, column)] = False
    places = np.flatnonzero(dots)
    ends = column.starts + column.lengths
    if len(places) == count and bool((places == ends - 3).all()):
        whole, decimals, with_dot = column.lengths - 3, np.full(count, 2), np.ones(count, dtype=np.int64)
    else:
        rows = np.searchsorted(ends, places, side="right")
        with_dot = np.bincount(rows, minlength=count)
        plain &= with_dot <= 1
        decimals = np.zeros(count, dtype=np.int64)
        decimals[rows] = ends[rows] - 1 - places
        whole = column.lengths - with_dot - decimals
    plain &= (whole >= 1) & (whole <= 13) & (decimals <= 2)
    kept = np.append(0, np.cumsum(column.lengths - with_dot)).astype(np.int32)
    without = pa.Array.from_buffers(
        pa.string(), count, [None, pa.py_buffer(kept), pa.py_buffer(column.data[~dots])]
    )
    numbers = _as_numbers(without, plain)
    return numbers * 10 ** np.clip(2 - decimals, 0, 2), plain


def _timestamps(texts: Texts) -> tuple[Ints, Bools]:
    column = bytes_of(texts.values)
    count = len(column.lengths)
    instants, known = np.zeros(count, dtype=np.int64), np.zeros(count, dtype=bool)
    for length in np.unique(column.lengths):
        if not MOMENT <= length <= MOMENT + 11:
            continue
        rows = np.flatnonzero(column.lengths == length)
        if len(rows) == count:
            block = column.data.reshape(count, int(length))
        else:
            block = column.data[column.starts[rows][:, None] + np.arange(length)]
        instants[rows], known[rows] = _moments(block)
    return instants, known & ~texts.blank


def _moments(block: NDArray[np.uint8]) -> tuple[Ints, Bools]:
    """Rows of equally many characters as microseconds since 1970, and which of them are plain."""
    fits = np.ones(len(block), dtype=bool)

    def number(first: int, last: int) -> Ints:
        total = np.zeros(len(block), dtype=np.int32)
        for place in range(first, last):
            digit = block[:, place] - np.uint8(ZERO)
            np.logical_and(fits, digit <= 9, out=fits)
            total = total * 10 + digit
        return total.astype(np.int64)

    for place, allowed in ((4, "-"), (7, "-"), (10, "T "), (13, ":"), (16, ":")):
        np.logical_and(fits, np.isin(block[:, place], [ord(sign) for sign in allowed]), out=fits)
    year, month, day = number(0, 4), number(5, 7), number(8, 10)
    hour, minute, second = number(11, 13), number(14, 16), number(17, 19)
    fits &= (year >= YEARS[0]) & (year <= YEARS[1]) & (month >= 1) & (month <= 12)
    fits &= (hour < 24) & (minute < 60) & (second < 60)
    index = np.where(fits, (year - YEARS[0]) * 12 + month - 1, 0)
    fits &= (day >= 1) & (day <= FIRST_DAYS[index + 1] - FIRST_DAYS[index])
    seconds = (hour * 60 + minute) * 60 + second
    instants = (FIRST_DAYS[index] + day - 1) * DAY_MICROSECONDS + seconds * MICROSECONDS
    return instants + _fraction(block, fits, number), fits


def _fraction(block: NDArray[np.uint8], fits: Bools, number) -> Ints:  # type: ignore[no-untyped-def]
    """Microseconds behind the second; `fits` loses the rows with another ending."""
    none = np.zeros(len(block), dtype=np.int64)
    width = block.shape[1]
    if width == MOMENT:
        return none
    zulu = block[:, -1] == ord("Z")
    if width == MOMENT + 1:
        fits &= zulu
        return none
    fits &= block[:, MOMENT] == DOT
    # with and without Z a text of this length has another number of digits: the commoner kind is read here
    last = width - 1 if int(zulu.sum()) * 2 >= len(block) else width
    fits &= zulu if last == width - 1 else ~zulu
    read = min(last, MOMENT + 1 + FRACTION_DIGITS)
    if last - MOMENT - 1 > 9 or read == MOMENT + 1:
        fits[:] = False
        return none
    for place in range(read, last):
        fits &= (block[:, place] >= ZERO) & (block[:, place] <= NINE)
    part: Ints = number(MOMENT + 1, read) * 10 ** (FRACTION_DIGITS - (read - MOMENT - 1))
    return part
