"""A step of a promotion waits without a worker slot, and goes on where it was after everything was killed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
import structlog
from airflow.callbacks.callback_requests import DagCallbackRequest
from airflow.dag_processing.processor import _execute_dag_callbacks
from airflow.providers.standard.triggers.temporal import TimeDeltaTrigger
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowTaskTimeout, TaskDeferred

from jobs.alerts import Alert
from jobs.promotion import roll_back as jobs_roll_back
from plugins import callbacks, operators
from plugins.operators import GateFailure, PromotionStepOperator

AWAY = AirflowException("MLflow does not answer")
Answer = str | BaseException


class Jobs:
    """Answers of the two jobs of a step; the jobs themselves are tested on a real registry."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *answers: Answer) -> None:
        self.left, self.calls = list(answers), list[str]()
        monkeypatch.setattr(operators, "call_job", self.call)

    def call(self, job: str, arguments: dict[str, Any]) -> dict[str, Any]:
        assert arguments == {"version": "7", "step": "canary_5"}
        self.calls.append(job)
        answer = self.left.pop(0)
        if isinstance(answer, BaseException):
            raise answer
        return {"facts": {"outcome": answer}}


def operator() -> PromotionStepOperator:
    return PromotionStepOperator(
        task_id="run_canary_5", arguments={"version": "7", "step": "canary_5"}, poll_seconds=30.0,
        ends_after=timedelta(days=10),
    )  # fmt: skip


def context(days: float = 0.0) -> Any:
    """Of a run that started so many days ago."""
    started = datetime.now(UTC) - timedelta(days=days)
    return {"task": operator(), "dag_run": SimpleNamespace(run_id="r1", start_date=started)}


def held(method: str = "execute", **state: int) -> TaskDeferred:
    """The deferral of a look, as Airflow makes it: a new operator, and what the last one stored."""
    with pytest.raises(TaskDeferred) as waiting:
        getattr(operator(), method)(context(), **state)
    return waiting.value


def looks(times: int) -> TaskDeferred:
    """A step that is looked at so many times, and held each time."""
    wait = held()
    for _ in range(times - 1):
        wait = held(wait.method_name, **(wait.kwargs or {}))
    return wait


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[Alert]:
    found: list[Alert] = []
    monkeypatch.setattr(callbacks, "raise_alerts", lambda _, alerts: found.extend(alerts))
    return found


