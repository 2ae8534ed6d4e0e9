"""What each day's features were built from: so a day that comes late is noticed by the days after it.

State: settings.work/features/DAY/inputs.json (digests of the input days and the table versions of the build),
and owed-* beside it while a day that was built again still waits to be checked and served.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from uuid import uuid4

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import ValidationError

from jobs.conf.settings import Settings
from jobs.core import StrictModel
from jobs.features.declarations import FEATURE_VERSION, longest_window
from jobs.features.tables import FEATURE_TABLES
from jobs.lake.store import Lake, content_digest, lake_of
from jobs.lake.tables import LABELS, TRANSACTIONS, Table

INPUTS = (TRANSACTIONS, LABELS)


class Inputs(StrictModel):
    """Everything that a day's features follow from; days without rows are left out."""

    feature_version: str
    delay_days: int
    digests: dict[str, dict[date, str]]  # table -> day -> digest of its contents


class Record(StrictModel):
    """What a day was built from, and the versions that were read and written."""

    inputs: Inputs
    versions: dict[str, int]


@dataclass(frozen=True)
class Snapshot:
    """Both input tables, each at one version: what is recorded is what Spark reads."""

    versions: dict[str, int]
    digests: dict[str, dict[date, str]]
    delay_days: int

    def inputs(self, day: date) -> Inputs:
        """What the features of a day are built from."""
        first = first_input(day, self.delay_days)
        digests = {
            name: {found: digest for found, digest in by_day.items() if first <= found <= day}
            for name, by_day in self.digests.items()
        }
        return Inputs(feature_version=FEATURE_VERSION, delay_days=self.delay_days, digests=digests)


def reach(delay_days: int) -> int:
    """Days of input that a day's features look at, itself included."""
    return max(longest_window("customer", 0), longest_window("terminal", delay_days))


def first_input(day: date, delay_days: int) -> date:
    """The earliest day whose rows can count in the features of a day."""
    return day - timedelta(days=reach(delay_days) - 1)


def snapshot(lake: Lake, first: date, last: date, delay_days: int) -> Snapshot:
    """The input tables as they are now, with the digests of the days first to last."""
    versions = {table.name: lake.version(table) for table in INPUTS}
    digests = {
        table.name: _digests(lake, table, versions[table.name], first, last)
        for table in INPUTS
        if versions[table.name] >= 0
    }
    return Snapshot(versions, digests, delay_days)


def _digests(lake: Lake, table: Table, version: int, first: date, last: date) -> dict[date, str]:
    rows = lake.read(table, first=first, last=last, version=version)
    days = rows[table.partition]
    return {
        day: content_digest(rows.filter(pc.equal(days, pa.scalar(day, pa.date32()))))
        for day in sorted(pc.unique(days).to_pylist())
    }


def later_days(lake: Lake, day: date, delay_days: int) -> list[date]:
    """Days after this one that have features and look back at it, ascending."""
    last = day + timedelta(days=reach(delay_days) - 1)
    stored = {found for table in FEATURE_TABLES.values() for found in lake.partitions(table)}
    return sorted(found for found in map(date.fromisoformat, stored) if day < found <= last)


def read_record(settings: Settings, day: date) -> Record | None:
    """What a day was built from; None where that is not known, so that it counts as changed."""
    try:
        return Record.model_validate_json(_file(settings, day).read_text())
    except (FileNotFoundError, ValidationError):
        return None


def keep_record(settings: Settings, day: date, record: Record) -> None:
    """Record what a day was built from, once its features are in the tables."""
    path = _file(settings, day)
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_suffix(f".{os.getpid()}")
    scratch.write_text(record.model_dump_json(indent=1))
    scratch.replace(path)


def drop_record(settings: Settings, day: date) -> None:
    """Forget what a day was built from before it is built: a build that is cut off leaves it unknown."""
    _file(settings, day).unlink(missing_ok=True)


def owe(settings: Settings, day: date) -> None:
    """Note that a day is being built on another day's behalf: a run that fails afterwards still owes it."""
    folder = _file(settings, day).parent
    folder.mkdir(parents=True, exist_ok=True)
    # a name of its own, so that whoever settles an older debt does not settle this one too
    (folder / f"owed-{uuid4().hex}").touch()


def owed(settings: Settings, day: date) -> list[Path]:
    """The notes of a day that was built again and has not been served since."""
    return sorted(_file(settings, day).parent.glob("owed-*"))


def settle(notes: list[Path]) -> None:
    """The day of these notes has been served."""
    for note in notes:
        note.unlink(missing_ok=True)


@contextmanager
def one_build(settings: Settings) -> Iterator[None]:
    """Hold the one builder's place: whoever builds later sees everything that was built before."""
    with lake_of(settings).exclusively("build_features"):
        yield


def _file(settings: Settings, day: date) -> Path:
    return settings.work / "features" / str(day) / "inputs.json"
