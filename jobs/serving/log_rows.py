"""Answers as rows of the table `predictions`, a batch at a time and column by column.

In: `Prediction`s. Out: one record batch in the table's columns. A feature that is not finite is a null
element; features that could not be read, or are not as many as their names, are a null list.
Errors: ValueError, TypeError, OverflowError or ArrowException for a row that no table can hold.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from jobs.lake.tables import PREDICTIONS

FEATURES = PREDICTIONS.schema.field("features").type
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROS = 1_000_000
DAY_SECONDS = 86_400
UNUSABLE = (ValueError, TypeError, OverflowError, AttributeError, pa.ArrowException)


class Prediction(NamedTuple):
    """One answer, or one shadow score; units as in the table. Its features do not change any more."""

    request_id: str
    transaction_id: int
    event_time: datetime
    customer_id: int
    terminal_id: int
    amount_minor: int
    model_version: str
    variant: str
    step: str
    score: float | None
    decision: str
    rule: str
    error: str
    latency_ms: float
    served_at: float  # seconds since the epoch
    names: tuple[str, ...]
    features: Sequence[float] | None  # in the order of names, which feature_version stands for in the table
    feature_version: str = ""
    would_be: str = ""  # the decision that a holdout row would have had


def in_one_block(values: Sequence[float] | None) -> array[float] | None:
    """Features as they wait for the log; None where they are no numbers.

    A hundred objects a row, freed by the thread of the log, kept the interpreter for 3 ms each 0.1 s.
    """
    try:
        return None if values is None else array("d", values)
    except (TypeError, OverflowError):
        return None


# columns that are stored as they come
PLAIN = [
    (place, name, PREDICTIONS.schema.field(name).type)
    for place, name in enumerate(Prediction._fields)
    if name in PREDICTIONS.schema.names and name not in ("event_time", "served_at", "features")
]
TIMES, SERVED = Prediction._fields.index("event_time"), Prediction._fields.index("served_at")


def encode(batch: Sequence[Prediction]) -> pa.RecordBatch:
    """The rows of a batch that is not empty."""
    columns = list(zip(*batch, strict=True))
    found = {name: pa.array(columns[place], kind) for place, name, kind in PLAIN}
    times = np.array([_micros(each) for each in columns[TIMES]], dtype=np.int64)
    served = np.array(columns[SERVED], dtype=np.float64)
    schema = PREDICTIONS.schema
    found["event_time"] = pa.array(times).cast(schema.field("event_time").type)
    found["served_at"] = pa.array(np.rint(served * MICROS).astype(np.int64)).cast(
        schema.field("served_at").type
    )
    found["day"] = pa.array((times // (MICROS * DAY_SECONDS)).astype(np.int32)).cast(schema.field("day").type)
    found["features"] = feature_lists([_readable(row) for row in batch])
    return pa.RecordBatch.from_arrays([found[name] for name in schema.names], schema=schema)


def encode_usable(batch: Sequence[Prediction]) -> tuple[pa.RecordBatch | None, int]:
    """The rows that a table can hold, None where there is none, and how many it cannot."""
    try:
        return encode(batch), 0
    except UNUSABLE:
        usable = [row for row in batch if is_usable(row)]
    return (encode(usable) if usable else None), len(batch) - len(usable)


def is_usable(row: Prediction) -> bool:
    """Whether a table can hold the row."""
    try:
        encode([row])
    except UNUSABLE:
        return False
    return True


def feature_lists(rows: Sequence[Sequence[float] | None]) -> pa.Array:
    """One list of float64 a row; what is not finite is null."""
    lengths = [0 if row is None else len(row) for row in rows]
    blocks = [array("d", row) for row in rows if row is not None]
    values = np.frombuffer(b"".join(blocks), dtype=np.float64)
    offsets = np.zeros(len(rows) + 1, dtype=np.int32)
    np.cumsum(lengths, out=offsets[1:])
    return pa.ListArray.from_arrays(
        pa.array(offsets),
        pa.array(values, mask=~np.isfinite(values)),
        type=FEATURES,
        mask=pa.array([row is None for row in rows], pa.bool_()),
    )


def _readable(row: Prediction) -> Sequence[float] | None:
    values = row.features
    return values if values is not None and len(values) == len(row.names) else None


def _micros(moment: datetime) -> int:
    """Microseconds since the epoch, exactly."""
    since = moment - EPOCH
    return (since.days * DAY_SECONDS + since.seconds) * MICROS + since.microseconds
