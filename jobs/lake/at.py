"""The lake as it was: each table at a version that was noted down.

In: a lake and the versions of tables. Out: a lake that reads these tables at these versions and no other, so
that whoever reads twice reads the same, whatever is written meanwhile.
Errors: SluiceError for a table whose version was not noted, and for any write.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import date

import pyarrow as pa
from deltalake import DeltaTable

from jobs.core import SluiceError, first_line
from jobs.lake.store import Lake, Layer
from jobs.lake.tables import Table


def versions_of(lake: Lake, tables: Iterable[Table]) -> dict[str, int]:
    """The tables' current versions by name, -1 where one does not exist."""
    return {table.name: lake.version(table) for table in tables}


class LakeAt(Lake):
    """A lake at fixed versions of its tables."""

    def __init__(self, lake: Lake, versions: Mapping[str, int]) -> None:
        super().__init__(lake.address)
        self._lake = lake
        self.versions = dict(versions)

    def path(self, table: Table) -> str:
        return self._lake.path(table)

    def delta(self, table: Table, version: int | None = None) -> DeltaTable:
        noted = self.version(table)
        if version not in (None, noted):
            raise SluiceError(f"table {table.name}: version {version} was asked for, {noted} is noted down")
        return self._lake.delta(table, noted)

    def layers(self, table: Table, version: int) -> list[Layer]:
        return self._lake.layers(table, version)

    def version(self, table: Table) -> int:
        if table.name not in self.versions:
            raise SluiceError(
                f"table {table.name}: its version was not noted down with {', '.join(sorted(self.versions))}"
            )
        return self.versions[table.name]

    def exists(self, table: Table) -> bool:
        return self.version(table) >= 0

    def read(
        self,
        table: Table,
        *,
        first: date | str | None = None,
        last: date | str | None = None,
        columns: list[str] | None = None,
        version: int | None = None,
    ) -> pa.Table:
        noted = self.version(table)
        if version not in (None, noted):
            raise SluiceError(f"table {table.name}: version {version} was asked for, {noted} is noted down")
        if noted < 0:
            return table.schema.empty_table().select(columns or table.schema.names)
        try:
            return self._lake.read(table, first=first, last=last, columns=columns, version=noted)
        except SluiceError as error:
            raise unreadable(table.name, noted, error) from None

    def partitions(self, table: Table) -> list[str]:
        rows = self.read(table, columns=[table.partition])
        return sorted({str(value) for value in rows[table.partition].unique().to_pylist()})

    @contextmanager
    def writing(self, table: Table) -> Iterator[None]:
        raise SluiceError(f"table {table.name}: a lake at earlier versions is read, never written")
        yield


def unreadable(table: str, version: int, error: Exception) -> SluiceError:
    """What to say where a version that was noted down is not there any more."""
    return SluiceError(
        f"table {table}: version {version} cannot be read any more ({first_line(error)}); "
        "was it cleaned away while nothing pinned it?"
    )
