"""A step of a promotion waits without a worker slot, and goes on where it was after everything was killed."""

from __future__ import annotations

from typing import Any

import pytest
from airflow.providers.standard.triggers.temporal import TimeDeltaTrigger
from airflow.sdk.exceptions import TaskDeferred

from plugins import operators
from plugins.operators import PromotionStepOperator


class Jobs:
    """Answers of the two jobs of a step; the jobs themselves are tested on a real registry."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *outcomes: str) -> None:
        self.left, self.calls = list(outcomes), list[str]()
        monkeypatch.setattr(operators, "call_job", self.call)

    def call(self, job: str, arguments: dict[str, Any]) -> dict[str, Any]:
        assert arguments == {"version": "7", "step": "canary_5"}
        self.calls.append(job)
        return {"facts": {"outcome": self.left.pop(0)}}


def operator() -> PromotionStepOperator:
    return PromotionStepOperator(
        task_id="run_canary_5", arguments={"version": "7", "step": "canary_5"}, poll_seconds=30.0
    )


def test_an_undecided_step_defers_and_a_new_process_goes_on_from_the_stored_trigger(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    jobs = Jobs(monkeypatch, "running", "inconclusive", "inconclusive", "pass")
    with pytest.raises(TaskDeferred) as waiting:
        operator().execute({})
    # what the database keeps is enough: a new operator in a new process, and no state of the old one
    path, arguments = waiting.value.trigger.serialize()
    assert path.endswith("DateTimeTrigger")
    assert arguments["moment"]
    assert isinstance(waiting.value.trigger, TimeDeltaTrigger)
    method = waiting.value.method_name
    with pytest.raises(TaskDeferred) as again:
        getattr(operator(), method)({}, None)
    assert again.value.method_name == method
    assert getattr(operator(), method)({}, None) == {"facts": {"outcome": "pass"}}
    assert jobs.calls == ["start_step", "judge_step", "judge_step", "judge_step"]


def test_a_step_that_was_passed_before_a_restart_is_not_judged_again(monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = Jobs(monkeypatch, "pass")
    operator().execute({})
    assert jobs.calls == ["start_step"]
