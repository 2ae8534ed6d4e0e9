"""What an installation holds: its committed contents, and what only a killed writer leaves behind."""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path

from jobs.conf.settings import Settings
from jobs.lake.store import content_digest, lake_of
from jobs.lake.tables import LANDED_FILES
from jobs.maintenance.common import every_table

LOG_ENTRY = re.compile(r"\d{20}\.(json|checkpoint\.parquet)|_last_checkpoint")
State = dict[str, str]


def contents(settings: Settings) -> State:
    """Digest of each table, and of what the validations say and hand on."""
    lake = lake_of(settings)
    found = {table.name: content_digest(lake.read(table)) for table in every_table(lake)}
    for file in sorted(settings.work.glob("*/*/*")):
        if not file.name.startswith("."):
            name = str(file.relative_to(settings.work))
            found[name] = hashlib.sha256(file.read_bytes()).hexdigest()
    return found


def leftovers(settings: Settings) -> list[str]:
    """Files that nothing committed names: their writer was killed before its write was done."""
    root = Path(settings.lake)
    found = [name for table in root.glob("*/_delta_log") for name in _uncommitted(table)]
    for folder in (settings.raw, settings.work):
        found += [str(file) for file in folder.rglob(".*") if file.is_file() and file.suffix != ".lock"]
    known = set(lake_of(settings).read(LANDED_FILES)["path"].to_pylist())
    objects = (file for file in settings.raw.glob("*/*/[!.]*") if file.is_file())
    found += [str(file) for file in objects if str(file.relative_to(settings.raw)) not in known]
    for file in settings.work.glob("*/*/parsed.parquet"):
        if not _is_vouched_for(file):
            found.append(str(file))
    return found


def _uncommitted(log: Path) -> list[str]:
    """Data files of a table that its log does not name, and entries that never became part of the log."""
    named = set()
    for entry in log.glob("*.json"):
        if LOG_ENTRY.fullmatch(entry.name):
            actions = map(json.loads, entry.read_text().splitlines())
            named |= {action["add"]["path"] for action in actions if "add" in action}
    table = log.parent
    data = (str(file.relative_to(table)) for file in table.glob("*/*") if file.parent != log)
    entries = (entry.name for entry in log.iterdir() if not LOG_ENTRY.fullmatch(entry.name))
    return [*(f"{table.name}/{name}" for name in data if name not in named), *entries]


def _is_vouched_for(parsed: Path) -> bool:
    try:
        verdict = json.loads(parsed.with_name("validation.json").read_text())
    except (FileNotFoundError, ValueError):
        return False
    return bool(verdict["parsed_digest"] == hashlib.sha256(parsed.read_bytes()).hexdigest())


def fingerprint(settings: Settings) -> tuple[int, int]:
    """Changes as soon as a file of lake, raw or work appears or goes; cheap enough to look all the time."""
    count = names = 0
    waiting = [settings.lake, str(settings.raw), str(settings.work)]
    while waiting:
        try:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    if entry.name.endswith(".lock"):
                        continue
                    count += 1
                    names ^= hash(entry.path)
                    if entry.is_dir():
                        waiting.append(entry.path)
        except (FileNotFoundError, NotADirectoryError):
            continue
    return count, names
