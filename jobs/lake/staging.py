"""The lake as a backfill sees it: production, with the days that it rewrites hidden behind its own.

In: the production lake and a backfill's name. Out: a lake that reads production except for the partitions
that the backfill has taken over, and writes only below `<lake>/_staging/<name>`. A table is taken over with a
range of partitions (`take_over`): inside of it a staged partition hides production's, also when it is empty;
outside of it nothing can be written. The range stands in the staged table's own description, so that it
appears in one commit with the table.
Errors: SluiceError for a write to a table or partition that the backfill has not taken over.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import date

import pyarrow as pa
import pyarrow.compute as pc

from jobs.core import SluiceError
from jobs.lake.ranges import create, replace_range
from jobs.lake.storage import TableMissing, remove_all
from jobs.lake.store import Lake, Layer, Once
from jobs.lake.tables import Table

FOLDER = "_staging"
Bound = date | str | None


class StagedLake(Lake):
    """Production with one backfill's partitions laid over it.

    Only what reads rows sees both; paths, locks, writes and whether a table exists are staging's.
    """

    def __init__(self, production: Lake, name: str) -> None:
        super().__init__(f"{production.address}/{FOLDER}/{name}")
        self.staging = Lake(self.address)  # what is staged, and nothing else
        self.production = production
        self.name = name

    def taken_over(self, table: Table) -> tuple[str, str] | None:
        """The first and the last partition that are staged, None where the table is production's."""
        try:
            description = self.delta(table).metadata().description
        except TableMissing:
            return None
        scope = json.loads(description or "{}")
        return (scope["first"], scope["last"]) if scope else None

    def take_over(self, table: Table, first: str, last: str, rows: pa.Table) -> None:
        """Hide production's partitions first to last behind these rows, which may be none."""
        create(self.staging, table, description=json.dumps({"first": first, "last": last}))
        replace_range(self.staging, table, rows, first, last)

    def drop(self) -> None:
        """Remove everything that is staged."""
        remove_all(self.address)

    def version(self, table: Table) -> int:
        """The staged table's version where it is staged, otherwise production's."""
        return (self.staging if self.staging.exists(table) else self.production).version(table)

    def read(
        self,
        table: Table,
        *,
        first: date | str | None = None,
        last: date | str | None = None,
        columns: list[str] | None = None,
        version: int | None = None,
    ) -> pa.Table:
        """Staged rows and production's of all other partitions; a version is the staged table's, if any."""
        scope = self.taken_over(table)
        if scope is None:
            return self.production.read(table, first=first, last=last, columns=columns, version=version)
        wanted = columns or table.schema.names
        needed = list(dict.fromkeys([*wanted, table.partition]))
        parts = [self.staging.read(table, first=first, last=last, columns=columns, version=version)]
        for low, high in _beside(first, last, scope):
            rows = self.production.read(table, first=low, last=high, columns=needed)
            parts.append(rows.filter(_outside(table, rows, scope)).select(wanted))
        return pa.concat_tables(parts)

    def scan(
        self, table: Table, *, first: Bound, last: Bound, columns: list[str]
    ) -> Iterator[pa.RecordBatch]:
        scope = self.taken_over(table)
        if scope is None:
            yield from self.production.scan(table, first=first, last=last, columns=columns)
            return
        yield from self.staging.scan(table, first=first, last=last, columns=columns)
        needed = list(dict.fromkeys([*columns, table.partition]))
        for low, high in _beside(first, last, scope):
            for batch in self.production.scan(table, first=low, last=high, columns=needed):
                yield batch.filter(_outside(table, batch, scope)).select(columns)

    def partitions(self, table: Table) -> list[str]:
        scope = self.taken_over(table)
        before = self.production.partitions(table)
        if scope is None:
            return before
        kept = [name for name in before if not scope[0] <= name <= scope[1]]
        return sorted({*kept, *self.staging.partitions(table)})

    def layers(self, table: Table, version: int) -> list[Layer]:
        scope = self.taken_over(table)
        if scope is None:
            return self.production.layers(table, version)
        staged = Layer(self.path(table), version)
        if not self.production.exists(table):
            return [staged]
        below = Layer(self.production.path(table), self.production.version(table), scope)
        return [staged, below]

    def check(self, table: Table) -> None:
        """Refuse also what production could not take when it comes to the swap."""
        self.production.check(table)
        super().check(table)

    def replace(self, table: Table, rows: pa.Table, partition: date | str) -> int:
        self._require(table, str(partition))
        return self.staging.replace(table, rows, partition)

    def replace_where(
        self, table: Table, rows: pa.Table | pa.RecordBatchReader, predicate: str, partition: str
    ) -> int:
        self._require(table, partition)
        return self.staging.replace_where(table, rows, predicate, partition)

    def append(self, table: Table, rows: pa.Table, once: Once | None = None) -> bool:
        raise SluiceError(f"table {table.name}: a backfill replaces days, it does not append")

    def _require(self, table: Table, partition: str) -> None:
        scope = self.taken_over(table)
        if scope is None or not all(scope[0] <= each <= scope[1] for each in partition.split(",")):
            raise SluiceError(
                f"table {table.name}: {table.partition}={partition} is not part of the backfill {self.name}, "
                "which writes only what it was planned for"
            )


def _outside(table: Table, rows: pa.Table | pa.RecordBatch, scope: tuple[str, str]) -> pa.Array:
    """Which rows lie in no staged partition."""
    low, high = (pa.scalar(edge).cast(rows.schema.field(table.partition).type) for edge in scope)
    values = rows[table.partition]
    return pc.or_(pc.less(values, low), pc.greater(values, high))


def _beside(first: Bound, last: Bound, scope: tuple[str, str]) -> list[tuple[Bound, Bound]]:
    """The parts of [first, last] that reach beyond the staged range, each up to its edge."""
    before = [(first, _before(last, scope[0]))] if first is None or str(first) < scope[0] else []
    after = [(_after(first, scope[1]), last)] if last is None or str(last) > scope[1] else []
    return [*before, *after]


def _before(bound: Bound, edge: str) -> str:
    """The smaller of the two, as the upper bound of what lies before the staged range."""
    return edge if bound is None else min(str(bound), edge)


def _after(bound: Bound, edge: str) -> str:
    return edge if bound is None else max(str(bound), edge)
