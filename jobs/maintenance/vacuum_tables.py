"""The job `vacuum_tables`: files and log entries go that no young and no pinned version needs.

In: every table, the pins. Out: fewer files. The current version, each pinned version, and each version that
was current within the policy's `retention.version_days` stay readable; leftovers of killed writers go.
The Delta log is cut only here and never above the oldest pinned version: the tables are told not to cut it
by themselves, which they would do after 30 days.
Age: Delta measures a file's age from when it was removed, by the library's own clock. This job reads none;
running it again, or for an older day, removes no more than the present day allows.
Errors: SluiceError where a pinned version is not readable, before anything of its table is removed.
"""

from __future__ import annotations

import logging
from typing import Any

import pyarrow as pa
import pyarrow.fs as pa_fs
from deltalake import DeltaTable

from jobs.conf.policy import policy_of
from jobs.conf.settings import Settings
from jobs.core import Receipt, SluiceError, Stopwatch
from jobs.lake.pins import pinned
from jobs.lake.store import LOG_KEPT, Lake, lake_of
from jobs.lake.tables import Table
from jobs.maintenance.common import (
    MaintenanceParams,
    Removed,
    every_table,
    table_files,
    total,
)

READS = ("pins",)
WRITES = ("vacuumed_tables",)

LOG_FOLDER = "_delta_log"
log = logging.getLogger(__name__)


class Params(MaintenanceParams):
    """The day that the receipt is for."""


def unneeded(delta: DeltaTable, keep: list[int], days: int, *, dry_run: bool) -> list[str]:
    """Files that neither a young version nor a kept one needs, also some that went before."""
    return list(
        delta.vacuum(
            retention_hours=24 * days,
            dry_run=dry_run,
            enforce_retention_duration=False,  # the policy's days are what counts
            full=True,  # also what a killed writer left, which no log entry names
            keep_versions=keep or None,
        )
    )


def present(lake: Lake, table: Table, paths: list[str]) -> Removed:
    """Those of the files that are there: the log names removed ones until it is cut."""
    root = f"{lake.path(table)}/"
    found = table_files(lake, table).get_file_info(sorted({path.removeprefix(root) for path in paths}))
    there = [file for file in found if file.type == pa_fs.FileType.File]
    return Removed(files=len(there), bytes=sum(int(file.size or 0) for file in there))


def keep_log(delta: DeltaTable, days: int) -> DeltaTable:
    """The table, told to leave its log alone except when it is asked to cut it."""
    wanted = {
        **LOG_KEPT,
        "delta.logRetentionDuration": f"interval {days} days",
    }
    if not wanted.items() <= delta.metadata().configuration.items():
        delta.alter.set_table_properties(wanted)
    return delta


def cut_log(lake: Lake, table: Table, keep: list[int]) -> int:
    """Remove log entries that are old and lie before every kept version; gives how many went.

    A checkpoint holds the oldest kept version from then on. The one of the current version is written
    last, because readers start from the last one written.
    """
    before = log_files(lake, table)
    current = lake.delta(table)
    oldest = lake.delta(table, min([*keep, current.version()]))
    oldest.create_checkpoint()
    current.create_checkpoint()
    oldest.cleanup_metadata()
    return len(before - log_files(lake, table))


def log_files(lake: Lake, table: Table) -> set[str]:
    """Names of the files of the table's log."""
    found = table_files(lake, table).get_file_info(pa_fs.FileSelector(LOG_FOLDER))
    return {str(file.path) for file in found}


def vacuum(lake: Lake, table: Table, keep: list[int], days: int, *, dry_run: bool) -> tuple[Removed, int]:
    """Clean one table; gives the files and the log entries that went.

    Raises:
        SluiceError: a pinned version is not readable, or the store refuses.
    """
    try:
        with lake.explained(table):
            removed = present(lake, table, unneeded(lake.delta(table), keep, days, dry_run=True))
            if dry_run:
                return removed, 0
            with lake.writing(table):
                delta = keep_log(lake.delta(table), days)
                if removed.files:
                    unneeded(delta, keep, days, dry_run=False)
                return removed, cut_log(lake, table, keep)
    except (SluiceError, pa.ArrowException) as error:
        raise SluiceError(
            f"table {table.name}: not cleaned, pinned versions {keep or 'none'}: {error}; a pin whose "
            "version is not readable any more must go before the table can be cleaned"
        ) from None


def run(params: Params, settings: Settings) -> Receipt:
    """Clean every table."""
    watch = Stopwatch()
    lake, days = lake_of(settings), policy_of(settings).retention.version_days
    pins = pinned(lake)
    found: dict[str, Removed] = {}
    entries = 0
    for table in every_table(lake):
        keep = sorted(pins.get(table.name, ()))
        found[table.name], cut = vacuum(lake, table, keep, days, dry_run=params.dry_run)
        entries += cut
        went = found[table.name]
        log.info(
            "%s: %d files, %d bytes, %d log entries, kept for pins: %s",
            table.name, went.files, went.bytes, cut, keep or "none",
        )  # fmt: skip
    everything = total(found.values())
    by_table: dict[str, Any] = {name: removed.files for name, removed in found.items() if removed.files}
    return Receipt(
        job="vacuum_tables",
        table=WRITES[0],
        partition=str(params.day),
        seconds=watch.seconds,
        facts={
            "dry_run": params.dry_run,
            "files": everything.files,
            "bytes": everything.bytes,
            "log_entries": entries,
            "by_table": by_table,
            "pinned_versions": sum(len(versions) for versions in pins.values()),
        },
    )
