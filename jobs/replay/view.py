"""The tables as they were at the end of a day, without copying a row.

In: tables of the data's installation, the version of each after a day. Out: tables in a policy's installation
whose log ends with that version: nothing that reads them can see a later day. Log files are hard links,
partitions symbolic ones; neither is ever changed once it is written.
The feature tables are built over the whole period at once, so their log cannot be cut: their rows carry the
instant from which they were known, and every reader joins by it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from jobs.features.tables import BUILT_TABLES
from jobs.lake.tables import LABELS, LANDED_FILES, MERGED_LABELS, QUARANTINE, TRANSACTIONS, Table

CUT: tuple[Table, ...] = (TRANSACTIONS, LABELS, MERGED_LABELS, LANDED_FILES, QUARANTINE)
WHOLE: tuple[Table, ...] = BUILT_TABLES
LOG = "_delta_log"


def version_of(log_file: str) -> int | None:
    """The table version that a file of a Delta log belongs to; None of a file that names none."""
    number = log_file.partition(".")[0]
    return int(number) if number.isdecimal() else None


def show(source: Path, target: Path, versions: Mapping[str, int]) -> None:
    """Let the tables below `target` be those below `source`, as far as `versions` (by table) go."""
    for table in CUT:
        version = versions.get(table.name, -1)
        cut_back(target / table.name, version)  # of a day that is played again, later versions were shown
        if version >= 0:
            _link_table(source / table.name, target / table.name, version)
    for table in WHOLE:
        place = target / table.name
        if (source / table.name).exists() and not place.is_symlink():
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to(source / table.name, target_is_directory=True)


def _link_table(source: Path, target: Path, version: int) -> None:
    (target / LOG).mkdir(parents=True, exist_ok=True)
    for partition in source.iterdir():
        place = target / partition.name
        if partition.name != LOG and not place.is_symlink():
            place.symlink_to(partition)
    # the rows first: a version that is in the log can be read
    for file in sorted((source / LOG).iterdir()):
        number, place = version_of(file.name), target / LOG / file.name
        if number is not None and number <= version and not place.exists():
            os.link(file, place)


def cut_back(table: Path, version: int) -> None:
    """Forget what a table's own log holds after a version; with -1, the whole table."""
    log = table / LOG
    for file in sorted(log.iterdir(), reverse=True) if log.exists() else []:
        number = version_of(file.name)
        if number is None or number > version:
            file.unlink()
