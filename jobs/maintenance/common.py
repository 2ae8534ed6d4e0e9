"""What the maintenance jobs share: their parameters, every table of the lake, and counts of what went.

Ages are measured from the end of the data interval, against the day in a name and the time of the last
change of a file: what is written while a job runs, whatever day it is about, is never old.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pyarrow.fs as pa_fs
from deltalake.fs import DeltaStorageHandler
from pydantic import Field

from jobs.core import DayParams, StrictModel, midnight
from jobs.features.tables import BUILT_TABLES
from jobs.lake import tables as lake_tables
from jobs.lake.storage import storage_options
from jobs.lake.store import Lake
from jobs.lake.tables import Table

DAY_LENGTH = len("2026-01-31")
TRAINING_PIN = "run."  # pins of a training run: this, and the run's name


class MaintenanceParams(DayParams):
    """The day that maintenance is for: ages are counted back from its end."""

    dry_run: bool = Field(True, description="only say what would go; false removes it")


class Removed(StrictModel):
    """What went, or would go."""

    files: int = 0
    bytes: int = 0
    rows: int = 0

    def __add__(self, other: Removed) -> Removed:
        return Removed(
            files=self.files + other.files, bytes=self.bytes + other.bytes, rows=self.rows + other.rows
        )


def total(parts: Iterable[Removed]) -> Removed:
    """All of them together."""
    return sum(parts, Removed())


def every_table(lake: Lake) -> list[Table]:
    """The declared tables that are there."""
    declared = [value for value in vars(lake_tables).values() if isinstance(value, Table)]
    return [table for table in [*declared, *BUILT_TABLES] if lake.exists(table)]


def table_files(lake: Lake, table: Table) -> pa_fs.PyFileSystem:
    """The files of a table, whatever store it lies on; paths start at the table."""
    return pa_fs.PyFileSystem(DeltaStorageHandler(lake.path(table), storage_options(lake.address)))


def oldest_kept(day: date, days: int) -> date:
    """The first day that is kept."""
    return day + timedelta(days=1 - days)


def is_old(path: Path, before: date) -> bool:
    """Whether a file, or all of a folder, was last changed before a day began."""
    newest = max(entry.lstat().st_mtime for entry in (path, *path.rglob("*")))
    return datetime.fromtimestamp(newest, UTC) < midnight(before)


def day_of(path: Path) -> date | None:
    """The day that the name of a file or folder begins with."""
    try:
        return date.fromisoformat(path.name[:DAY_LENGTH])
    except ValueError:
        return None


def remove(path: Path, *, dry_run: bool) -> Removed:
    """Remove a file or a folder with all that is in it."""
    files = [path] if path.is_file() else [entry for entry in path.rglob("*") if entry.is_file()]
    removed = Removed(files=len(files), bytes=sum(file.stat().st_size for file in files))
    if not dry_run:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    return removed
