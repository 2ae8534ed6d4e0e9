"""Ranges of partitions: reading them piece by piece, and replacing a whole range in one commit.

In: a lake, a table and the first and the last partition, both included. Out: batches of rows; or one Delta
commit, so that a reader or a killed process sees all partitions as they were or all as they become.
Errors: SluiceError where a name cannot be a partition; the engine's own where a row lies outside the range.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
from deltalake import CommitProperties, write_deltalake

from jobs.core import SluiceError
from jobs.lake.evolve import evolve
from jobs.lake.storage import TableMissing
from jobs.lake.store import Lake, conform, content_digest
from jobs.lake.tables import Table


def create(lake: Lake, table: Table, *, description: str = "") -> None:
    """Make the table where there is none yet."""
    with lake.explained(table):
        if not lake.exists(table):
            lake.create(table, description)


def replace_range(
    lake: Lake,
    table: Table,
    rows: pa.Table | pa.RecordBatchReader,
    first: str,
    last: str,
    *,
    note: Mapping[str, str] | None = None,
    unless: Callable[[], bool] = lambda: False,
) -> int:
    """Replace the partitions first to last in one commit; gives the table's version afterwards.

    `note` is kept with the commit. `unless` is asked while no other writer can come in between: where it says
    yes, nothing is written.
    """
    for name in (first, last):
        if "'" in name:
            raise SluiceError(f"table {table.name}: {name!r} cannot name a partition")
    with lake.writing(table), lake.explained(table):
        create(lake, table)
        if not unless():
            delta = lake.made(table)
            evolve(delta, table)
            write_deltalake(
                delta,
                conform(table, rows) if isinstance(rows, pa.Table) else rows,
                mode="overwrite",
                predicate=f"{table.partition} >= '{first}' AND {table.partition} <= '{last}'",
                commit_properties=CommitProperties(
                    custom_metadata={"first": first, "last": last, **(note or {})}
                ),
            )
        return lake.version(table)


def read_range(
    lake: Lake,
    table: Table,
    first: str,
    last: str,
    *,
    version: int | None = None,
    columns: list[str] | None = None,
) -> pa.RecordBatchReader:
    """The rows of a range, batch by batch, in the table's declared columns and types.

    A column that was declared after this version was written is null.
    """
    names = columns or table.schema.names
    schema = pa.schema([table.schema.field(name) for name in names])
    try:
        dataset = lake.delta(table, version).to_pyarrow_dataset()
    except TableMissing:
        return pa.RecordBatchReader.from_batches(schema, [])
    kind = table.schema.field(table.partition).type
    low, high = (pa.scalar(name).cast(kind) for name in (first, last))
    within = (ds.field(table.partition) >= low) & (ds.field(table.partition) <= high)
    batches = dataset.scanner(
        columns=[name for name in names if name in dataset.schema.names], filter=within
    ).to_batches()
    return pa.RecordBatchReader.from_batches(schema, _cast(batches, schema))


def _cast(batches: Iterator[pa.RecordBatch], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        columns = [
            batch[field.name].cast(field.type)
            if field.name in batch.schema.names
            else pa.nulls(len(batch), field.type)
            for field in schema
        ]
        yield pa.RecordBatch.from_arrays(columns, schema=schema)


def partitions_within(lake: Lake, table: Table, first: str, last: str) -> list[str]:
    """The partitions of a range that have rows."""
    return [name for name in lake.partitions(table) if first <= name <= last]


def range_size(lake: Lake, table: Table, first: str, last: str) -> tuple[int, int]:
    """Rows and bytes of a range, from the files' own figures."""
    try:
        actions = lake.delta(table).get_add_actions(flatten=True)
    except TableMissing:
        return 0, 0
    files = pa.table(actions).select([f"partition.{table.partition}", "size_bytes"]).to_pylist()
    size = sum(
        file["size_bytes"] for file in files if first <= str(file[f"partition.{table.partition}"]) <= last
    )
    rows = sum(len(batch) for batch in read_range(lake, table, first, last, columns=[table.partition]))
    return rows, size


def range_digests(
    lake: Lake, table: Table, first: str, last: str, version: int | None = None
) -> dict[str, str]:
    """The content digest of each partition of a range that has rows: one partition in memory at a time."""
    try:
        delta = lake.delta(table, version)
    except TableMissing:
        return {}
    names = sorted({str(value[table.partition]) for value in delta.partitions()})
    return {
        name: content_digest(read_range(lake, table, name, name, version=version).read_all())
        for name in names
        if first <= name <= last
    }


def commits_after(lake: Lake, table: Table, version: int) -> list[dict[str, Any]]:
    """What is known about each commit after a version, the newest first."""
    try:
        delta = lake.delta(table)
    except TableMissing:
        return []
    newer = delta.version() - version
    return delta.history(newer) if newer > 0 else []
