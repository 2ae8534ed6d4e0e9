"""Fixtures that every test may use, and the account of a full run: how many tests ran, which were skipped."""

from __future__ import annotations

import os
import shutil
import time
from functools import cache
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import yaml

from jobs.conf.settings import Settings, load_settings
from tests import browser, redis_server
from tests.benchmarks import serving_load
from tests.faults.disks import can_mount
from tests.lake_server import BINARY

# how long an example takes is the machine's matter, and no test's
hypothesis.settings.register_profile("no deadline", deadline=None)
hypothesis.settings.load_profile("no deadline")

# Every Spark that a test starts has frames of a few rows: no code runs long enough to be worth Java's
# optimizing compiler, which takes a third of all processor time. The code cache stays as large as with it.
os.environ.setdefault("JAVA_TOOL_OPTIONS", "-XX:TieredStopAtLevel=1 -XX:ReservedCodeCacheSize=240m")

TESTS = Path(__file__).parent
HANDBOOK = TESTS.parents[1] / "shared" / "data" / "handbook"
EXPECTED = TESTS / "expected.yaml"
BEGUN = time.monotonic()
NO_TIME = "no time is left for it"


@pytest.fixture
def home(tmp_path: Path) -> Settings:
    """Settings of an empty installation in a folder of its own."""
    return load_settings(
        {
            "SLUICE_HOME": str(tmp_path / "home"),
            "SLUICE_SOURCE_URI": str(tmp_path / "source" / "transactions"),
            "SLUICE_LABELS_URI": str(tmp_path / "source" / "labels"),
        }
    )


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--full",
        action="store_true",
        help="every test must run: compare the account with tests/expected.yaml",
    )


def problems(passed: int, skipped: dict[str, str], expected: dict[str, Any], there: set[str]) -> list[str]:
    """What a full run did otherwise than expected.yaml says; empty where all is well.

    `there`: which of the things that tests may need are on this machine. An entry names a test or a file.
    """
    allowed: dict[str, dict[str, Any]] = expected["may_be_skipped"]
    found = []
    for test, reason in skipped.items():
        entry = next((allowed[name] for name in names_of(test) if name in allowed), None)
        if NO_TIME in reason:
            entry = {"needs": "time", "reason": NO_TIME} if place_of(test, expected) else None
        if entry is None:
            found.append(f"{test} was skipped and may not be: {reason}")
        elif entry["reason"] not in reason:
            found.append(f"{test} was skipped for another reason than expected: {reason}")
        elif entry["needs"] in there:
            found.append(f"{test} was skipped though what it needs is there: {entry['needs']}")
    if passed + len(skipped) != expected["tests"]:
        found.append(
            f"{passed} tests passed and {len(skipped)} were skipped; {expected['tests']} are expected: "
            "where a test was added or removed on purpose, change tests/expected.yaml with it"
        )
    return found


def names_of(test: str) -> tuple[str, str, str]:
    """What may stand for a test in expected.yaml: its case, the test, its file."""
    return test, test.partition("[")[0], test.partition("::")[0]


def place_of(test: str, expected: dict[str, Any]) -> int:
    """Where a test stands among those that come last; 0: it is none of them."""
    last: list[str] = expected["last"]
    return next((last.index(name) + 1 for name in names_of(test) if name in last), 0)


def is_late(expected: dict[str, Any]) -> bool:
    """The run has taken so long that what comes last is left out."""
    return time.monotonic() - BEGUN > expected["minutes"] * 60


@cache
def account() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(EXPECTED.read_text())
    return found


def on_this_machine(expected: dict[str, Any]) -> set[str]:
    """Which of the things that tests may need are there."""
    found = {"data": HANDBOOK.exists(), "go": BINARY.exists() or shutil.which("go"), "root": can_mount()}
    found["redis"] = bool(redis_server.binary())
    found["browser"] = bool(browser.binary())
    found["load"] = not serving_load.why_not()
    found["time"] = not is_late(expected)
    return {name for name, is_there in found.items() if is_there}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What a slow machine may leave out comes last."""
    if config.getoption("--full"):
        items.sort(key=lambda item: place_of(item.nodeid, account()))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Before its fixtures: a test that comes last is left out of a run that would be cut off otherwise."""
    if not item.config.getoption("--full"):
        return
    if place_of(item.nodeid, account()) and is_late(account()):
        pytest.skip(f"{NO_TIME} after {account()['minutes']} minutes; run it by itself")


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    if not session.config.getoption("--full"):
        return
    reporter: Any = session.config.pluginmanager.get_plugin("terminalreporter")
    passed = len(reporter.stats.get("passed", []))
    skipped = {report.nodeid: str(report.longrepr[2]) for report in reporter.stats.get("skipped", [])}
    found = problems(passed, skipped, account(), on_this_machine(account()))
    for problem in found:
        reporter.write_line(f"account of the run: {problem}", red=True)
    if found and exitstatus == 0:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
