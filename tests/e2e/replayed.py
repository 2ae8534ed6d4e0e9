"""Days of the story once more, by the replay: the source through its intake, the log through its monitoring.

The intake begins with nothing and takes in the source's first days. Training and monitoring look at a copy of
the tables that Airflow left, since the log of a running service cannot be played twice; what Airflow's runs
wrote of the day is taken out of the copy first.
"""

from __future__ import annotations

import shutil
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from demo import upstream
from jobs.conf.settings import Settings
from jobs.core import Receipt, days_between
from jobs.features.tables import BUILT_TABLES
from jobs.lake.store import content_digest, lake_of
from jobs.lake.tables import (
    LABELS,
    LANDED_FILES,
    MERGED_LABELS,
    MONITORING,
    QUARANTINE,
    REACTIONS,
    TRANSACTIONS,
    Table,
)
from jobs.replay import data
from jobs.replay.graph import order_of
from jobs.replay.plan import QUIET
from tests.e2e.story import FIRST, Story

LAST = FIRST + timedelta(days=2)  # the day with broken rows
TAKEN_IN: tuple[Table, ...] = (TRANSACTIONS, QUARANTINE, LABELS, MERGED_LABELS, *BUILT_TABLES)
# where a file came from, when, and how often it was asked for is the machine's own
LANDED = ["day", "feed", "digest", "size_bytes", "rows"]
GROUPS = ("drift", "performance", "service")


def taken_in(story: Story, home: Path) -> Settings:
    """The first days of the source, from file to features."""
    early, _ = upstream.folders(story.settings.home)
    settings = story.settings.model_copy(update=QUIET | {"home": home, "source_uri": str(early)})
    for day in days_between(FIRST, LAST):
        assert data.take_in_day(settings, day)["refused"] == ""
    data.build(settings, LAST)
    return settings


def digests_of_days(settings: Settings) -> dict[str, str]:
    """What the tables say of these days."""
    lake, days = lake_of(settings), days_between(FIRST, LAST)

    def rows(table: Table, columns: list[str] | None = None) -> pa.Table:
        found = lake.read(table, columns=columns)
        return found.filter(pc.is_in(found["day"], value_set=pa.array(days, pa.date32())))

    return {table.name: content_digest(rows(table)) for table in TAKEN_IN} | {
        LANDED_FILES.name: content_digest(rows(LANDED_FILES, LANDED).group_by(LANDED).aggregate([]))
    }


def copied(story: Story, home: Path) -> Settings:
    """An installation of the replay with a copy of Airflow's tables, and its registry."""
    shutil.copytree(story.settings.lake, home / "lake")
    return story.settings.model_copy(update=QUIET | {"home": home})


def framed(settings: Settings, day: date, run: str) -> dict[str, Receipt]:
    """The training up to its frame."""
    jobs = order_of("fraud_train")[:2]
    return {job: data.run_job(settings, job, {"day": day, "run": run}) for job in jobs}


def monitored(settings: Settings, day: date, run: str) -> None:
    """The monitoring of a day whose figures are not there."""
    lake = lake_of(settings)
    for group in GROUPS:
        lake.replace(MONITORING, MONITORING.schema.empty_table(), f"{day}.{group}")
    lake.replace(REACTIONS, REACTIONS.schema.empty_table(), day)
    for job in order_of("fraud_monitor"):
        data.run_job(settings, job, {"day": day} | ({"run": run} if job == "decide_reaction" else {}))


def monitoring_of(settings: Settings, day: date) -> dict[str, Any]:
    """Figures of a day by group, and what was decided."""
    lake = lake_of(settings)
    found = {
        group: lake.read(MONITORING, first=f"{day}.{group}", last=f"{day}.{group}").to_pylist()
        for group in GROUPS
    }
    return {
        group: sorted(rows, key=lambda row: (row["metric"], row["subject"])) for group, rows in found.items()
    } | {"decided": lake.read(REACTIONS, first=day, last=day).to_pylist()}
