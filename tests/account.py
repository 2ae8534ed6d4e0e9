"""The account of a full run: how many tests ran, which were left out and why, against expected.yaml."""

from __future__ import annotations

import time
from functools import cache
from pathlib import Path
from typing import Any

import yaml

EXPECTED = Path(__file__).parent / "expected.yaml"
BEGUN = time.monotonic()
NO_TIME = "no time is left for it"
SHARED = ("tests/e2e",)  # folders whose files stand on one installation


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


def together(test: str, expected: dict[str, Any]) -> str:
    """What one process runs in a piece: a file, a folder of one installation, or a test that comes last."""
    last: list[str] = expected["last"]
    named = next((name for name in names_of(test) if name in last), None)
    folder = next((folder for folder in SHARED if test.startswith(f"{folder}/")), None)
    return named or folder or test.partition("::")[0]
