"""A full disk, told from any other error: each library says it in its own way."""

from __future__ import annotations

import errno
from pathlib import Path

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
# what the libraries that are not written in Python, and SQLite, put into their own errors
SIGNS = ("No space left on device", "File too large", "Disk quota exceeded", "disk is full")


def is_full(error: BaseException) -> bool:
    """Whether an error, or one that it came from, means that nothing more could be written."""
    seen: set[int] = set()
    found: BaseException | None = error
    while found is not None and id(found) not in seen:
        seen.add(id(found))
        if isinstance(found, OSError) and found.errno in FULL:
            return True
        if any(sign in str(found) for sign in SIGNS):
            return True
        found = found.__cause__ or found.__context__
    return False


def sentence(what: str, home: Path) -> str:
    """What a person needs to know."""
    return (
        f"{what}: the disk of {home} is full, so nothing of this run counts and what was there before is "
        "unchanged; make room there (`sluice vacuum_tables`, `sluice expire_data`), then run it again"
    )
