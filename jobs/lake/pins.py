"""Table versions that must stay readable: a training frame, a backfill that may be reversed.

In: a name and the versions it stands on. Out: rows of `pins`. Cleaning never removes a file that a pinned
version needs, and an unpinned one only after the policy's retention.
"""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa

from jobs.lake.store import Lake
from jobs.lake.tables import PINS


def pin(lake: Lake, name: str, versions: Mapping[str, int]) -> None:
    """Keep these table versions under a name, in place of what the name kept before."""
    rows = [
        {"name": name, "table": table, "version": version}
        for table, version in sorted(versions.items())
        if version >= 0
    ]
    lake.replace(PINS, pa.Table.from_pylist(rows, PINS.schema), name)


def unpin(lake: Lake, name: str) -> None:
    """Nothing under this name needs its versions any more."""
    lake.replace(PINS, PINS.schema.empty_table(), name)


def pinned(lake: Lake) -> dict[str, set[int]]:
    """Every pinned version, by table."""
    found: dict[str, set[int]] = {}
    for row in lake.read(PINS).to_pylist():
        found.setdefault(row["table"], set()).add(row["version"])
    return found
