"""The job `expire_data`: what the policy's retention no longer asks for.

In: the section `retention` of the policy. Out, each counted in the receipt:
predictions, hourly_monitoring (as long as these), quarantine: rows of older days are deleted from the tables;
raw: landed objects that are not the newest version of their day;
work: files of a day, and folders of training runs;
reports: Data Docs pages with their stored results, and drift reports;
pins: those of training runs that were never registered and whose folder is gone. A registered version keeps
its pins until archive_versions lets go of them. Pins of others are not touched.
Files go once their day and their last change are both old; the ledger keeps a row of each landed version.
Errors: SluiceError where the policy would delete predictions that monitoring still compares with labels, and,
after everything else is done, where pins must be judged and MLflow does not answer.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from datetime import date
from operator import itemgetter
from pathlib import Path

import pyarrow.compute as pc

from jobs.backfill.ledger import OPEN, states
from jobs.conf.contract import contract_of
from jobs.conf.policy import policy_of
from jobs.conf.settings import Settings
from jobs.core import Receipt, SluiceError, Stopwatch
from jobs.ingest.landing import ARRIVING, landing_alone
from jobs.lake.pins import unpin
from jobs.lake.staging import StagedLake
from jobs.lake.store import Lake, lake_of
from jobs.lake.tables import HOURLY_MONITORING, LANDED_FILES, PINS, PREDICTIONS, QUARANTINE, Table
from jobs.maintenance.common import (
    TRAINING_PIN,
    MaintenanceParams,
    Removed,
    day_of,
    is_old,
    oldest_kept,
    remove,
    total,
)
from jobs.monitoring.report import save_index

READS = ("predictions", "quarantine", "pins", "registry")
WRITES = ("expired_data",)

TRAINING = "training"  # folder of the training runs in work/
log = logging.getLogger(__name__)


class Params(MaintenanceParams):
    """The day from whose end ages are counted back."""


def expire_rows(lake: Lake, table: Table, before: date, *, dry_run: bool) -> Removed:
    """Delete the rows of days before a day, in one commit."""
    if not lake.exists(table):
        return Removed()
    rows = lake.delta(table).to_pyarrow_dataset().count_rows(filter=pc.field("day") < before)
    if rows and not dry_run:
        with lake.writing(table):
            lake.delta(table).delete(f"day < CAST('{before}' AS DATE)")
    return Removed(rows=rows)


def newest_objects(lake: Lake) -> set[str]:
    """Paths of the landed versions that count: the newest of each feed and day.

    Also those of ledgers that open backfills have staged, and of versions that a backfill has pinned: a swap
    or taking it back brings them. A training needs what the ledger says, and no object.
    """
    columns = ["feed", "day", "sequence", "path"]
    pins = [row for row in lake.read(PINS).to_pylist() if not row["name"].startswith(TRAINING_PIN)]
    versions = {row["version"] for row in pins if row["table"] == LANDED_FILES.name}
    ledgers = [lake.read(LANDED_FILES, columns=columns, version=each) for each in (None, *sorted(versions))]
    ledgers += [
        StagedLake(lake, entry.name).staging.read(LANDED_FILES, columns=columns)
        for entry in states(lake)
        if entry.state in OPEN
    ]
    found: set[str] = set()
    for ledger in (rows.to_pylist() for rows in ledgers):
        newest = {
            (row["feed"], row["day"]): row["path"] for row in sorted(ledger, key=itemgetter("sequence"))
        }
        found.update(newest.values())
    return found


def expire_raw(settings: Settings, lake: Lake, before: date, *, dry_run: bool) -> Removed:
    """Remove old landed objects that no longer count, and what a killed landing left."""
    with landing_alone(settings):
        kept = newest_objects(lake)
        stale = [
            file
            for folder in dated(settings.raw.glob("*/*"), before)
            for file in folder.iterdir()
            if str(file.relative_to(settings.raw)) not in kept and is_old(file, before)
        ]
        stale += [file for file in settings.raw.glob(f"{ARRIVING}*") if is_old(file, before)]
        return total(remove(file, dry_run=dry_run) for file in stale)


def dated(paths: Iterator[Path], before: date) -> list[Path]:
    """Those that are named by a day before this one."""
    return sorted(path for path in paths if (day := day_of(path)) is not None and day < before)


def expire_files(paths: Iterator[Path], before: date, *, dry_run: bool) -> Removed:
    """Remove files and folders that are named by an old day and were not changed since."""
    return total(remove(path, dry_run=dry_run) for path in dated(paths, before) if is_old(path, before))


def expire_work(settings: Settings, before: date, *, dry_run: bool) -> Removed:
    """Remove old files between tasks, except of a day whose features are still owed to the online store."""
    days = (path for path in settings.work.glob("*/*") if not any(path.glob("owed-*")))
    runs = [path for path in settings.work.glob(f"{TRAINING}/*") if path.is_dir() and is_old(path, before)]
    return expire_files(days, before, dry_run=dry_run) + total(remove(run, dry_run=dry_run) for run in runs)


def expire_reports(settings: Settings, before: date, *, dry_run: bool) -> Removed:
    """Remove old pages and the results that they show."""
    folders = (settings.reports / "data_docs" / "validations", settings.home / "gx/uncommitted/validations")
    removed = total(expire_files(folder.glob("*/*"), before, dry_run=dry_run) for folder in folders)
    drift = settings.reports / "drift"
    pages = expire_files(drift.glob("*.html"), before, dry_run=dry_run)
    if pages.files and not dry_run:
        save_index(drift)
    return removed + pages


def abandoned_pins(settings: Settings, lake: Lake, before: date) -> list[str]:
    """Pins of training runs that nothing can use any more: no registered version, and no living folder.

    Raises:
        SluiceError: MLflow does not answer.
    """
    names = {str(name) for name in lake.partitions(PINS) if str(name).startswith(TRAINING_PIN)}
    without_folder = []
    for name in sorted(names):
        folder = settings.work / TRAINING / name.removeprefix(TRAINING_PIN)
        if not folder.exists() or is_old(folder, before):
            without_folder.append(name)
    if not without_folder:
        return []  # MLflow is not asked for nothing
    registered = registered_runs(settings)
    return [name for name in without_folder if name.removeprefix(TRAINING_PIN) not in registered]


def registered_runs(settings: Settings) -> set[str]:
    """Training runs that have a version in the registry, blocked ones included."""
    from jobs.promotion.state import TAG_RUN, read_versions, registry_client

    versions = read_versions(registry_client(settings), settings.model_name)
    return {version.tag(TAG_RUN) for version in versions}


def check_policy(settings: Settings) -> None:
    """Monitoring compares predictions with labels that mature later.

    Raises:
        SluiceError: the policy keeps predictions for less than that.
    """
    policy, maturity = policy_of(settings), contract_of(settings).labels.maturity_days
    needed = maturity + policy.performance.window_days
    if policy.retention.predictions_days < needed:
        raise SluiceError(
            f"policy: retention.predictions_days is {policy.retention.predictions_days} and must be at least "
            f"{needed}: labels mature in {maturity} days and performance.window_days is "
            f"{policy.performance.window_days}"
        )


def run(params: Params, settings: Settings) -> Receipt:
    """Remove what is older than the policy keeps."""
    watch = Stopwatch()
    check_policy(settings)
    lake, retention, dry_run = lake_of(settings), policy_of(settings).retention, params.dry_run
    found: dict[str, Removed] = {}

    def note(what: str, removed: Removed) -> None:
        found[what] = removed
        log.info("%s: %d rows, %d files, %d bytes", what, removed.rows, removed.files, removed.bytes)

    for table, days in (
        (PREDICTIONS, retention.predictions_days),
        (HOURLY_MONITORING, retention.predictions_days),
        (QUARANTINE, retention.quarantine_days),
    ):
        note(table.name, expire_rows(lake, table, oldest_kept(params.day, days), dry_run=dry_run))
    note("raw", expire_raw(settings, lake, oldest_kept(params.day, retention.raw_days), dry_run=dry_run))
    reports = oldest_kept(params.day, retention.reports_days)
    note("reports", expire_reports(settings, reports, dry_run=dry_run))
    work = oldest_kept(params.day, retention.work_days)
    note("work", expire_work(settings, work, dry_run=dry_run))
    released = abandoned_pins(settings, lake, work)
    for name in () if dry_run else released:
        unpin(lake, name)
    return Receipt(
        job="expire_data",
        table=WRITES[0],
        partition=str(params.day),
        rows=total(found.values()).rows,
        seconds=watch.seconds,
        facts={
            "dry_run": dry_run,
            "pins": released,
            **{what: removed.model_dump(exclude_defaults=True) for what, removed in found.items()},
        },
    )
