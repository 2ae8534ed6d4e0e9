"""The account of a full run notices what was skipped and what did not run."""

from __future__ import annotations

from tests.conftest import problems

REASON = "the handbook data set is not beside the project"
EXPECTED = {"tests": 3, "may_be_skipped": {"a::needs_data": {"needs": "data", "reason": REASON}}}


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
    listed = {"tests": 2, "may_be_skipped": {"a": {"needs": "go", "reason": "no Go"}}}
    skipped = {"a::one": "Skipped: no Go", "a::two[x]": "Skipped: no Go"}
    assert problems(0, skipped, listed, there=set()) == []
    assert len(problems(0, skipped, listed, there={"go"})) == 2
