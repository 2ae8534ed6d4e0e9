"""A day that the replay takes in against the jobs of the DAGs, run one by one as a person would."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path

from jobs.conf.settings import Settings, load_settings
from jobs.lake.store import content_digest, lake_of
from jobs.lake.tables import LABELS, MERGED_LABELS, QUARANTINE, TRANSACTIONS
from jobs.replay.data import run_job, take_in_day, versions_after, write_json
from jobs.replay.view import show

FIRST = date(2026, 1, 1)
DAYS = [FIRST, FIRST + timedelta(days=1)]
TABLES = (TRANSACTIONS, LABELS, MERGED_LABELS, QUARANTINE)


def simulated(tmp_path: Path) -> Settings:
    settings = load_settings(
        {
            "SLUICE_HOME": str(tmp_path / "replayed"),
            "SLUICE_SOURCE_URI": str(tmp_path / "source" / "transactions"),
            "SLUICE_LABELS_URI": str(tmp_path / "source" / "labels"),
        }
    )
    run_job(
        settings,
        "simulate_source",
        {
            "first_day": DAYS[0],
            "last_day": DAYS[-1],
            "destination": settings.source_uri,
            "labels_destination": settings.labels_uri,
            "rows_per_day": 300,
            "broken_day": DAYS[1],
        },
    )
    return settings


def digests(settings: Settings) -> dict[str, str]:
    return {table.name: content_digest(lake_of(settings).read(table)) for table in TABLES}


def test_a_day_is_taken_in_as_the_jobs_take_it_in_one_by_one(tmp_path: Path) -> None:
    replayed = simulated(tmp_path)
    for day in DAYS:
        write_json(replayed.home / "days" / f"{day}.json", take_in_day(replayed, day))
    by_hand = replayed.model_copy(update={"home": tmp_path / "by_hand"})
    for day in DAYS:
        for job in (
            "land_labels", "validate_labels", "merge_labels", "land_transactions",
            "validate_transactions", "quarantine_transactions", "publish_transactions",
        ):  # fmt: skip
            run_job(by_hand, job, {"day": day})
    assert digests(replayed) == digests(by_hand)
    assert lake_of(replayed).read(QUARANTINE).num_rows > 0

    view = replayed.model_copy(update={"home": tmp_path / "view"})
    show(replayed.home / "lake", view.home / "lake", versions_after(replayed.home, FIRST))
    assert lake_of(view).partitions(TRANSACTIONS) == [str(FIRST)]
    known = lake_of(view).read(TRANSACTIONS)
    assert content_digest(known) == content_digest(lake_of(by_hand).read(TRANSACTIONS, last=FIRST))
