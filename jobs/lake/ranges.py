"""Ranges of partitions: reading them piece by piece, and replacing a whole range in one commit.

In: a lake, a table and the first and the last partition, both included. Out: batches of rows; or one Delta
commit, so that a reader or a killed process sees all partitions as they were or all as they become.
Errors: SluiceError where a name cannot be a partition; the engine's own where a row lies outside the range.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, write_deltalake

from jobs.core import SluiceError
from jobs.lake.evolve import evolve
from jobs.lake.storage import TableMissing
from jobs.lake.store import Lake, conform, content_digest, scanner
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
                schema_mode="merge" if table.derived else None,
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
    schema = pa.schema([table.schema.field(name) for name in columns or table.schema.names])
    try:
        delta = lake.delta(table, version)
    except TableMissing:
        return pa.RecordBatchReader.from_batches(schema, [])
    return pa.RecordBatchReader.from_batches(schema, _batches(lake, table, delta, first, last, schema))


def _batches(
    lake: Lake, table: Table, delta: DeltaTable, first: str, last: str, schema: pa.Schema
) -> Iterator[pa.RecordBatch]:
    with lake.explained(table):
        # here and not while they are read: delta-rs may be the reader, and cannot be asked anything then
        stored = {field.name for field in delta.schema().fields}
        names = [name for name in schema.names if name in stored]
        batches = scanner(delta, table, first, last, names).to_batches()
    return _declared(lake, table, batches, schema)


def _declared(
    lake: Lake, table: Table, batches: Iterator[pa.RecordBatch], schema: pa.Schema
) -> Iterator[pa.RecordBatch]:
    with lake.explained(table):
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
        delta = lake.delta(table)
    except TableMissing:
        return 0, 0
    with lake.explained(table):
        actions = delta.get_add_actions(flatten=True)
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
    with lake.explained(table):
        names = sorted({str(value[table.partition]) for value in delta.partitions()})
    return {
        name: content_digest(
            pa.Table.from_batches(_batches(lake, table, delta, name, name, table.schema), table.schema)
        )
        for name in names
        if first <= name <= last
    }


def commits_after(lake: Lake, table: Table, version: int) -> list[dict[str, Any]]:
    """What is known about each commit after a version, the newest first."""
    try:
        delta = lake.delta(table)
    except TableMissing:
        return []
    with lake.explained(table):
        newer = delta.version() - version
        return delta.history(newer) if newer > 0 else []
