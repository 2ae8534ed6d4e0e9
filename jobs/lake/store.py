"""Reading tables, and replacing one partition at a time.

A write is one Delta commit: a reader or a killed process sees the old partition or the new one, never a
mixture. One writer at a time per table: in a folder by a file lock that the kernel drops when its holder
dies, on S3 by a lease that runs out (jobs/lake/lease.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from deltalake import CommitProperties, DeltaTable, Transaction, write_deltalake

from jobs.conf.settings import Settings
from jobs.core import SluiceError
from jobs.lake.batches import batches
from jobs.lake.evolve import evolve, new_columns
from jobs.lake.storage import LeaseLost, TableMissing, explained, open_table, spark_address, storage_options
from jobs.lake.tables import Table
from jobs.locks import file_lock
from jobs.s3_address import is_s3

if TYPE_CHECKING:
    from pyarrow.dataset import Expression, FileSystemDataset, Scanner

# left alone, a table forgets versions after 30 days, also pinned ones: vacuum_tables cuts the log instead
LOG_KEPT = {"delta.enableExpiredLogCleanup": "false"}
# commits between two summaries of the log; a job opens its tables some twenty times and reads what came since
CHECKPOINTED = {"delta.checkpointInterval": "20"}


class Layer(NamedTuple):
    """One place where rows of a table lie."""

    path: str
    version: int
    without: tuple[str, str] | None = None  # partitions that do not count: the first and the last


class Once(NamedTuple):
    """The name of an append that must not happen twice; a writer's numbers grow from 1."""

    writer: str
    number: int


class Lake:
    """The tables under one address: a folder or s3://bucket/prefix."""

    def __init__(self, address: str | Path) -> None:
        self.address = str(address)

    def path(self, table: Table) -> str:
        return f"{self.address}/{table.name}"

    def spark_path(self, table: Table) -> str:
        """The table's path as Spark spells it."""
        return spark_address(self.path(table))

    def exists(self, table: Table) -> bool:
        with self.explained(table):
            return bool(DeltaTable.is_deltatable(self.path(table), storage_options(self.address)))

    def delta(self, table: Table, version: int | None = None) -> DeltaTable:
        """The table as delta-rs has it; use it inside `explained`.

        Raises:
            TableMissing: it does not exist.
        """
        return open_table(f"table {table.name}", self.path(table), version)

    @contextmanager
    def explained(self, table: Table) -> Iterator[None]:
        """Turn errors of delta-rs into one sentence that names the table."""
        with explained(f"table {table.name}", self.path(table)):
            yield

    def layers(self, table: Table, version: int) -> list[Layer]:
        """Where Spark finds the rows of a version: the union of these, each without what it leaves out."""
        return [Layer(self.path(table), version)]

    def version(self, table: Table) -> int:
        """The current version, -1 where the table does not exist."""
        try:
            return int(self.delta(table).version())
        except TableMissing:
            return -1

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
            delta = self.delta(table, version)
        except TableMissing:
            if version is not None:
                raise SluiceError(
                    f"table {table.name}: version {version} is not readable any more: nothing pinned it and "
                    "vacuum_tables has cleaned it away"
                ) from None
            return table.schema.empty_table().select(wanted)
        with self.explained(table):
            rows = scanner(delta, table, first, last, wanted).to_table()
        target = pa.schema([table.schema.field(name) for name in wanted if name in table.schema.names])
        return rows.cast(target) if len(target) == len(wanted) else rows

    def scan(
        self, table: Table, *, first: date | str | None, last: date | str | None, columns: list[str]
    ) -> Iterator[pa.RecordBatch]:
        """Some columns of the rows whose partition lies in [first, last], a batch at a time."""
        try:
            delta = self.delta(table)
        except TableMissing:
            return
        target = pa.schema([table.schema.field(name) for name in columns])
        with self.explained(table):
            for batch in batches(*chosen(delta, table, first, last), columns):
                yield batch.cast(target)

    def partitions(self, table: Table) -> list[str]:
        """The partitions that have rows, sorted."""
        try:
            delta = self.delta(table)
        except TableMissing:
            return []
        with self.explained(table):
            values = delta.partitions()
        return sorted({str(value[table.partition]) for value in values})

    def check(self, table: Table) -> None:
        """Refuse a declaration that the table, where it exists, cannot take.

        Raises:
            SluiceError: as new_columns.
        """
        try:
            new_columns(self.delta(table), table)
        except TableMissing:
            return

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
        return self.replace_where(table, rows, f"{table.partition} = '{value}'", value)

    def replace_where(
        self, table: Table, rows: pa.Table | pa.RecordBatchReader, predicate: str, partition: str
    ) -> int:
        """Replace the rows that a predicate describes with `rows`, which it must describe too, in one commit.

        The predicate comes from code and checked dates alone. Gives the new table version.
        """
        with self.writing(table), self.explained(table):
            delta = self.made(table)
            evolve(delta, table)
            write_deltalake(
                delta,
                rows,
                mode="overwrite",
                predicate=predicate,
                schema_mode="merge" if table.derived else None,
                commit_properties=CommitProperties(custom_metadata={"partition": partition}),
            )
            return int(delta.version())

    def append(self, table: Table, rows: pa.Table, once: Once | None = None) -> bool:
        """Append rows in one commit: for logs, which have no re-run. False where the table has them already.

        `once` names the rows: the table remembers the last number of each writer, and takes no number twice.
        Nothing fails after the commit: an error there would make the caller write the rows again.
        """
        rows, written = conform(table, rows), False
        names = [Transaction(once.writer, once.number)] if once else None
        try:
            with self.writing(table), self.explained(table):
                delta = self.made(table)
                if once and (delta.transaction_version(once.writer) or 0) >= once.number:
                    return False
                write_deltalake(
                    delta, rows, mode="append", commit_properties=CommitProperties(app_transactions=names)
                )
                written = True
        except LeaseLost:
            if not written:
                raise
        return True

    @contextmanager
    def writing(self, table: Table) -> Iterator[None]:
        """Hold the table's one writer's place."""
        with self.exclusively(table.name):
            yield

    @contextmanager
    def exclusively(self, name: str) -> Iterator[None]:
        """Hold a place that only one process may hold, among all that use this lake.

        Raises:
            SluiceError: on S3, where it was not free in time, or was lost before the block had ended.
        """
        if is_s3(self.address):
            from jobs.lake.lease import leased  # boto3 is not loaded for a folder

            holding = leased(self.address, name)
        else:
            holding = file_lock(Path(self.address) / f".{name}.lock")
        with holding:
            yield

    def create(self, table: Table, description: str = "") -> DeltaTable:
        """Make a table that does not exist; use it inside `explained`."""
        return DeltaTable.create(
            self.path(table),
            schema=table.schema,
            partition_by=[table.partition],
            description=description or None,
            configuration=LOG_KEPT | CHECKPOINTED,
            storage_options=storage_options(self.address),
        )

    def made(self, table: Table) -> DeltaTable:
        """The table, made where it does not exist; its writer's place is held, also after it was opened."""
        try:
            delta = self.delta(table)
        except TableMissing:
            delta = self.create(table)
        if is_s3(self.address):
            from jobs.lake.lease import require_held

            require_held()
        return delta


