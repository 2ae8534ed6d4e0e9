"""Where files come from and go to: a directory, or a bucket and prefix on S3.

In: an address (`/path`, `file:///path`, `s3://bucket/prefix`) and file names. Out: bytes, whole or in pieces,
with the instant at which they were last modified as the source says it. S3 is reached through boto3 with what
the environment says (`AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_ENDPOINT_URL`, `AWS_REGION`);
credentials never appear in an address, an error or a log.
Errors: SluiceError for each thing that can be wrong with an address.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol, TypeVar

from jobs.core import SluiceError
from jobs.files import write_whole
from jobs.objects import ObjectNotThere, Objects
from jobs.s3_address import S3Address, s3_address

FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
PIECE_BYTES = 4 << 20
T = TypeVar("T")


class FileNotThere(SluiceError):
    """The source has no file of that name."""


class SourceFile(NamedTuple):
    """A file as its source had it."""

    data: bytes
    modified: datetime  # UTC; the source's own word, no clock of ours


class SourceStream(NamedTuple):
    """A file as it comes, for those that are too large to hold."""

    pieces: Iterator[bytes]
    modified: datetime


class Source(Protocol):
    """Files under one address."""

    address: str

    def read(self, name: str) -> SourceFile:
        """The file; FileNotThere where there is none."""

    def stream(self, name: str) -> SourceStream:
        """The file in pieces; FileNotThere where there is none."""

    def write(self, name: str, data: bytes) -> None:
        """Put a file there, whole or not at all."""

    def names(self) -> list[str]:
        """All file names, sorted."""


class DirectorySource:
    """One directory of files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.expanduser().resolve()
        self.address = str(self.folder)

    def read(self, name: str) -> SourceFile:
        found = self.stream(name)
        return SourceFile(b"".join(found.pieces), found.modified)

    def stream(self, name: str) -> SourceStream:
        with self._explained(name):
            file = (self.folder / checked_name(name)).open("rb")
            changed = os.fstat(file.fileno()).st_mtime_ns // 1000
        return SourceStream(self._pieces(file, name), EPOCH + timedelta(microseconds=changed))

    def _pieces(self, file: BinaryIO, name: str) -> Iterator[bytes]:
        with file, self._explained(name):
            while piece := file.read(PIECE_BYTES):
                yield piece

    @contextmanager
    def _explained(self, name: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise FileNotThere(f"source {self.address}: no file {name}") from None
        except OSError as error:
            raise SluiceError(
                f"source {self.address}: cannot read {name}: {error.strerror}; check its permissions"
            ) from None

    def write(self, name: str, data: bytes) -> None:
        try:
            write_whole(self.folder / checked_name(name), data)
        except OSError as error:
            raise SluiceError(
                f"{self.address}: cannot write {name}: {error.strerror}; check the directory"
            ) from None

    def names(self) -> list[str]:
        if not self.folder.is_dir():
            raise SluiceError(
                f"source {self.address}: no such directory; check SLUICE_SOURCE_URI and SLUICE_LABELS_URI"
            )
        return sorted(entry.name for entry in self.folder.iterdir() if entry.is_file())


class S3Source:
    """Objects directly under one prefix of a bucket."""

    def __init__(self, address: S3Address) -> None:
        self.address = str(address)
        self._objects = Objects(address, f"source {address}")

    def read(self, name: str) -> SourceFile:
        try:
            found = self._objects.read(checked_name(name))
        except ObjectNotThere as error:
            raise FileNotThere(str(error)) from None
        return SourceFile(found.data, found.modified)

    def stream(self, name: str) -> SourceStream:
        try:
            pieces, modified = self._objects.stream(checked_name(name), PIECE_BYTES)
        except ObjectNotThere as error:
            raise FileNotThere(str(error)) from None
        return SourceStream(pieces, modified)

    def write(self, name: str, data: bytes) -> None:
        self._objects.write(checked_name(name), data)

    def names(self) -> list[str]:
        return self._objects.names()


def checked_name(name: str) -> str:
    """A plain file name: nothing that leads out of the source."""
    if not FILE_NAME.fullmatch(name):
        raise SluiceError(f"{name!r} is not a plain file name")
    return name


def open_source(address: str) -> Source:
    """The source at an address; nothing is read yet.

    Raises:
        SluiceError: the address is empty or of a kind that is not known.
    """
    if not address:
        raise SluiceError(
            "no source is set: give SLUICE_SOURCE_URI (and SLUICE_LABELS_URI) a directory or "
            "s3://bucket/prefix"
        )
    if address.startswith("s3:"):
        parsed = s3_address(address)
        if parsed is None:
            # the address is not repeated: somebody may have put a secret into it
            raise SluiceError("source: not an s3://bucket/prefix address without credentials")
        return S3Source(parsed)
    if address.startswith("file://"):
        return DirectorySource(Path(address.removeprefix("file://")))
    if "://" in address:
        kind = address.split("://", 1)[0]
        raise SluiceError(f"source: {kind}:// is not supported; give a directory or s3://bucket/prefix")
    return DirectorySource(Path(address))


def days_there(source: Source, template: str) -> list[date]:
    """The days for which the source has a file named by the template, sorted."""
    before, after = template.split("{day}")
    pattern = re.compile(re.escape(before) + r"(\d{4}-\d{2}-\d{2})" + re.escape(after))
    found = [match[1] for name in source.names() if (match := pattern.fullmatch(name))]
    return sorted(date.fromisoformat(text) for text in found if _is_day(text))


def read_day(source: Source, template: str, day: date) -> SourceFile:
    """The file of a day, whole.

    Raises:
        SluiceError: as `fetch_day`.
    """
    return _of_day(source, source.read, template, day)


def fetch_day(source: Source, template: str, day: date, target: Path) -> datetime:
    """Copy the file of a day piece by piece; gives the instant at which it was last modified.

    Raises:
        SluiceError: the source is missing or empty, or has no file for the day; it names the days there.
    """
    found = _of_day(source, source.stream, template, day)
    with target.open("wb") as file:
        file.writelines(found.pieces)
    return found.modified


def _of_day(source: Source, get: Callable[[str], T], template: str, day: date) -> T:
    try:
        return get(template.replace("{day}", str(day)))
    except FileNotThere:
        days = days_there(source, template)
    if not days:
        raise SluiceError(
            f"source {source.address}: empty: no file named like {template}; "
            "check the address and the contract"
        )
    if days[0] <= day <= days[-1]:
        raise SluiceError(
            f"source {source.address}: no file for {day} although the days around it are there; "
            "ask the sender for it"
        )
    raise SluiceError(
        f"source {source.address}: {day} lies outside the data: first day {days[0]}, last day {days[-1]}"
    )


def _is_day(text: str) -> bool:
    try:
        date.fromisoformat(text)
    except ValueError:
        return False
    return True
