"""The job `compact_tables`: partitions of many small files become few large ones, with the same rows.

In: every table that delta-rs writes. Out: one Delta commit for each partition that had at least the policy's
`retention.compact_files` small files; the old files stay for older versions until vacuum_tables removes them.
A day that is not over is left alone: it is still being appended to. Each partition is a step of its own
under the table's lock, so that a writer waits for one of them at most.
Errors: SluiceError where a table cannot be rewritten; what was done before stays done.
"""

from __future__ import annotations

import logging
from collections import Counter
from datetime import date

import pyarrow as pa

from jobs.conf.policy import policy_of
from jobs.conf.settings import Settings
from jobs.core import Receipt, SluiceError, Stopwatch
from jobs.lake.store import Lake, lake_of
from jobs.lake.tables import Table
from jobs.maintenance.common import MaintenanceParams, Removed, every_table, total

READS = ("predictions",)
WRITES = ("compacted_tables",)

SMALL_BYTES = 32 * 2**20
log = logging.getLogger(__name__)


class Params(MaintenanceParams):
    """The last day whose partitions are over."""


def crowded(lake: Lake, table: Table, last: date, least: int) -> dict[str, int]:
    """Partitions with at least so many small files, and how many they have; days after `last` left out."""
    actions = pa.table(lake.delta(table).get_add_actions(flatten=True))
    values = actions[f"partition.{table.partition}"].cast(pa.string()).to_pylist()
    bytes_ = actions["size_bytes"].to_pylist()
    counts = Counter(
        value for value, size in zip(values, bytes_, strict=True) if value is not None and size < SMALL_BYTES
    )
    if table.schema.field(table.partition).type == pa.date32():
        counts = Counter({value: count for value, count in counts.items() if value <= str(last)})
    return {value: count for value, count in sorted(counts.items()) if count >= least}


def compact(lake: Lake, table: Table, value: str) -> Removed:
    """Rewrite one partition; gives the files that it no longer consists of.

    Raises:
        SluiceError: the table cannot be read or written.
    """
    try:
        with lake.explained(table), lake.writing(table):
            found = lake.delta(table).optimize.compact(partition_filters=[(table.partition, "=", value)])
    except SluiceError as error:
        raise SluiceError(
            f"table {table.name}, {table.partition} {value}: could not be compacted ({error}); its rows are "
            "as before: look at the disk, then run compact_tables again"
        ) from None
    return Removed(files=int(found["numFilesRemoved"]) - int(found["numFilesAdded"]))


def run(params: Params, settings: Settings) -> Receipt:
    """Compact what needs it."""
    watch = Stopwatch()
    lake, least = lake_of(settings), policy_of(settings).retention.compact_files
    found: dict[str, Removed] = {}
    partitions = 0
    for table in every_table(lake):
        if table.writer != "delta-rs":
            continue  # Spark writes one file for each day; a table has one writer
        for value, count in crowded(lake, table, params.day, least).items():
            removed = Removed(files=count - 1) if params.dry_run else compact(lake, table, value)
            log.info("%s, %s: %d files fewer", table.name, value, removed.files)
            found[table.name] = found.get(table.name, Removed()) + removed
            partitions += 1
    return Receipt(
        job="compact_tables",
        table=WRITES[0],
        partition=str(params.day),
        seconds=watch.seconds,
        facts={
            "dry_run": params.dry_run,
            "partitions": partitions,
            "files_fewer": total(found.values()).files,
            "by_table": {name: removed.files for name, removed in found.items()},
        },
    )
