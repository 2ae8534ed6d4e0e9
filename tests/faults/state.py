"""What an installation holds: its committed contents, and what only a killed writer leaves behind."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

from jobs.backfill.ledger import Entry, staging_of, steps_of
from jobs.conf.settings import Settings
from jobs.lake.staging import FOLDER
from jobs.lake.store import content_digest, lake_of
from jobs.lake.tables import BACKFILLS, LANDED_FILES
from jobs.maintenance.common import every_table

LOG = "_delta_log"
LOG_ENTRY = re.compile(r"\d{20}\.(json|checkpoint\.parquet)|_last_checkpoint")
State = dict[str, str]


def contents(settings: Settings) -> State:
    """Digest of each table, of each step of a backfill, and of what the validations say and hand on.

    A table without rows is to every reader what a table that is not there is.
    """
    lake = lake_of(settings)
    tables = [table for table in every_table(lake) if table is not BACKFILLS]
    found = {table.name: content_digest(rows) for table in tables if len(rows := lake.read(table))}
    # a swap notes its intent before its end: each step of the ledger is a whole of its own
    found |= {f"{entry.name}, step {entry.step}": _without_clock(entry) for entry in steps_of(lake)}
    for file in sorted(settings.work.glob("*/*/*")):
        name = file.relative_to(settings.work)
        if not file.name.startswith(".") and name.parts[0] != FOLDER:
            found[str(name)] = hashlib.sha256(file.read_bytes()).hexdigest()
    return found


def staged(settings: Settings) -> State:
    """Digest of each staged table. It is filled day by day and read by nobody before it is whole."""
    found = {}
    for folder in Path(settings.lake, FOLDER).glob("*"):
        lake = staging_of(settings, folder.name).staging
        for table in every_table(lake):
            found[f"{folder.name}/{table.name}"] = content_digest(lake.read(table))
    return found


def _without_clock(entry: Entry) -> str:
    evidence = {name: value for name, value in entry.evidence.items() if name != "seconds"}
    return entry.model_copy(update={"evidence": evidence}).model_dump_json()


def leftovers(settings: Settings, *, staging: bool) -> set[str]:
    """Files that nothing committed names: their writer was killed before its write was done.

    Staging counts for the stage that fills it; the others only remove it.
    """
    root = Path(settings.lake)
    folders = list(root.glob(f"{FOLDER}/*")) if staging else []
    logs = [log for folder in (root, *folders) for log in folder.glob(f"*/{LOG}")]
    found = [name for log in logs for name in _uncommitted(root, log)]
    for folder in (settings.raw, settings.work):
        found += [str(file) for file in folder.rglob(".*") if file.is_file() and file.suffix != ".lock"]
    lakes = [lake_of(settings)]
    lakes += [staging_of(settings, folder.name).staging for folder in folders]
    known = {path for lake in lakes for path in lake.read(LANDED_FILES)["path"].to_pylist()}
    objects = (file for file in settings.raw.glob("*/*/[!.]*") if file.is_file())
    found += [str(file) for file in objects if str(file.relative_to(settings.raw)) not in known]
    for file in settings.work.rglob("parsed.parquet"):
        if not _is_vouched_for(file):
            found.append(str(file))
    return set(found)


def _uncommitted(root: Path, log: Path) -> list[str]:
    """Data files of a table that its log does not name, and entries that never became part of the log."""
    named = set()
    for entry in log.glob("*.json"):
        if LOG_ENTRY.fullmatch(entry.name):
            actions = map(json.loads, entry.read_text().splitlines())
            named |= {action["add"]["path"] for action in actions if "add" in action}
    table = log.parent
    data = (str(file.relative_to(table)) for file in table.glob("*/*") if file.parent != log)
    entries = (entry.name for entry in log.iterdir() if not LOG_ENTRY.fullmatch(entry.name))
    place = table.relative_to(root)
    return [f"{place}/{name}" for name in (*(name for name in data if name not in named), *entries)]


def _is_vouched_for(parsed: Path) -> bool:
    try:
        verdict = json.loads(parsed.with_name("validation.json").read_text())
    except (FileNotFoundError, ValueError):
        return False
    return bool(verdict["parsed_digest"] == hashlib.sha256(parsed.read_bytes()).hexdigest())
