"""Waiting for files to appear, by the kernel's own notices: polling comes too late on a busy machine.

In: folders. Out: how many files were begun in them and below, locks and table logs left out. A file that gets
its name by a rename was begun under another.
"""

from __future__ import annotations

import ctypes
import os
import select
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CREATE, IS_FOLDER = 0x100, 0x40000000
EVENT = struct.Struct("iIII")  # watch, mask, cookie, length of the name that follows
LOG = "_delta_log"
LIBC = ctypes.CDLL(None, use_errno=True)


class Beginnings:
    """The files that are begun below some folders from now on."""

    def __init__(self, descriptor: int, folders: list[Path]) -> None:
        self._descriptor = descriptor
        self._folders: dict[int, Path] = {}
        for folder in folders:
            self._add(folder)

    def _add(self, folder: Path) -> int:
        """Watch a folder and those below; gives the number of files that are there by then."""
        watch = LIBC.inotify_add_watch(self._descriptor, os.fsencode(folder), CREATE)
        if watch < 0:
            return 0  # it is gone again
        self._folders[watch] = folder
        count = 0
        for entry in os.scandir(folder):
            if entry.is_dir():
                count += 0 if entry.name == LOG else self._add(Path(entry.path))
            else:
                count += not entry.name.endswith(".lock")
        return count

    def wait(self, ended: int, wanted: int | None = None) -> int:
        """Count until there were so many, or until the process of this sentinel has ended."""
        count = 0
        while wanted is None or count < wanted:
            ready, _, _ = select.select([self._descriptor, ended], [], [])
            if self._descriptor not in ready:
                break
            for folder, mask, name in self._events():
                if name == LOG or name.endswith(".lock"):
                    continue
                count += self._add(folder / name) if mask & IS_FOLDER else 1
        return count

    def _events(self) -> Iterator[tuple[Path, int, str]]:
        data, at = os.read(self._descriptor, 1 << 16), 0
        while at < len(data):
            watch, mask, _, length = EVENT.unpack_from(data, at)
            at += EVENT.size + length
            name = os.fsdecode(data[at - length : at].rstrip(b"\0"))
            if watch in self._folders and name:
                yield self._folders[watch], mask, name


@contextmanager
def beginning(*folders: Path) -> Iterator[Beginnings]:
    """Watch these folders, as far as they are there."""
    descriptor = LIBC.inotify_init()
    try:
        yield Beginnings(descriptor, list(folders))
    finally:
        os.close(descriptor)
