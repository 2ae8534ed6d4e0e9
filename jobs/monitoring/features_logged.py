"""Features of the prediction log as columns.

In: rows with the log's `features` and `feature_version`. A list of values means nothing without the
declaration that it was made by, so only today's version is read; rows of another one are told apart, counted
and named in the log of the job.
The log is read a batch at a time, and of a row only what is asked for is kept: a day of a million rows is
360 MB of float32 where it is lists of objects otherwise. float32 is also what a reference is kept in and what
the model reads, so a price of 9.99 is the same number on both sides.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from jobs.core import SluiceError
from jobs.features.declarations import FEATURE_VERSION, MODEL_FEATURES
from jobs.lake.store import Lake
from jobs.lake.tables import PREDICTIONS
from jobs.monitoring.interval import Interval

LOGGER = logging.getLogger(__name__)
LOGGED = ("feature_version", "features")
CHOSEN_BY = ("variant", "error", "model_version")
CACHED_ROWS = 1024
Wanted = Callable[[pa.RecordBatch], pa.Array]  # which rows of a batch
Values = npt.NDArray[Any]


class Logged(NamedTuple):
    """Rows of the log: some columns of each, and some features in pieces, as they were read."""

    rows: pd.DataFrame
    readable: npt.NDArray[np.bool_]  # [rows] whether the features are by today's declaration
    features: tuple[str, ...]
    pieces: list[Values]  # each [features, some of the rows]; NaN where null or not readable

    def at(self, places: npt.NDArray[np.int64]) -> pd.DataFrame:
        """The rows at these places, in this order, with a column for each feature."""
        found = self.rows.take(places).reset_index(drop=True)
        if not self.features:
            return found
        # one block, a row of it for each feature: that is how pandas keeps columns, so nothing is copied
        values = np.empty((len(self.features), len(places)), self.pieces[0].dtype)
        for number, row in enumerate(values):
            row[:] = np.concatenate([piece[number] for piece in self.pieces])[places]
        columns = pd.DataFrame(values.T, found.index, list(self.features), copy=False)
        for number, name in enumerate(map(str, found)):
            columns.insert(number, name, found[name])
        return columns


def logged(
    lake: Lake,
    when: Interval,
    columns: Sequence[str],
    wanted: Wanted,
    features: Sequence[str] = (),
    kind: type[np.floating[Any]] = np.float32,
) -> Logged:
    """The wanted rows of an interval with some columns and some features.

    `wanted` sees these columns, those of CHOSEN_BY, and the features as the log has them.

    Raises:
        SluiceError: the table was written by an older version of Sluice and keeps the features as text.
    """
    chosen = [MODEL_FEATURES.index(name) for name in features]
    kept, others = [PREDICTIONS.schema.field(name) for name in columns], Counter[str]()
    found: list[pa.RecordBatch] = []
    readable, pieces = [np.empty(0, np.bool_)], [np.empty((len(chosen), 0), kind)]
    read = list(dict.fromkeys([*columns, *CHOSEN_BY, *LOGGED]))
    for batch in _with_lists(lake, batches(lake, when, read)):
        rows = _filtered(batch, pc.fill_null(wanted(batch), False))
        ours = _readable(rows, others)
        mask = ours.to_numpy(zero_copy_only=False)
        values = _columns(_filtered(rows["features"], ours), chosen, kind)
        if not mask.all():
            values, held = np.full((len(chosen), len(rows)), np.nan, kind), values
            values[:, mask] = held
        found.append(rows.select(list(columns)))
        readable.append(mask)
        pieces.append(values)
    _warn_of(others)
    table = pa.Table.from_batches(found, pa.schema(kept))
    return Logged(table.to_pandas(), np.concatenate(readable), tuple(features), pieces)


def latest_answers(found: Logged, *, readable_only: bool = False) -> pd.DataFrame:
    """One row for each transaction, its latest answer, in the order of time; `served_at` is left out."""
    rows = found.rows[["transaction_id", "served_at"]]
    rows = rows[found.readable] if readable_only else rows
    kept = rows.sort_values("served_at", kind="stable").drop_duplicates("transaction_id", keep="last")
    latest = found.at(kept.index.to_numpy(dtype=np.int64))
    del latest["served_at"]
    return latest


def batches(lake: Lake, when: Interval, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Some columns of the log's rows of a day, or of one hour of it, a batch at a time."""
    read = list(dict.fromkeys([*columns, "event_time"]))
    for batch in lake.scan(PREDICTIONS, first=when.day, last=when.day, columns=read):
        if when.hour is None:
            yield batch
        else:
            yield batch.filter(pc.equal(pc.hour(batch["event_time"]), when.hour))


def _filtered(rows: Any, mask: pa.Array) -> Any:
    """The rows that a mask without nulls chooses; the same ones, and no copy, where these are all."""
    return rows if pc.all(mask, min_count=0).as_py() else rows.filter(mask)


def _columns(lists: pa.Array, chosen: list[int], kind: type[np.floating[Any]]) -> Values:
    """[features, rows] of lists that have them all; turned some rows at a time, which stay in the cache."""
    rows = lists.flatten().to_numpy(zero_copy_only=False).reshape(-1, len(MODEL_FEATURES))
    values = np.empty((len(chosen), len(rows)), kind)
    for start in range(0, len(rows), CACHED_ROWS):
        values[:, start : start + CACHED_ROWS] = rows[start : start + CACHED_ROWS].T[chosen]
    return values


def _readable(rows: pa.RecordBatch, others: Counter[str]) -> pa.Array:
    """Which rows have features by the declaration of today; the versions of `others` are counted."""
    lists, versions = rows["features"], rows["feature_version"]
    same = pc.and_(pc.equal(versions, FEATURE_VERSION),
                   pc.equal(pc.list_value_length(lists), len(MODEL_FEATURES)))  # fmt: skip
    ours = pc.fill_null(same, False)
    strangers = versions.filter(pc.and_(pc.is_valid(lists), pc.invert(ours)))
    others.update(pc.fill_null(strangers, "").to_pylist())
    return ours


def _with_lists(lake: Lake, read: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The batches; where they cannot be read, why."""
    try:
        yield from read
    except (KeyError, pa.ArrowInvalid):
        stored = {field.name for field in lake.delta(PREDICTIONS).schema().fields}
        if stored.issuperset(LOGGED):
            raise
        raise SluiceError(
            "table predictions keeps the features as an older version of Sluice did; start the scoring "
            "service once: it gives the table its new columns before it writes the first rows"
        ) from None


def _warn_of(others: Counter[str]) -> None:
    if others:
        LOGGER.warning(
            "%d rows of the prediction log hold features of version %s, not of %s: they are not read",
            sum(others.values()), ", ".join(sorted(others)) or "unknown",
            FEATURE_VERSION,
        )  # fmt: skip
