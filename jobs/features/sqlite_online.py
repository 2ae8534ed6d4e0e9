"""Feast's online store in a SQLite file, where the newest row of an entity wins.

A table per view holds one packed row per entity (jobs/features/packed.py). Days may be materialised in any
order and again, with the same result as in their own order. Rows are written in short transactions beside a
write-ahead log: the scoring service, which reads the same file, neither waits nor sees half a row.
Errors: SluiceError for a view whose key is not one int64 or whose features are no doubles, and for a file
that cannot be written.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
from feast import Entity
from feast.feature_view import FeatureView
from feast.repo_config import FeastConfigBaseModel, RepoConfig

from jobs.core import SluiceError
from jobs.features.packed import EPOCH, MARK, Layout, layout_of, table_of
from jobs.features.packed_store import PackedOnlineStore

BUSY_SECONDS = 30
REQUEST_SECONDS = 0.5  # a reader waits only where the file is locked as a whole; a request cannot
CHUNK = 4000  # rows of one transaction: some ten milliseconds
SAME = f"substr(excluded.row, 1, {MARK}) = substr(row, 1, {MARK})"


class NewestSqliteOnlineStoreConfig(FeastConfigBaseModel):  # type: ignore[misc]
    """Configuration of the store: `path` of the database."""

    type: Literal["jobs.features.sqlite_online.NewestSqliteOnlineStore"] = (
        "jobs.features.sqlite_online.NewestSqliteOnlineStore"
    )
    path: str = "data/online.db"


class NewestSqliteOnlineStore(PackedOnlineStore):
    """SQLite, where the newest row of an entity wins."""

    def __init__(self) -> None:
        self._open: dict[tuple[int, str], sqlite3.Connection] = {}

    def write_arrow(self, config: RepoConfig, view: FeatureView, batch: pa.RecordBatch) -> int:
        """Store the rows of a batch where no newer ones are; gives how many were stored."""
        layout = layout_of(config, view)
        packed = layout.pack(batch)
        size = layout.dtype.itemsize
        # a row of other declarations is no row: whatever its age, it gives way
        statement = (
            f"INSERT INTO {_table(layout)} (entity, as_of, row) VALUES (?, ?, ?) "  # noqa: S608
            "ON CONFLICT (entity) DO UPDATE SET as_of = excluded.as_of, row = excluded.row "
            f"WHERE excluded.as_of >= as_of OR NOT {SAME}"
        )
        written = 0
        for start in range(0, len(packed.keys), CHUNK):
            part = slice(start, start + CHUNK)
            rows = packed.rows[part].view(f"V{size}").tolist()
            written += self._write(
                config, layout, statement, zip(packed.keys[part], packed.as_of[part], rows, strict=True)
            )
        return written

    def read_rows(self, config: RepoConfig, wanted: Sequence[tuple[Layout, int]]) -> list[bytes | None]:
        """The stored rows of some entities, of whatever views; None where there is none."""
        connection, found = self._connection(config, "read"), []
        for layout, key in wanted:
            try:
                row = connection.execute(
                    f"SELECT row FROM {_table(layout)} WHERE entity = ?",  # noqa: S608
                    (key,),
                ).fetchone()
            except sqlite3.OperationalError as error:
                if not _is_absent(error):
                    raise
                row = None
            found.append(None if row is None else row[0])
        return found

    def newest(self, config: RepoConfig, layout: Layout) -> datetime | None:
        """The newest as_of among the rows of these declarations."""
        statement = f"SELECT max(as_of) FROM {_table(layout)} WHERE substr(row, 1, {MARK}) = ?"  # noqa: S608
        try:
            found = self._connection(config, "read").execute(statement, (layout.mark,)).fetchone()[0]
        except sqlite3.OperationalError as error:
            if not _is_absent(error):
                raise
            return None
        return None if found is None else EPOCH + timedelta(microseconds=found)

    def update(
        self,
        config: RepoConfig,
        tables_to_delete: Sequence[FeatureView],
        tables_to_keep: Sequence[FeatureView],
        entities_to_delete: Sequence[Entity],
        entities_to_keep: Sequence[Entity],
        partial: bool,
    ) -> None:
        """Make the tables of the views, and remove those of views that are gone."""
        layouts = [layout_of(config, view) for view in tables_to_keep]
        gone = [table_of(config, view) for view in tables_to_delete]
        connection = self._connection(config, "write")
        with _explained(self._path(config)):
            for layout in layouts:
                _make(connection, layout)
            for name in gone:
                connection.execute(f'DROP TABLE IF EXISTS "{name}_rows"')
                # what a release before this one kept there
                connection.execute(f'DROP TABLE IF EXISTS "{name}"')

    def teardown(self, config: RepoConfig, tables: Sequence[FeatureView], entities: Sequence[Entity]) -> None:
        """Remove the file."""
        for connection in self._open.values():
            connection.close()
        self._open.clear()
        path = self._path(config)
        for suffix in ("", "-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)

    def _write(self, config: RepoConfig, layout: Layout, statement: str, rows: Any) -> int:
        """One short transaction."""
        connection = self._connection(config, "write")
        with _explained(self._path(config)):
            connection.execute("BEGIN IMMEDIATE")
            try:
                _make(connection, layout)
                written = connection.executemany(statement, rows).rowcount
                connection.execute("COMMIT")
            except BaseException:
                connection.execute("ROLLBACK")
                raise
        return written

    def _connection(self, config: RepoConfig, use: Literal["read", "write"]) -> sqlite3.Connection:
        """One to read and one to write, so that nobody reads what is not committed; none crosses a fork."""
        place = (os.getpid(), use)
        if place not in self._open:
            path = self._path(config)
            path.parent.mkdir(parents=True, exist_ok=True)
            with _explained(path):
                waits = REQUEST_SECONDS if use == "read" else BUSY_SECONDS
                connection = sqlite3.connect(
                    path, timeout=waits, isolation_level=None, check_same_thread=False
                )
                connection.text_factory = bytes  # a row that was damaged into a text is read like any other
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute("PRAGMA synchronous = NORMAL")
            self._open[place] = connection
        return self._open[place]

    def _path(self, config: RepoConfig) -> Path:
        path = Path(config.online_store.path)
        return path if path.is_absolute() or not config.repo_path else config.repo_path / path


def _table(layout: Layout) -> str:
    """Not the view's own name: a release before this one kept a row per feature in a table of that name."""
    return f'"{layout.table}_rows"'


def _make(connection: sqlite3.Connection, layout: Layout) -> None:
    connection.execute(
        f"CREATE TABLE IF NOT EXISTS {_table(layout)} "
        "(entity INTEGER PRIMARY KEY, as_of INTEGER NOT NULL, row BLOB NOT NULL)"
    )


def _is_absent(error: sqlite3.OperationalError) -> bool:
    """Whether nobody has written to the table yet."""
    return str(error).startswith("no such table")


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise SluiceError(
            f"online store {path}: {error}; look whether the disk is full or another process holds the file, "
            "then run the job again"
        ) from None
