"""Reading tables, and replacing one partition at a time.

A write is one Delta commit: a reader or a killed process sees the old partition or the new one, never a
mixture. One writer at a time per table, by a file lock that the kernel drops when its holder dies.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from deltalake import CommitProperties, DeltaTable, write_deltalake
from deltalake.exceptions import TableNotFoundError

from jobs.conf.settings import Settings
from jobs.core import SluiceError
from jobs.lake.evolve import evolve, new_columns
from jobs.lake.tables import Table
from jobs.locks import file_lock


class Lake:
    """The tables under one folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, table: Table) -> Path:
        return self.root / table.name

    def exists(self, table: Table) -> bool:
        return bool(DeltaTable.is_deltatable(str(self.path(table))))

    def version(self, table: Table) -> int:
        """The current version, -1 where the table does not exist."""
        return int(DeltaTable(str(self.path(table))).version()) if self.exists(table) else -1

    def read(
        self,
        table: Table,
        *,
        first: date | str | None = None,
        last: date | str | None = None,
        columns: list[str] | None = None,
        version: int | None = None,
    ) -> pa.Table:
        """Rows whose partition lies in [first, last], both included; an empty frame where there is no table.

        Dates come back as `date32`, timestamps as microseconds in UTC.
        """
        wanted = columns or table.schema.names
        try:
            delta = DeltaTable(str(self.path(table)), version=version)
        except TableNotFoundError:
            if version is not None:
                raise SluiceError(
                    f"table {table.name}: version {version} is not readable any more: nothing pinned it and "
                    "vacuum_tables has cleaned it away"
                ) from None
            return table.schema.empty_table().select(wanted)
        kind = table.schema.field(table.partition).type
        bounds = ((">=", first), ("<=", last))
        filters = [
            (table.partition, comparison, pa.scalar(str(bound)).cast(kind).as_py())
            for comparison, bound in bounds
            if bound is not None
        ]
        rows = delta.to_pyarrow_table(columns=wanted, filters=filters or None)
        target = pa.schema([table.schema.field(name) for name in wanted if name in table.schema.names])
        return rows.cast(target) if len(target) == len(wanted) else rows

    def partitions(self, table: Table) -> list[str]:
        """The partitions that have rows, sorted."""
        if not self.exists(table):
            return []
        values = DeltaTable(str(self.path(table))).partitions()
        return sorted({str(value[table.partition]) for value in values})

    def check(self, table: Table) -> None:
        """Refuse a declaration that the table, where it exists, cannot take.

        Raises:
            SluiceError: a column has another type, is no longer declared, or is new and not optional.
        """
        if self.exists(table):
            new_columns(DeltaTable(str(self.path(table))), table)

    def replace(self, table: Table, rows: pa.Table, partition: date | str) -> int:
        """Replace one partition with `rows` in one commit; gives the new table version.

        Raises:
            SluiceError: a column is missing or of another type, here or in the table, or a row lies outside
                the partition.
        """
        rows = conform(table, rows)
        value = str(partition)
        outside = pc.sum(pc.not_equal(rows[table.partition].cast(pa.string()), value)).as_py()
        if outside:
            raise SluiceError(f"table {table.name}: {outside} rows lie outside {table.partition}={value}")
        if "'" in value:
            raise SluiceError(f"table {table.name}: {value!r} cannot name a partition")
        path = str(self.path(table))
        with self.writing(table):
            if not self.exists(table):
                DeltaTable.create(path, schema=table.schema, partition_by=[table.partition])
            evolve(DeltaTable(path), table)
            write_deltalake(
                path,
                rows,
                mode="overwrite",
                predicate=f"{table.partition} = '{value}'",
                commit_properties=CommitProperties(custom_metadata={"partition": value}),
            )
            return int(DeltaTable(path).version())

    def append(self, table: Table, rows: pa.Table) -> None:
        """Append rows in one commit: for logs, which have no re-run.

        Nothing is read after the commit: an error there would make the caller write the rows again.
        """
        path = str(self.path(table))
        with self.writing(table):
            if not self.exists(table):
                DeltaTable.create(path, schema=table.schema, partition_by=[table.partition])
            write_deltalake(path, conform(table, rows), mode="append")

    @contextmanager
    def writing(self, table: Table) -> Iterator[None]:
        """Hold the table's one writer's place."""
        with file_lock(self.root / f".{table.name}.lock"):
            yield


def lake_of(settings: Settings) -> Lake:
    """The lake of an installation."""
    return Lake(settings.lake)


def conform(table: Table, rows: pa.Table) -> pa.Table:
    """The rows with the table's columns, order and types.

    Raises:
        SluiceError: a column is missing or cannot take the declared type.
    """
    missing = [name for name in table.schema.names if name not in rows.column_names]
    if missing:
        raise SluiceError(f"table {table.name}: column {missing[0]} is missing")
    try:
        return rows.select(table.schema.names).cast(table.schema)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise SluiceError(f"table {table.name}: {error}") from None


def content_digest(rows: pa.Table) -> str:
    """Digest of the rows whatever their order: two tables with the same rows have the same digest."""
    frame = rows.select(sorted(rows.column_names)).to_pandas(date_as_object=False)
    hashes = pd.util.hash_pandas_object(frame, index=False).to_numpy(dtype=np.uint64)
    total = int(hashes.sum(dtype=np.uint64)) ^ (len(frame) << 1)
    squares = int((hashes * hashes).sum(dtype=np.uint64))
    return f"{total & (2**64 - 1):016x}{squares:016x}"
