"""Which rows are surplus copies: of another row of the file, or of one that is published already.

In: the keys of the file. Out: for the rows that are copies of something, their numbers, 1 and up. Apart from
them, the rows that a later file has brought already: whose day's own file comes after that one is no fault of
its rows. One int64 for each row of the file is held, and more only of rows whose key comes twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from jobs.quality.chunks import Chunk
from jobs.quality.feeds import Feed
from jobs.quality.frame import incomplete, texts_in, typed
from jobs.quality.suites import COPY, LATE
from jobs.quality.values import Bools, Ints, Texts, values_of

Chunks = Callable[[str | None], Iterator[Chunk]]


class Keys(NamedTuple):
    """The key of each row."""

    values: Ints  # 0 where there is none
    there: Bools


class Published(NamedTuple):
    """Which rows' keys are published already, and how."""

    elsewhere: Bools  # with another day's file
    late: Bools  # as late rows of a later file

    @classmethod
    def nothing(cls, keys: Keys) -> Published:
        """Where no key is published."""
        none = np.zeros(len(keys.values), dtype=bool)
        return cls(none, none)


class Copies(NamedTuple):
    """Rows that are copies, by their number in the file."""

    rows: Ints  # ascending
    numbers: Ints
    late: Bools  # of every row: a later file has brought it

    def of(self, chunk: Chunk) -> dict[str, NDArray[Any]]:
        """The columns of a chunk that the rules look at: the copy number, 0 for none, and what came late."""
        found = np.zeros(chunk.size, dtype=np.int64)
        first, last = np.searchsorted(self.rows, (chunk.first, chunk.first + chunk.size))
        found[self.rows[first:last] - chunk.first] = self.numbers[first:last]
        return {COPY: found, LATE: self.late[chunk.first - 1 : chunk.first - 1 + chunk.size]}


def read_keys(chunks: Chunks, feed: Feed, rows: int) -> Keys:
    """The keys of a file of about this many rows."""
    column = feed.columns[feed.key]
    values, there = np.zeros(rows, dtype=np.int64), np.zeros(rows, dtype=bool)
    for chunk in chunks(column.source):
        found = values_of(texts_in(chunk, column), column.type)
        end = chunk.first - 1 + chunk.size
        if end > len(values):  # more than were landed: the account of the rows will say so
            values, there = (
                np.append(held, np.zeros(end - len(held), held.dtype)) for held in (values, there)
            )
        place = slice(chunk.first - 1, end)
        there[place] = ~found.is_null().to_numpy(zero_copy_only=False)
        values[place] = found.fill_null(0).to_numpy(zero_copy_only=False)
    return Keys(values, there)


def repeated(keys: Keys) -> Bools:
    """The rows whose key comes more than once."""
    known = keys.values[keys.there]
    if len(known) < 2 or bool((known[1:] > known[:-1]).all()):
        return np.zeros(len(keys.values), dtype=bool)
    known.sort()
    twice = np.unique(known[1:][known[1:] == known[:-1]])
    return np.isin(keys.values, twice) & keys.there if len(twice) else np.zeros(len(keys.values), dtype=bool)


def find_copies(chunks: Chunks, feed: Feed, keys: Keys, published: Published) -> Copies:
    """Number the copies: the rows whose key is published elsewhere, and those whose key comes again.

    Of each key one row is kept: the first that can be read in full; of reports that differ in time, the
    latest.
    """
    places = np.flatnonzero(published.elsewhere)
    numbers = pd.Series(np.ones(len(places), dtype=np.int64), index=places + 1)
    twice = repeated(keys)
    if twice.any():
        numbers = numbers.add(_ranks(chunks, feed, keys, twice), fill_value=0)
    numbers = numbers[numbers > 0].sort_index()
    rows = numbers.index.to_numpy(dtype=np.int64)
    return Copies(rows, np.asarray(numbers, dtype=np.int64), published.late)


def _ranks(chunks: Chunks, feed: Feed, keys: Keys, twice: Bools) -> pd.Series[int]:
    """By row number: 0 for the row to keep of each key, 1 and up for the others."""
    parts = []
    for chunk in chunks(None):
        chosen = twice[chunk.first - 1 : chunk.first - 1 + chunk.size]
        if not chosen.any():
            continue
        values = typed(_chosen(chunk, chosen), feed)
        part = {"incomplete": incomplete(values, feed)}
        if feed.instant == "reported_at":
            part["instant"] = pd.to_datetime(values["reported_at"].to_pandas(), utc=True).to_numpy()
        parts.append(pd.DataFrame(part, index=np.flatnonzero(chosen) + chunk.first))
    order = pd.concat(parts)
    ascending = [True, False][: len(order.columns)]
    ranked = order.sort_values(list(order.columns), ascending=ascending, kind="stable").index
    of_key = pd.Series(keys.values[ranked - 1], index=ranked)
    return of_key.groupby(of_key).cumcount()


def _chosen(chunk: Chunk, rows: Bools) -> Chunk:
    """The texts of some rows of a chunk."""
    kept = pa.array(rows)
    columns = {
        name: Texts(texts.values.filter(kept), texts.blank[rows]) for name, texts in chunk.columns.items()
    }
    return Chunk(chunk.first, columns, chunk.fields[rows], None)
