"""Schema evolution: what a changed declaration may do to a table that is there already.

In: an opened table and its declaration. Out: nothing, or one commit that adds nullable columns, empty in the
rows that are there. Called under the table's writer's lock, before anything is written.
Errors: SluiceError with the column named, for everything but a new optional column.
"""

from __future__ import annotations

from deltalake import DeltaTable, Field, Schema

from jobs.core import SluiceError
from jobs.lake.tables import Table


def evolve(delta: DeltaTable, table: Table) -> None:
    """Take in the declaration's new optional columns.

    Raises:
        SluiceError: as new_columns.
    """
    added = new_columns(delta, table)
    if added:
        delta.alter.add_columns(added)


def new_columns(delta: DeltaTable, table: Table) -> list[Field]:
    """The declared optional columns that the table lacks.

    Raises:
        SluiceError: a column has another type, is new and not optional, or is no longer declared, which only
            a derived table takes.
    """
    stored = {field.name: field for field in delta.schema().fields}
    declared = {field.name: field for field in Schema.from_arrow(table.schema).fields}
    for name, field in stored.items():
        if name not in declared:
            if table.derived:
                continue
            raise SluiceError(
                f"table {table.name}: column {name} is no longer declared, but the table has it; name it in "
                "the contract again as optional, its values may be absent"
            )
        if field.type != declared[name].type:
            raise SluiceError(
                f"table {table.name}: column {name} is {_kind(field)} and cannot become "
                f"{_kind(declared[name])}; give the changed column another name in the contract"
            )
    added = [field for name, field in declared.items() if name not in stored]
    for field in added:
        if field.name not in table.optional:
            raise SluiceError(
                f"table {table.name}: column {field.name} is new and not optional; the table was written by "
                "another version of Sluice: build it again from raw/ in a fresh SLUICE_HOME"
            )
    return added


def _kind(field: Field) -> str:
    """A type as Delta names it."""
    return str(getattr(field.type, "type", field.type))