def scanner(
    delta: DeltaTable, table: Table, first: date | str | None, last: date | str | None, columns: list[str]
) -> Scanner:
    """Rows whose partition lies in [first, last]: only their files are looked at, however many there are."""
    dataset, within = chosen(delta, table, first, last)
    return dataset.scanner(columns=columns, filter=within)


def chosen(
    delta: DeltaTable, table: Table, first: date | str | None, last: date | str | None
) -> tuple[FileSystemDataset, Expression]:
    """The files that hold partitions in [first, last], and the expression of these."""
    kind, bounds = table.schema.field(table.partition).type, []
    within = pc.scalar(True)
    if first is not None:
        bounds.append((table.partition, ">=", str(first)))
        within &= pc.field(table.partition) >= pa.scalar(str(first)).cast(kind)
    if last is not None:
        bounds.append((table.partition, "<=", str(last)))
        within &= pc.field(table.partition) <= pa.scalar(str(last)).cast(kind)
    return delta.to_pyarrow_dataset(file_pruning_predicate=bounds or None), within


def lake_of(settings: Settings) -> Lake:
    """The lake of an installation, or what a backfill makes of it (see jobs/lake/staging.py)."""
    lake = Lake(settings.lake)
    if not settings.staging:
        return lake
    from jobs.lake.staging import StagedLake

    return StagedLake(lake, settings.staging)


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


# whole numbers stay whole beside a null, so that a row's hash does not depend on the rows around it
WHOLE = {
    pa.int8(): pd.Int8Dtype(), pa.int32(): pd.Int32Dtype(), pa.int64(): pd.Int64Dtype(),
    pa.bool_(): pd.BooleanDtype(),
}  # fmt: skip


class ContentDigest:
    """Digest of rows whatever their order, and in however many pieces they come."""

    def __init__(self) -> None:
        self.rows = 0
        self._total = 0
        self._squares = 0

    def add(self, rows: pa.Table | pa.RecordBatch) -> None:
        chosen = rows.select(sorted(rows.schema.names))
        frame = chosen.to_pandas(date_as_object=False, types_mapper=WHOLE.get)
        for field in chosen.schema:
            if pa.types.is_list(field.type):  # pandas hashes no lists; a gap among numbers is NaN
                frame[field.name] = [
                    None if each is None else each.tobytes().hex() for each in frame[field.name]
                ]
        # not by categories: pandas takes a text and the same with a zero byte behind it for one
        hashes = pd.util.hash_pandas_object(frame, index=False, categorize=False).to_numpy(dtype=np.uint64)
        self.rows += len(frame)
        self._total += int(hashes.sum(dtype=np.uint64))
        self._squares += int((hashes * hashes).sum(dtype=np.uint64))

    def hexdigest(self) -> str:
        low = 2**64 - 1
        return f"{((self._total & low) ^ (self.rows << 1)) & low:016x}{self._squares & low:016x}"


def content_digest(rows: pa.Table) -> str:
    """Digest of the rows whatever their order: two tables with the same rows have the same digest."""
    digest = ContentDigest()
    digest.add(rows)
    return digest.hexdigest()
