"""Fixtures that every test may use, and the account of a full run: how many tests ran, which were skipped."""

from __future__ import annotations

import os
import shutil
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
        entry = (
            allowed.get(test) or allowed.get(test.partition("[")[0]) or allowed.get(test.partition("::")[0])
        )
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


def on_this_machine() -> set[str]:
    """Which of the things that tests may need are there."""
    found = {"data": HANDBOOK.exists(), "go": BINARY.exists() or shutil.which("go"), "root": can_mount()}
    found["redis"] = bool(redis_server.binary())
    found["browser"] = bool(browser.binary())
    found["load"] = not serving_load.why_not()
    return {name for name, is_there in found.items() if is_there}


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    if not session.config.getoption("--full"):
        return
    reporter: Any = session.config.pluginmanager.get_plugin("terminalreporter")
    passed = len(reporter.stats.get("passed", []))
    skipped = {report.nodeid: str(report.longrepr[2]) for report in reporter.stats.get("skipped", [])}
    found = problems(passed, skipped, yaml.safe_load(EXPECTED.read_text()), on_this_machine())
    for problem in found:
        reporter.write_line(f"account of the run: {problem}", red=True)
    if found and exitstatus == 0:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
