"""A backfill step by step, with the person and the instant that its jobs ask for."""

from __future__ import annotations

import shutil
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

from jobs.backfill.recipes import recipe_of
from jobs.conf.settings import Settings, load_settings
from jobs.core import Receipt
from jobs.lake.store import content_digest, lake_of
from jobs.registry import load_job
from tests.data_support import DAY, good_row

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
ROWS = 120
CORRECTED = 126
DAYS = [DAY + timedelta(days=number) for number in range(4)]


def numbered(day: date, count: int = ROWS) -> list[str]:
    """Good rows whose ids belong to their day; later days bring a copy of the first day's row 2."""
    start = (day - DAYS[0]).days * 1000
    copies = [good_row(2, day)] if day > DAYS[0] else []
    return [good_row(start + number, day) for number in range(1, count + 1)] + copies


def settings_in(folder: Path) -> Settings:
    """An installation with its sources in one folder."""
    return load_settings(
        {
            "SLUICE_HOME": str(folder / "home"),
            "SLUICE_SOURCE_URI": str(folder / "source" / "transactions"),
            "SLUICE_LABELS_URI": str(folder / "source" / "labels"),
        }
    )


def copied(four_days: Path, folder: Path) -> Settings:
    """A copy of the four days; Great Expectations' own folder names absolute paths and is made again."""
    shutil.copytree(four_days, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("gx", "reports"))
    return settings_in(folder)


def ask(home: Settings, job: str, **arguments: Any) -> Receipt:
    """Run one of the jobs of a backfill as a person would."""
    module = load_job(f"{job}_backfill")
    given = {"person": "ada", "at": NOON, **arguments}
    return module.run(module.Params.model_validate(given), home)


def planned(home: Settings, dag: str = "fraud_ingest", first: date = DAYS[1], last: date = DAYS[2]) -> str:
    """Plan two days; gives the backfill's name."""
    return ask(home, "plan", dag=dag, first=first, last=last, reason="a corrected file").partition


def staged(home: Settings, **days: Any) -> str:
    """Plan and stage; gives the name."""
    name = planned(home, **days)
    ask(home, "run", name=name, execute=True)
    return name


def contents(home: Settings, dag: str = "fraud_ingest") -> dict[str, str]:
    """The content digest of each table of a DAG."""
    lake = lake_of(home)
    return {item.table.name: content_digest(lake.read(item.table)) for item in recipe_of(dag).tables}
