"""The account of a full run: how many tests ran, which were left out and why, against expected.yaml."""

from __future__ import annotations

import time
from collections.abc import Collection
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
        entry = allowed.get(named(test, allowed))
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


def named(test: str, listed: Collection[str]) -> str:
    """The entry that stands for a test: its case, the test or its file; empty where there is none."""
    names = test, test.partition("[")[0], test.partition("::")[0]
    return next((name for name in names if name in listed), "")


def place_of(test: str, expected: dict[str, Any]) -> int:
    """Where a test stands among those that come last; 0: it is none of them."""
    last: list[str] = expected["last"]
    entry = named(test, last)
    return last.index(entry) + 1 if entry else 0


def is_late(expected: dict[str, Any]) -> bool:
    """The run has taken so long that what comes last is left out."""
    return time.monotonic() - BEGUN > expected["minutes"] * 60


@cache
def account() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(EXPECTED.read_text())
    return found


def together(test: str, expected: dict[str, Any]) -> str:
    """What one process runs in a piece: a file, a folder of one installation, or a test that comes last."""
    folder = next((folder for folder in SHARED if test.startswith(f"{folder}/")), "")
    return named(test, expected["last"]) or folder or test.partition("::")[0]
