"""Rows of the prediction log that another version of Sluice wrote: in the table, and in segments left behind.

Older tables keep the features as one JSON object a row and know no feature version. `upgrade` rewrites such a
table in one commit, once, a batch at a time: features with the names of today get today's version, as every
reader took them so far; of others the list is null and the version empty.
Errors: SluiceError where the table cannot be read or written; it is as before then.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
from deltalake import DeltaTable, write_deltalake

from jobs.features.declarations import FEATURE_VERSION, MODEL_FEATURES
from jobs.lake.storage import TableMissing
from jobs.lake.store import Lake
from jobs.lake.tables import PREDICTIONS
from jobs.serving.log_rows import feature_lists

LOGGER = logging.getLogger("sluice.serving")
CHUNK = 64  # rows between two turns of whoever else needs the interpreter
BATCH = 8_192


def upgrade(lake: Lake) -> bool:
    """Give an older table today's columns; False where there is nothing to do."""
    try:
        if not _is_old(lake.delta(PREDICTIONS)):
            return False
        with lake.writing(PREDICTIONS), lake.explained(PREDICTIONS):
            delta = lake.delta(PREDICTIONS)
            if not _is_old(delta):  # another process was faster
                return False
            started = time.monotonic()
            rows = pa.RecordBatchReader.from_batches(PREDICTIONS.schema, _beside(_upgraded(delta)))
            write_deltalake(delta, rows, mode="overwrite", schema_mode="overwrite")
    except TableMissing:
        return False
    LOGGER.info("prediction log: the table has new columns, %.0f s", time.monotonic() - started)
    return True


def current_columns(rows: pa.Table) -> pa.Table:
    """Rows of a segment with the columns of today: one that it lacks is null."""
    columns = [
        rows[field.name] if field.name in rows.column_names else pa.nulls(rows.num_rows, field.type)
        for field in PREDICTIONS.schema
    ]
    return pa.table(columns, names=PREDICTIONS.schema.names)


def _is_old(delta: DeltaTable) -> bool:
    return "feature_version" not in {field.name for field in delta.schema().fields}


def _beside(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The batches, made in a thread of their own: the table's files cannot be read in the one that writes."""
    with ThreadPoolExecutor(1) as pool:
        while (batch := pool.submit(next, batches, None).result()) is not None:
            yield batch


def _upgraded(delta: DeltaTable) -> Iterator[pa.RecordBatch]:
    for batch in delta.to_pyarrow_dataset().to_batches(batch_size=BATCH):
        if batch.num_rows:
            yield _with_lists(pa.table(batch))


def _with_lists(rows: pa.Table) -> pa.RecordBatch:
    lists = _lists(rows["features"].to_pylist())
    version = pa.array(["" if each is None else FEATURE_VERSION for each in lists], pa.string())
    found = (
        rows.drop_columns("features")
        .append_column("features", feature_lists(lists))
        .append_column("feature_version", version)
        .append_column("would_be", pa.array([""] * rows.num_rows, pa.string()))
    )
    (batch,) = found.select(PREDICTIONS.schema.names).cast(PREDICTIONS.schema).combine_chunks().to_batches()
    return batch


def _lists(texts: list[str | None]) -> list[list[float] | None]:
    found: list[list[float] | None] = []
    for place, text in enumerate(texts):
        if place % CHUNK == 0:
            time.sleep(0)
        values = json.loads(text) if text else {}
        known = values.keys() == set(MODEL_FEATURES)
        found.append([_number(values[name]) for name in MODEL_FEATURES] if known else None)
    return found


def _number(value: float | None) -> float:
    return float("nan") if value is None else value
