"""The account of a full run notices what was skipped and what did not run."""

from __future__ import annotations

import time

import pytest

from tests import account as counted
from tests.account import NO_TIME, account, is_late, place_of, problems, together

REASON = "the handbook data set is not beside the project"
EXPECTED = {
    "tests": 3,
    "minutes": 60,
    "last": ["c::long", "d"],
    "may_be_skipped": {"a::needs_data": {"needs": "data", "reason": REASON}},
}


def test_a_run_of_all_tests_has_no_problem() -> None:
    assert problems(3, {}, EXPECTED, there={"data"}) == []


def test_a_listed_test_may_be_skipped_where_its_data_is_absent() -> None:
    assert problems(2, {"a::needs_data": f"Skipped: {REASON}"}, EXPECTED, there=set()) == []


def test_a_listed_test_may_not_be_skipped_where_its_data_is_there() -> None:
    assert len(problems(2, {"a::needs_data": f"Skipped: {REASON}"}, EXPECTED, there={"data"})) == 1


def test_another_test_may_not_be_skipped() -> None:
    assert len(problems(2, {"b::other": "Skipped: no time"}, EXPECTED, there=set())) == 1


def test_a_test_may_not_be_skipped_for_another_reason() -> None:
    assert len(problems(2, {"a::needs_data": "Skipped: no time"}, EXPECTED, there=set())) == 1


def test_a_test_that_did_not_run_is_noticed() -> None:
    assert len(problems(2, {}, EXPECTED, there={"data"})) == 1


def test_a_listed_file_stands_for_all_of_its_tests() -> None:
    listed = EXPECTED | {"tests": 2, "may_be_skipped": {"a": {"needs": "go", "reason": "no Go"}}}
    skipped = {"a::one": "Skipped: no Go", "a::two[x]": "Skipped: no Go"}
    assert problems(0, skipped, listed, there=set()) == []
    assert len(problems(0, skipped, listed, there={"go"})) == 2


def test_what_comes_last_may_be_left_out_of_a_run_that_is_late_and_nothing_else() -> None:
    left_out = {"c::long[x]": f"Skipped: {NO_TIME}", "d::any": f"Skipped: {NO_TIME}"}
    assert problems(1, left_out, EXPECTED, there=set()) == []
    assert len(problems(1, left_out, EXPECTED, there={"time"})) == 2
    assert len(problems(2, {"c::short": f"Skipped: {NO_TIME}"}, EXPECTED, there=set())) == 1


def test_what_comes_last_has_an_order() -> None:
    names = ["d::any", "c::long[x]", "c::short", "a::needs_data"]
    assert sorted(names, key=lambda name: place_of(name, EXPECTED)) == [
        "c::short", "a::needs_data", "c::long[x]", "d::any",
    ]  # fmt: skip


def test_a_run_is_late_after_its_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    for minutes, late in ((59, False), (61, True)):
        monkeypatch.setattr(counted, "BEGUN", time.monotonic() - minutes * 60)
        assert is_late(EXPECTED) is late


def test_everything_that_comes_last_is_there() -> None:
    root = counted.EXPECTED.parents[1]
    for name in account()["last"]:
        file, _, test = name.partition("::")
        assert f"def {test}" in (root / file).read_text(), name


def test_one_process_runs_a_file_what_stands_on_one_installation_and_what_comes_last_in_a_piece() -> None:
    pieces = {
        "tests/jobs/test_a.py::one": "tests/jobs/test_a.py",
        "tests/e2e/test_a.py::one": "tests/e2e",
        "c::long[x]": "c::long",
        "c::short": "c",
        "d::any": "d",
    }
    assert {test: together(test, EXPECTED) for test in pieces} == pieces
