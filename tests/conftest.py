"""Fixtures that every test may use, and the account of a full run: how many tests ran, which were skipped."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from xdist.scheduler import LoadScopeScheduling

from jobs.conf.settings import Settings, load_settings
from tests import browser, redis_server
from tests.account import NO_TIME, account, is_late, place_of, problems, together
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


class InOrder(LoadScopeScheduling):
    """Two processes take what belongs together in a piece, in the order of the run."""

    def _split_scope(self, nodeid: str) -> str:
        return together(nodeid, account())


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> InOrder:
    config.option.loadscopereorder = False
    return InOrder(config, log)


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    if not session.config.getoption("--full") or hasattr(session.config, "workerinput"):
        return
    reporter: Any = session.config.pluginmanager.get_plugin("terminalreporter")
    passed = len(reporter.stats.get("passed", []))
    skipped = {report.nodeid: str(report.longrepr[2]) for report in reporter.stats.get("skipped", [])}
    found = problems(passed, skipped, account(), on_this_machine(account()))
    for problem in found:
        reporter.write_line(f"account of the run: {problem}", red=True)
    if found and exitstatus == 0:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
