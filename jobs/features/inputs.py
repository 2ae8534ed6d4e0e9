"""What each day's features were built from: what comes late is noticed by the days that it changes.

State: settings.work/features/DAY/inputs.json (digests of the input days and the table versions of the build),
`building` beside it while the day is being built again, and owed-* while a day that was built again still
waits to be checked and served.
"""

from __future__ import annotations

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
from jobs.features.declarations import ENTITIES, FEATURE_VERSION, longest_window, velocity_memory
from jobs.features.tables import BUILT_TABLES
from jobs.files import write_whole
from jobs.lake.at import LakeAt, versions_of
from jobs.lake.store import Lake, content_digest, lake_of
from jobs.lake.tables import LABELS, TRANSACTIONS

INPUTS = (TRANSACTIONS, LABELS)
# what features follow from: the file that brought a row is not part of it
TRANSACTION_COLUMNS = [name for name in TRANSACTIONS.schema.names if name != "file_day"]
LABEL_COLUMNS = LABELS.schema.names


class Inputs(StrictModel):
    """Everything that a day's features follow from; days without rows that are available are left out."""

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
    # table -> day -> first day whose features see the rows -> digest of these rows
    digests: dict[str, dict[date, dict[date, str]]]
    delivered: frozenset[date]  # days whose own file is in the table transactions
    rows: int  # transactions of all these days
    delay_days: int

    def inputs(self, day: date) -> Inputs:
        """What the features of a day are built from: rows that are available at its end, and all of its own.

        A late row of the day counts in no window of it and is an event with features all the same.
        """
        first = first_input(day, self.delay_days)
        digests: dict[str, dict[date, str]] = {}
        for name, by_day in self.digests.items():
            parts = {
                found: [digest for seen, digest in sorted(by_seen.items()) if seen <= day or found == day]
                for found, by_seen in by_day.items()
                if first <= found <= day
            }
            digests[name] = {found: "+".join(part) for found, part in parts.items() if part}
        return Inputs(feature_version=FEATURE_VERSION, delay_days=self.delay_days, digests=digests)


def reach(delay_days: int) -> int:
    """Days of input that a day's features look at, itself included."""
    # a velocity window reaches into the day in which it begins
    velocity = max(velocity_memory(entity) for entity in ENTITIES).days + 1
    return max(longest_window("customer", 0), longest_window("terminal", delay_days), velocity)


def first_input(day: date, delay_days: int) -> date:
    """The earliest day whose rows can count in the features of a day."""
    return day - timedelta(days=reach(delay_days) - 1)


def snapshot(lake: Lake, first: date, last: date, delay_days: int) -> Snapshot:
    """The input tables as they are now, with the digests of the days first to last."""
    versions = versions_of(lake, INPUTS)
    rows = {
        table.name: LakeAt(lake, versions).read(table, first=first, last=last, columns=columns)
        for table, columns in ((TRANSACTIONS, [*TRANSACTION_COLUMNS, "file_day"]), (LABELS, LABEL_COLUMNS))
    }
    transactions = rows[TRANSACTIONS.name]
    own = pc.equal(transactions["day"], transactions["file_day"])
    delivered = frozenset(pc.unique(transactions.filter(own)["day"]).to_pylist())
    rows[TRANSACTIONS.name] = transactions.select(TRANSACTION_COLUMNS)
    digests = {name: _digests(found, inclusive=name == TRANSACTIONS.name) for name, found in rows.items()}
    return Snapshot(versions, digests, delivered, transactions.num_rows, delay_days)


def _digests(rows: pa.Table, *, inclusive: bool) -> dict[date, dict[date, str]]:
    """Digests by day, and by the first day whose end comes after (inclusive: not before) available_at."""
    available = rows["available_at"]
    if inclusive:
        available = pc.subtract(available, pa.scalar(timedelta(microseconds=1), pa.duration("us")))
    seen = pc.max_element_wise(rows["day"], available.cast(pa.date32(), safe=False))
    order = [("day", "ascending"), ("seen", "ascending")]
    ordered = rows.append_column("seen", seen).sort_by(order)
    groups = ordered.group_by(["day", "seen"]).aggregate([([], "count_all")]).sort_by(order)
    # of a transaction's moment only the day matters, of a label's also what came first
    surplus = ["seen", "available_at"] if inclusive else ["seen"]
    digests: dict[date, dict[date, str]] = {}
    start = 0
    for group in groups.to_pylist():
        part = ordered.slice(start, group["count_all"]).drop_columns(surplus)
        digests.setdefault(group["day"], {})[group["seen"]] = content_digest(part)
        start += group["count_all"]
    return digests


def neighbours(lake: Lake, first: date, last: date, delay_days: int, late_days: int) -> list[date]:
    """Days outside [first, last] that have features which rows of its files can change, ascending.

    Later ones look back at it; earlier ones take up rows that came late and were available in time.
    """
    earliest = first - timedelta(days=late_days)
    latest = last + timedelta(days=reach(delay_days) - 1)
    stored = {found for table in BUILT_TABLES for found in lake.partitions(table)}
    days = sorted(map(date.fromisoformat, stored))
    return [day for day in days if earliest <= day <= latest and not first <= day <= last]


def read_record(settings: Settings, day: date) -> Record | None:
    """What a day was built from; None where that is not known, so that it counts as changed."""
    return None if is_being_built(settings, day) else last_record(settings, day)


def last_record(settings: Settings, day: date) -> Record | None:
    """What the last whole build of a day read and wrote, also while another one is under way."""
    try:
        return Record.model_validate_json(_file(settings, day).read_text())
    except (FileNotFoundError, ValidationError):
        return None


def is_being_built(settings: Settings, day: date) -> bool:
    """Whether a build of the day has begun and is not whole, or was cut off."""
    return _mark(settings, day).exists()


def begin_record(settings: Settings, day: date) -> None:
    """Mark a day that is built from now on: after a build that is cut off it counts as changed."""
    mark = _mark(settings, day)
    mark.parent.mkdir(parents=True, exist_ok=True)
    mark.touch()


def keep_record(settings: Settings, day: date, record: Record) -> None:
    """Record what a day was built from, once its features are in the tables."""
    write_whole(_file(settings, day), record.model_dump_json(indent=1))
    _mark(settings, day).unlink(missing_ok=True)


def drop_record(settings: Settings, day: date) -> None:
    """Forget what a day was built from: its features are others now."""
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


def _mark(settings: Settings, day: date) -> Path:
    return _file(settings, day).with_name("building")
