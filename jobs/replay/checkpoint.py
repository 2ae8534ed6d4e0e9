"""A day is done or not done: what a policy's installation was after its last whole day, and the way back.

In: an installation that is played. Out: checkpoints/DAY/ with a copy of the registry and state.json: the
version of each of its own tables, the length of its alerts, its training runs and bundles. Those of the days
to which rows may still come late are kept, and one before them.
A day that was cut off leaves rows, runs and tags behind: `restore` takes all of them away.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from jobs.alerts import FILE as ALERTS
from jobs.conf.contract import contract_of
from jobs.conf.settings import Settings
from jobs.lake.store import lake_of
from jobs.lake.tables import MONITORING, PINS, PREDICTIONS, PROMOTIONS, REACTIONS, Table
from jobs.replay.data import write_json
from jobs.replay.view import cut_back
from jobs.serving.bundles import bundles_folder

OWN: tuple[Table, ...] = (PREDICTIONS, MONITORING, REACTIONS, PROMOTIONS, PINS)
REGISTRY = "mlflow.db"


def registry_file(settings: Settings) -> Path:
    return settings.home / REGISTRY


def done_days(settings: Settings) -> list[date]:
    """Days that have been played as a whole, ascending."""
    return sorted(date.fromisoformat(file.stem) for file in (settings.home / "days").glob("*.json"))


def keep(settings: Settings, day: date, record: dict[str, Any]) -> None:
    """Note the installation as it is after a day; the day is done once its record is there."""
    folder = settings.home / "checkpoints" / str(day)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    _copy(registry_file(settings), folder / REGISTRY)
    lake, alerts = lake_of(settings), settings.home / ALERTS
    state = {
        "tables": {table.name: lake.version(table) for table in OWN},
        "alerts": alerts.stat().st_size if alerts.exists() else 0,
        "runs": _names(settings.work / "training"),
        "bundles": _names(bundles_folder(settings)),
    }
    write_json(folder / "state.json", state)
    write_json(settings.home / "days" / f"{day}.json", record)
    oldest = day - timedelta(days=contract_of(settings).transactions.late_days)
    for other in folder.parent.iterdir():
        if not oldest <= date.fromisoformat(other.name) <= day:
            shutil.rmtree(other)


def forget_from(settings: Settings, day: date | None) -> None:
    """Days from this one on are to be played again; all of them where the way back to it is not kept."""
    if day is None:
        return
    done = done_days(settings)
    before = [each for each in done if each < day]
    if before and not (settings.home / "checkpoints" / str(before[-1])).exists():
        day = done[0]
    for each in reversed([each for each in done if each >= day]):
        (settings.home / "days" / f"{each}.json").unlink()


def restore(settings: Settings) -> date | None:
    """Go back to the end of the last whole day, or to nothing; gives that day."""
    done = done_days(settings)
    folder = settings.home / "checkpoints" / str(done[-1]) if done else None
    state: dict[str, Any] = json.loads((folder / "state.json").read_text()) if folder else {}
    for table in OWN:
        cut_back(settings.home / "lake" / table.name, state.get("tables", {}).get(table.name, -1))
    alerts = settings.home / ALERTS
    if alerts.exists():
        with alerts.open("a") as file:
            file.truncate(state.get("alerts", 0))
    for parent, kept in (
        (settings.work / "training", state.get("runs", [])),
        (bundles_folder(settings), state.get("bundles", [])),
    ):
        for name in set(_names(parent)) - set(kept):
            shutil.rmtree(parent / name)
    if folder:
        _copy(folder / REGISTRY, registry_file(settings))
    else:
        registry_file(settings).unlink(missing_ok=True)
    return done[-1] if done else None


def _copy(source: Path, target: Path) -> None:
    """Copy a SQLite file as a whole, also into one that somebody has open."""
    with closing(sqlite3.connect(source)) as old, closing(sqlite3.connect(target)) as new:
        old.backup(new)


def _names(folder: Path) -> list[str]:
    found = folder.iterdir() if folder.exists() else ()
    return sorted(each.name for each in found if each.is_dir() and not each.name.startswith("."))
