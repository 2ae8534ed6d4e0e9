"""Rows on their way to the lake, in files that outlive a killed process.

State: one folder a process below `root`, named by 32 hexadecimal digits, with a file `lock` that its owner
holds as long as it lives (the kernel drops it with the process) and segments 00000001.rows, …. A segment is a
run of frames: length and CRC-32 of what follows, both 4 bytes, little endian, then one Arrow IPC message, the
schema in the first frame and a record batch in each further one. What a process has handed to the kernel
survives its death, not that of the machine. A torn frame at the end of a segment is left out.
A segment's folder and number name it for good, so the lake can be asked whether it has it already.
Errors: OSError where a file cannot be written, SpoolFull above the limit, SegmentUnreadable.
"""

from __future__ import annotations

import fcntl
import os
import re
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple
from uuid import uuid4

import pyarrow as pa

from jobs.core import SluiceError
from jobs.locks import file_lock

FRAME = struct.Struct("<II")
OWNER = re.compile(r"[0-9a-f]{32}")
SUFFIX = ".rows"
UNREADABLE = ".unreadable"
REFUSED = ".refused"


class SpoolFull(SluiceError):
    """The files that wait have reached the limit."""


class SegmentUnreadable(SluiceError):
    """A segment that this version cannot read."""


class Segment(NamedTuple):
    """One file that nobody writes any more."""

    path: Path
    writer: str  # its folder's name
    number: int

    def read(self) -> tuple[pa.Table | None, int]:
        """Its rows, None where it has none, and the bytes of a torn end.

        Raises:
            SegmentUnreadable: its frames are whole and say nothing that this version understands.
        """
        data = self.path.read_bytes()
        frames = _frames(data)
        torn = len(data) - sum(FRAME.size + len(frame) for frame in frames)
        if not frames:
            return None, torn
        try:
            schema = pa.ipc.read_schema(pa.py_buffer(frames[0]))
            batches = [pa.ipc.read_record_batch(pa.py_buffer(frame), schema) for frame in frames[1:]]
        except (pa.ArrowException, OSError) as error:
            raise SegmentUnreadable(f"segment {self.path.name} of {self.writer}: {error}") from None
        return (pa.Table.from_batches(batches, schema) if batches else None), torn

    def set_aside(self, why: str) -> None:
        """Keep it for a person under another name, which ends with UNREADABLE or REFUSED."""
        self.path.rename(self.path.parent.parent / f"{self.writer}.{self.number:08d}{why}")


class Folder:
    """One process's segments, and its lock, held here."""

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self._lock = lock

    def segments(self) -> list[Segment]:
        """In the order in which they were written."""
        found = sorted(self.path.glob(f"*{SUFFIX}"))
        return [Segment(path, self.path.name, int(path.stem)) for path in found if path.stem.isdigit()]

    def release(self) -> None:
        """Leave the folder, removing it where nothing is left in it."""
        try:
            if not self.segments():
                (self.path / "lock").unlink(missing_ok=True)
                self.path.rmdir()
        except OSError:
            pass  # another process finds it empty and removes it
        finally:
            os.close(self._lock)


