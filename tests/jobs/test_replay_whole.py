"""`sluice replay` as a person calls it: to an earlier day and then on gives what one go gives."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import subprocess
import sys
from contextlib import suppress
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest

from jobs.conf.settings import load_settings
from jobs.replay.data import run_job
from jobs.replay.page import page

pytest_plugins = ("tests.spark_server",)
ROOT = Path(__file__).parents[2]
FIRST = date(2026, 1, 1)
FROM = FIRST + timedelta(days=13)  # as many days as the smallest training needs lie before it
CLOSED, EARLY, LAST = (FROM + timedelta(days=number) for number in (2, 3, 4))
LATE_ROWS = 20
# one quick training that serves at once, and a monitor
RULES = """
training: {test_days: 2, validation_days: 1, calibration_days: 1}
tuning: {trials: 2, workers: 1, max_units: 2, grace_units: 1}
performance: {window_days: 2, bootstrap_samples: 100}
gate: {bootstrap_samples: 100}
replay: {promotion: direct, bootstrap_samples: 100}
"""


def write_source(folder: Path, name: str) -> dict[str, str]:
    """Files of each day; some rows of two of them come with the file of the day after."""
    settings = {
        "SLUICE_SOURCE_URI": str(folder / "transactions"),
        "SLUICE_LABELS_URI": str(folder / "labels"),
        "SLUICE_FIRST_DAY": str(FIRST),
    }
    arguments = {
        "first_day": FIRST,
        "last_day": LAST,
        "destination": settings["SLUICE_SOURCE_URI"],
        "labels_destination": settings["SLUICE_LABELS_URI"],
        "rows_per_day": 700,  # enough to measure drift by
        "failing_day": CLOSED,
        "new_pattern_from": FROM,
    }
    run_job(load_settings(settings), "simulate_source", arguments)
    for day in (EARLY, CLOSED):
        own, after = (
            folder / "transactions" / name.format(day=each) for each in (day, day + timedelta(days=1))
        )
        lines = own.read_text().splitlines(keepends=True)
        late = [line for line in lines[100 : 100 + LATE_ROWS] if ",," not in line]  # with their customer
        own.write_text("".join(line for line in lines if line not in late))
        after.write_text(after.read_text() + "".join(late))
    return settings


def called(settings: dict[str, str], folder: Path, last: date, home: str) -> str:
    """What one call shows on a terminal."""
    ours, theirs = pty.openpty()
    command = [
        sys.executable, "-m", "jobs", "replay", "--from", str(FROM), "--to", str(last),
        "--policy", str(folder / "quick.yaml"), "--scenario", str(folder / "scenario.yaml"),
        "--home", str(folder / home),
    ]  # fmt: skip
    environment = {**os.environ, **settings, "TERM": "xterm", "COLUMNS": "120"}
    calling = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=theirs, stderr=theirs)
    os.close(theirs)
    shown = b""
    with suppress(OSError):  # the other side is gone
        while part := os.read(ours, 65_536):
            shown += part
    os.close(ours)
    assert calling.wait() == 0, shown.decode()
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown.decode())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("replay")


@pytest.fixture(scope="module")
def shown(folder: Path, spark_remote: str) -> list[str]:
    """What the terminal shows: to an earlier day, on from there, and to the end in one go.

    The last call finds the tables of the others: that they do not depend on the order in which days come is
    tested where they are built. Vectors it has none, and its policy starts with nothing.
    """
    settings = write_source(folder, "{day}.csv") | {
        "SLUICE_HOME": str(folder / "home"),
        "SLUICE_SPARK_REMOTE": spark_remote,
    }
    (folder / "quick.yaml").write_text(RULES)
    (folder / "scenario.yaml").write_text(f"drift_days: [{FROM}]\n")
    parts = [called(settings, folder, last, "parts") for last in (EARLY, LAST)]
    (data,) = (folder / "parts").glob("data-*")
    shutil.copytree(data, folder / "whole" / data.name, ignore=shutil.ignore_patterns("vectors"))
    return [*parts, called(settings, folder, LAST, "whole")]


def result(folder: Path, home: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / home / "replay.json").read_text())
    return found


def test_a_replay_that_goes_on_to_a_later_day_leaves_what_one_in_one_go_leaves(
    folder: Path, shown: list[str]
) -> None:
    assert len(shown) == 3
    policy = result(folder, "whole")["policies"]["quick"]
    assert policy["counts"]["trainings"] >= 1
    assert policy["counts"]["days_monitored"] == (LAST - FROM).days
    assert any(day["largest_psi"] for day in policy["days"])
    assert (folder / "parts" / "replay.json").read_bytes() == (folder / "whole" / "replay.json").read_bytes()


def test_rows_that_come_late_are_traffic_of_their_day_and_a_day_that_is_not_published_has_none(
    folder: Path, shown: list[str]
) -> None:
    assert len(shown) == 3
    for home in ("whole", "parts"):
        rows = {
            day: json.loads((folder / home / "policies" / "quick" / "days" / f"{day}.json").read_text())[
                "rows"
            ]
            for day in (CLOSED, EARLY)
        }
        assert rows[CLOSED] == 0
        assert rows[EARLY] > 300


def test_on_a_terminal_a_bar_counts_the_days(shown: list[str]) -> None:
    days = (LAST - FROM).days + 1
    assert re.search(rf"quick .*\b\d/{days}", shown[-1])
    assert re.search(rf"data of {FIRST}", shown[0])


def test_the_page_and_the_seconds_are_of_all_parts(folder: Path, shown: list[str]) -> None:
    seconds = json.loads((folder / "parts" / "seconds.json").read_text())
    parts, *more = seconds["data"].values()
    assert not more
    assert set(parts) == {"build", "join", "take in"}
    assert seconds["policies"]["quick"]["seconds_of_trainings_a_day_with_one"] > 1
    assert page(result(folder, "parts"), seconds) == (folder / "parts" / "replay.html").read_text()
