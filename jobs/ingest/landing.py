"""The raw layer: objects as they came, never changed, and the ledger of what was landed.

In: a file that has arrived in the raw folder. Out: `raw/<feed>/<day>/<first 16 of its SHA-256>.<ext>` and a
row of `landed_files`.
A file that was already the newest changes nothing; another file becomes the next version (sequence) beside
the old one, and validation reads the newest.
Errors: SluiceError where nothing was landed, or the raw object is no longer what the ledger says.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, datetime
from pathlib import Path

import pyarrow as pa
from pydantic import Field

from jobs.conf.settings import Settings
from jobs.core import SluiceError, StrictModel
from jobs.lake.store import lake_of
from jobs.lake.tables import LANDED_FILES

NAME_DIGITS = 16
ARRIVING = ".arriving."


class Landed(StrictModel):
    """One landed version of one day of one feed."""

    day: date
    feed: str
    sequence: int = Field(ge=1)
    address: str
    path: str
    digest: str
    size_bytes: int
    rows: int
    arrived_at: datetime | None  # when the source's object was last modified; None: derived from no object

    @property
    def run_name(self) -> str:
        """The name of the validation of this version."""
        return f"{self.day}-{self.digest[:NAME_DIGITS]}"


class Landing(StrictModel):
    """What landing a file did."""

    landed: Landed
    is_new: bool
    table_version: int


def allowed_address(settings: Settings, asked: str, default: str, variable: str) -> str:
    """The address to read: the default, or one that the settings name. Nothing else is ever opened.

    Raises:
        SluiceError: no default is set, or the address is none of the installation's.
    """
    if not asked:
        if not default:
            raise SluiceError(f"no source is set: give {variable} a directory or s3://bucket/prefix")
        return default
    extra = [part.strip() for part in settings.extra_source_uris.split(",")]
    known = {settings.source_uri, settings.labels_uri, *extra} - {""}
    if asked not in known:
        raise SluiceError(
            "source_uri: not one of this installation's sources; add it to SLUICE_EXTRA_SOURCE_URIS first"
        )
    return asked


@contextmanager
def arriving(settings: Settings) -> Iterator[Path]:
    """A place for a file that is to be landed; what was not landed by the end is removed."""
    settings.raw.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=settings.raw, prefix=ARRIVING)
    os.close(handle)
    try:
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)


def land(
    settings: Settings,
    feed: str,
    day: date,
    address: str,
    file: Path,
    extension: str,
    rows: int,
    arrived_at: datetime | None,
) -> Landing:
    """Move a file that has arrived to its place and note it in the ledger."""
    digest, size = _digest(file), file.stat().st_size
    path = f"{feed}/{day}/{digest[:NAME_DIGITS]}.{extension}"
    lake = lake_of(settings)
    # object and ledger together: what the ledger does not name may be cleaned away
    with landing_alone(settings):
        if not (settings.raw / path).exists():
            (settings.raw / path).parent.mkdir(parents=True, exist_ok=True)
            file.chmod(0o644)
            file.replace(settings.raw / path)
        known = lake.read(LANDED_FILES, first=day, last=day)
        versions = _versions(known, feed)
        if versions and versions[-1].digest == digest:
            version = lake.version(LANDED_FILES)
            return Landing(landed=versions[-1], is_new=False, table_version=version)
        landed = Landed(
            day=day,
            feed=feed,
            sequence=versions[-1].sequence + 1 if versions else 1,
            address=address,
            path=path,
            digest=digest,
            size_bytes=size,
            rows=rows,
            arrived_at=arrived_at,
        )
        added = pa.Table.from_pylist([landed.model_dump()], schema=LANDED_FILES.schema)
        version = lake.replace(LANDED_FILES, pa.concat_tables([known, added]), day)
    return Landing(landed=landed, is_new=True, table_version=version)


def newest(settings: Settings, feed: str, day: date) -> Landed:
    """The landed version that counts.

    Raises:
        SluiceError: nothing was landed for this feed and day.
    """
    known = lake_of(settings).read(LANDED_FILES, first=day, last=day)
    versions = _versions(known, feed)
    if not versions:
        raise SluiceError(f"{feed} of {day}: nothing was landed; run land_{feed} for this day first")
    return versions[-1]


def landed_object(settings: Settings, landed: Landed) -> Path:
    """Where a landed version lies, its bytes checked against the ledger.

    Raises:
        SluiceError: the raw object is gone or was changed.
    """
    path = settings.raw / landed.path
    try:
        digest = _digest(path)
    except FileNotFoundError:
        raise SluiceError(
            f"{path}: the landed object is gone; run land_{landed.feed} for {landed.day} again"
        ) from None
    if digest != landed.digest:
        raise SluiceError(
            f"{path}: the landed object was changed after landing; remove it and run "
            f"land_{landed.feed} for {landed.day} again"
        )
    return path


def landed_rows(settings: Settings, feed: str, days: list[date]) -> list[int]:
    """Rows of the newest version of each of these days that were landed."""
    if not days:
        return []
    table = lake_of(settings).read(LANDED_FILES, first=min(days), last=max(days))
    latest: dict[date, Landed] = {landed.day: landed for landed in _versions(table, feed)}
    return [latest[day].rows for day in days if day in latest]


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _versions(table: pa.Table, feed: str) -> list[Landed]:
    found = [Landed.model_validate(row) for row in table.to_pylist() if row["feed"] == feed]
    return sorted(found, key=lambda landed: (landed.day, landed.sequence))


@contextmanager
def landing_alone(settings: Settings) -> Iterator[None]:
    """Both feeds share a day's partition: read and replace without another writer in between.

    Cleaning holds it too, so that it sees each object with the ledger's row of it: a backfill lands into the
    same folder, and so takes production's place.
    """
    with lake_of(settings.model_copy(update={"staging": ""})).exclusively("landing"):
        yield