def _locked(path: Path) -> Folder | None:
    """The folder with its lock, None where its owner lives."""
    handle = os.open(path / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return None
    return Folder(path, handle)


def abandoned(root: Path) -> Iterator[Folder]:
    """The folders of dead processes, each locked while it is looked at."""
    for path in sorted(root.iterdir()) if root.is_dir() else []:
        if not OWNER.fullmatch(path.name):
            continue
        try:
            with file_lock(root / ".lock"):  # no folder is seen between its making and its locking
                folder = _locked(path)
        except FileNotFoundError:
            continue  # another process was faster
        if folder is None:
            continue
        try:
            yield folder
        finally:
            folder.release()


class Spool:
    """This process's folder: rows go into one open segment; a closed one is for the lake."""

    def __init__(self, root: Path, limit_bytes: int) -> None:
        self._root = root
        self._limit = limit_bytes
        self._folder: Folder | None = None
        self._open: IO[bytes] | None = None
        self._number = 0
        self._size = 0  # of whole frames in the open segment
        self._others = 0  # bytes below root without the open segment, when they were last measured

    @property
    def size(self) -> int:
        """Bytes of the open segment."""
        return self._size

    @property
    def used(self) -> int:
        """Bytes that wait below the root, those of other processes as of the last `measure`."""
        return self._others + self._size

    def write(self, batch: pa.RecordBatch) -> None:
        """Hand rows to the kernel, all of them or none.

        Raises:
            SpoolFull: the limit is reached.
            OSError: the disk is full or gone; later it may be well again.
        """
        data = bytes(batch.serialize())
        if self.used + FRAME.size + len(data) > self._limit:
            self.measure()
            if self.used + FRAME.size + len(data) > self._limit:
                raise SpoolFull(f"the prediction log's spool holds its limit of {self._limit >> 20} MB")
        if self._open is None:
            self._begin(batch.schema)
        self._append(data)

    def rotate(self) -> None:
        """Close the open segment; the next row begins another one."""
        if self._open is not None:
            self._open.close()
            self._others += self._size
            self._open, self._size = None, 0

    def closed(self) -> list[Segment]:
        """This process's segments that wait, without the open one."""
        found = self._folder.segments() if self._folder is not None else []
        return [each for each in found if self._open is None or each.number != self._number]

    def measure(self) -> None:
        """Look again how much waits, in all folders."""
        total = 0
        for path in self._root.glob(f"*/*{SUFFIX}"):
            try:
                total += path.stat().st_size
            except FileNotFoundError:
                continue  # it has just been appended
        self._others = total - self._size

    def close(self) -> None:
        """Leave what waits to whoever comes next."""
        self.rotate()
        if self._folder is not None:
            self._folder.release()
            self._folder = None

    def _begin(self, schema: pa.Schema) -> None:
        if self._folder is not None and not self._folder.path.is_dir():
            self._folder.release()  # somebody has removed it
            self._folder = None
        if self._folder is None:
            self._folder = self._claim()
        self.measure()
        self._number += 1
        self._size = 0
        path = self._folder.path / f"{self._number:08d}{SUFFIX}"
        self._open = path.open("xb", buffering=0)
        self._append(bytes(schema.serialize()))

    def _append(self, data: bytes) -> None:
        if self._open is None:
            raise AssertionError("no segment is open")
        frame = FRAME.pack(len(data), zlib.crc32(data)) + data
        try:
            written = self._open.write(frame)
            if written != len(frame):
                raise OSError(f"only {written} of {len(frame)} bytes were written")
        except OSError:
            self._undo()
            raise
        self._size += len(frame)

    def _undo(self) -> None:
        """Take half a frame back; where even that fails nothing is written behind it."""
        if self._open is None or self._size == 0:
            self._forget_open()
            return
        try:
            self._open.truncate(self._size)
            self._open.seek(self._size)
        except OSError:
            self.rotate()

    def _forget_open(self) -> None:
        """A segment whose schema could not be written holds no row."""
        if self._open is not None:
            path = Path(self._open.name)
            self.rotate()
            path.unlink(missing_ok=True)

    def _claim(self) -> Folder:
        self._root.mkdir(parents=True, exist_ok=True, mode=0o700)
        with file_lock(self._root / ".lock"):
            path = self._root / uuid4().hex
            path.mkdir(mode=0o700)
            folder = _locked(path)
        if folder is None:
            raise AssertionError("a new folder has no owner yet")
        return folder


def _frames(data: bytes) -> list[memoryview]:
    """What the whole frames hold; a torn one and what lies behind it are left out."""
    found, place, view = [], 0, memoryview(data)
    while place + FRAME.size <= len(data):
        length, checksum = FRAME.unpack_from(data, place)
        body = view[place + FRAME.size : place + FRAME.size + length]
        if len(body) != length or zlib.crc32(body) != checksum:
            break
        found.append(body)
        place += FRAME.size + length
    return found