def test_an_undecided_step_defers_and_a_new_process_goes_on_from_the_stored_trigger(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    jobs = Jobs(monkeypatch, "running", "inconclusive", "inconclusive", "pass")
    with pytest.raises(TaskDeferred) as waiting:
        operator().execute(context())
    # what the database keeps is enough: a new operator in a new process, and no state of the old one
    path, arguments = waiting.value.trigger.serialize()
    assert path.endswith("DateTimeTrigger")
    assert arguments["moment"]
    assert isinstance(waiting.value.trigger, TimeDeltaTrigger)
    method = waiting.value.method_name
    with pytest.raises(TaskDeferred) as again:
        getattr(operator(), method)(context(), None)
    assert again.value.method_name == method
    assert getattr(operator(), method)(context(), None) == {"facts": {"outcome": "pass"}}
    assert jobs.calls == ["start_step", "judge_step", "judge_step", "judge_step"]


def test_a_step_that_was_passed_before_a_restart_is_not_judged_again(monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = Jobs(monkeypatch, "pass")
    operator().execute(context())
    assert jobs.calls == ["start_step"]


def test_a_registry_that_is_away_at_the_start_holds_the_step_which_is_started_afterwards(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    jobs = Jobs(monkeypatch, AWAY, "running", "pass")
    wait = held()
    assert getattr(operator(), wait.method_name)(context(), None, **wait.kwargs)["facts"]["outcome"] == "pass"
    assert jobs.calls == ["start_step", "start_step", "judge_step"]


@pytest.mark.parametrize(
    "trouble", [AWAY, ValueError("a bug of a library"), AirflowTaskTimeout("the lake hangs")]
)
def test_trouble_of_a_look_is_no_verdict_and_the_running_step_is_judged_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, trouble: BaseException
) -> None:
    jobs = Jobs(monkeypatch, "running", trouble, "pass")
    wait = held()
    assert str(trouble) in caplog.text
    assert isinstance(wait.trigger, TimeDeltaTrigger)
    assert getattr(operator(), wait.method_name)(context(), None, **wait.kwargs)["facts"]["outcome"] == "pass"
    assert jobs.calls == ["start_step", "judge_step", "judge_step"]


@pytest.mark.parametrize("before", [(), ("running",)])
def test_a_closed_gate_fails_the_step_at_once_and_keeps_the_page_that_shows_why(
    monkeypatch: pytest.MonkeyPatch, before: tuple[str, ...]
) -> None:
    Jobs(monkeypatch, *before, GateFailure("too slow", "promotions/7.html"))
    step = operator()
    with pytest.raises(GateFailure, match="too slow"):
        step.execute(context())
    assert step.report == "promotions/7.html"


def test_trouble_that_lasts_is_told_its_owner_as_one_alert_of_the_step(
    monkeypatch: pytest.MonkeyPatch, told: list[Alert]
) -> None:
    Jobs(monkeypatch, AWAY, AWAY, "running", *[AWAY] * 4)
    wait = looks(2)
    assert not told  # a restart is no news
    wait = held(wait.method_name, **(wait.kwargs or {}))
    wait = held(wait.method_name, **(wait.kwargs or {}))
    assert not told  # it had answered in between
    for _ in range(2):
        wait = held(wait.method_name, **(wait.kwargs or {}))
    assert {alert.key.split("/", 1)[0] for alert in told} == {"step-held"}
    assert len({alert.key for alert in told}) == 1
    assert "MLflow does not answer" in told[0].cause


@pytest.mark.parametrize("answers", [("running", "inconclusive"), (AWAY,)])
def test_a_step_that_is_held_fails_once_its_promotion_has_taken_too_long(
    monkeypatch: pytest.MonkeyPatch, answers: tuple[Answer, ...]
) -> None:
    Jobs(monkeypatch, *answers, *answers)
    with pytest.raises(TaskDeferred):
        operator().execute(context(days=9.9))
    with pytest.raises(AirflowFailException, match="the step is held"):
        operator().execute(context(days=10.1))


@pytest.fixture
def taken_back(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What is taken back while version 7 is in its canary."""
    found: list[dict[str, Any]] = []
    running = {"version": "7", "promotion_id": "p1"}
    monkeypatch.setattr(jobs_roll_back, "running_promotion", lambda _: running)
    monkeypatch.setattr(operators, "call_job", lambda job, arguments: found.append({"job": job, **arguments}))
    return found


def cut_off(reason: str) -> Any:
    """What the DAG processor gives to the callback of a DAG."""
    return {"dag": SimpleNamespace(dag_id="fraud_promote"), "run_id": "r1", "reason": reason}


def test_a_run_that_airflow_cut_off_is_told_and_its_version_taken_back(
    told: list[Alert], taken_back: list[dict[str, Any]]
) -> None:
    callbacks.take_back_what_was_cut_off(cut_off("timed_out"))
    assert [alert.key for alert in told] == ["promotion-cut-off/fraud_promote/r1"]
    assert [(each["job"], each["version"], each["promotion_id"]) for each in taken_back] == [
        ("roll_back", "7", "p1")
    ]


def test_airflow_calls_back_for_a_run_that_it_cuts_off(
    dag_bag: Any, told: list[Alert], taken_back: list[dict[str, Any]]
) -> None:
    request = DagCallbackRequest(
        filepath="fraud_promote.py", dag_id="fraud_promote", run_id="r1", bundle_name="dags",
        bundle_version=None, is_failure_callback=True, msg="timed_out",
    )  # fmt: skip
    _execute_dag_callbacks(dag_bag, request, structlog.get_logger())
    assert [alert.key for alert in told] == ["promotion-cut-off/fraud_promote/r1"]
    assert len(taken_back) == 1


def test_a_run_that_failed_by_a_task_has_taken_back_itself(
    told: list[Alert], taken_back: list[dict[str, Any]]
) -> None:
    callbacks.take_back_what_was_cut_off(cut_off("task_failure"))
    assert (told, taken_back) == ([], [])


def test_an_alert_that_cannot_be_recorded_leaves_no_version_in_traffic(
    monkeypatch: pytest.MonkeyPatch, taken_back: list[dict[str, Any]]
) -> None:
    def full(*_: Any) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(callbacks, "raise_alerts", full)
    callbacks.take_back_what_was_cut_off(cut_off("timed_out"))
    assert len(taken_back) == 1


def test_an_alert_that_cannot_be_recorded_does_not_end_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(callbacks, "raise_alerts", full)
    Jobs(monkeypatch, *[AWAY] * 4)
    assert looks(4).method_name == "start"
