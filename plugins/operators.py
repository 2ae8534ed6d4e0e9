"""A task is one call to one job: it takes receipts and returns a receipt."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NoReturn

from airflow.providers.standard.exceptions import HITLRejectException, HITLTimeoutError
from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.providers.standard.triggers.temporal import TimeDeltaTrigger
from airflow.sdk import Asset, BaseOperator
from airflow.sdk.exceptions import (
    AirflowException,
    AirflowFailException,
    AirflowSkipException,
    AirflowTaskTimeout,
    TaskDeferred,
)
from airflow.sdk.timezone import utcnow

from plugins.callbacks import report_held
from plugins.links import ReportLink
from plugins.s3_connection import take_s3_connection

if TYPE_CHECKING:
    from airflow.sdk import Context

Receipt = dict[str, Any]
TROUBLES_TOLD = 3  # failed looks in a row before a person hears of them: a restart is no news
log = logging.getLogger(__name__)


class GateFailure(AirflowFailException):
    """A closed gate: final, with the page that shows why."""

    def __init__(self, sentence: str, report: str) -> None:
        super().__init__(sentence)
        self.report = report


def call_job(job: str, arguments: dict[str, Any]) -> Receipt:
    """Run a job and translate its errors: a closed gate is final, everything else may be tried again.

    A job that has nothing to do is skipped, with all that follows it.

    Empty arguments are left to the job's own defaults.
    """
    from jobs.core import GateClosed, NothingToDo, SluiceError
    from jobs.registry import run_job

    take_s3_connection()
    given = {name: value for name, value in arguments.items() if value not in ("", None)}
    try:
        receipt = run_job(job, given)
    except GateClosed as error:
        raise GateFailure(str(error), error.report) from None
    except NothingToDo as error:
        raise AirflowSkipException(str(error)) from None
    except SluiceError as error:
        raise AirflowException(str(error)) from None
    log.info("receipt %s", receipt.model_dump_json())
    return receipt.model_dump(mode="json")


class JobOperator(BaseOperator):
    """Runs a job with rendered arguments.

    Args:
        job: name of the job, see `sluice --list`.
        arguments: parameters of the job, rendered by Jinja.
        mapped: further parameters, one mapped task for each.
        after: receipts of the tasks that must have succeeded before.
        publishes: by-day asset whose event carries the argument `day` as its partition.
    """

    template_fields: Sequence[str] = ("arguments", "after")
    operator_extra_links = (ReportLink(),)
    ui_color = "#e8f0fe"

    def __init__(
        self,
        *,
        job: str,
        arguments: dict[str, Any] | None = None,
        mapped: dict[str, Any] | None = None,
        after: Sequence[Any] = (),
        publishes: Asset | None = None,
        **operator: Any,
    ) -> None:
        if publishes is not None:
            operator["outlets"] = [publishes]
        super().__init__(**operator)
        self.job = job
        self.arguments = arguments or {}
        self.mapped = mapped or {}
        self.after = list(after)
        self.publishes = publishes
        self.report = ""

    def execute(self, context: Context) -> Receipt:
        try:
            receipt = call_job(self.job, {**self.arguments, **self.mapped})
        except GateFailure as failure:
            self.report = failure.report  # for the link: a task that failed has no receipt
            raise
        if self.publishes is not None and context["dag_run"].partition_key is None:
            context["outlet_events"][self.publishes].add_partitions(self.arguments["day"])
        return receipt


class RetrainingRequestOperator(BaseOperator):
    """Emits the asset event that starts a training, where the monitor's receipt asks for one."""

    template_fields: Sequence[str] = ("decision",)

    def __init__(self, *, decision: Any, requests: Asset, **operator: Any) -> None:
        super().__init__(outlets=[requests], **operator)
        self.decision = decision
        self.requests = requests

    def execute(self, context: Context) -> Receipt:
        facts = self.decision["facts"]
        if facts["decision"] != "retrain" or facts["repeated"]:
            raise AirflowSkipException(f"no retraining: {facts['decision']}: {facts['reason']}")
        request = {
            "day": self.decision["partition"],
            "reason": f"monitor: {facts['reason']}",
            "start": facts["start"],
        }
        context["outlet_events"][self.requests].extra = request
        return request


class PersonApprovalOperator(ApprovalOperator):
    """Asks a person to approve a version, unless its gate says that nobody needs to be asked.

    The answer is recorded with the version: who approved it, and when.
    """

    template_fields: Sequence[str] = (*ApprovalOperator.template_fields, "checked", "version")

    def __init__(self, *, checked: Any, version: str, **operator: Any) -> None:
        # the wait for a person ends with response_timeout; a deadline on the task would cut it short
        super().__init__(fail_on_reject=True, execution_timeout=None, **operator)
        self.checked = checked
        self.version = version

    def execute(self, context: Context) -> Any:
        facts = self.checked["facts"]
        if not facts["needs_person"] or facts["approved"]:
            return {"approval": "not needed" if not facts["needs_person"] else "given before"}
        return super().execute(context)

    def execute_complete(self, context: Context, event: dict[str, Any]) -> Receipt:
        try:
            answer = super().execute_complete(context, event)
        except (HITLRejectException, HITLTimeoutError) as error:
            # an answer, or none in time: asking again would not make it another one
            raise AirflowFailException(str(error)) from None
        person, moment = answer["responded_by_user"], answer["responded_at"]
        return call_job(
            "record_approval",
            {"version": self.version, "person": person["name"], "at": moment.isoformat()},
        )


class SwapApprovalOperator(ApprovalOperator):
    """Asks a person whether a validated backfill may be swapped in; a dry run ends here.

    Gives who approved it, and when.
    """

    template_fields: Sequence[str] = (*ApprovalOperator.template_fields, "validated", "dry_run")

    def __init__(self, *, validated: Any, dry_run: str, **operator: Any) -> None:
        super().__init__(fail_on_reject=True, execution_timeout=None, **operator)
        self.validated = validated
        self.dry_run = dry_run

    def execute(self, context: Context) -> Any:
        if self.dry_run != "False":
            raise AirflowSkipException(f"dry run: {self.validated['facts']['next_step']}")
        return super().execute(context)

    def execute_complete(self, context: Context, event: dict[str, Any]) -> Receipt:
        try:
            answer = super().execute_complete(context, event)
        except (HITLRejectException, HITLTimeoutError) as error:
            raise AirflowFailException(str(error)) from None
        return {"person": answer["responded_by_user"]["name"], "at": answer["responded_at"].isoformat()}


class PromotionStepOperator(JobOperator):
    """One step of a promotion: starts it, waits without a worker slot, and judges it until it is decided.

    Only the gate ends a step, and the time that its promotion may take. A registry or a lake that does not
    answer is a missing figure: it holds the step where it was, and costs none of its tries.

    Args:
        poll_seconds: between two looks.
        ends_after: since the run's start: a step that is held still fails then, and is taken back.
    """

    def __init__(self, *, poll_seconds: float, ends_after: timedelta, **operator: Any) -> None:
        super().__init__(job="judge_step", **operator)
        self.poll_seconds = poll_seconds
        self.ends_after = ends_after

    def execute(self, context: Context) -> Receipt:
        return self.start(context)

    def start(self, context: Context, event: Any = None, troubles: int = 0) -> Receipt:
        """Start the step, or find it running or passed; `troubles` counts the looks in a row that failed."""
        started = self._answer("start_step", context, "start", troubles)
        if started["facts"]["outcome"] == "pass":
            return started
        return self.judge(context)

    def judge(self, context: Context, event: Any = None, troubles: int = 0) -> Receipt:
        """Look again; an inconclusive step is held: neither advanced nor given up."""
        receipt = self._answer(self.job, context, "judge", troubles)
        if receipt["facts"]["outcome"] == "inconclusive":
            self._look_again(context, "judge")
        return receipt

    def _answer(self, job: str, context: Context, method: str, troubles: int) -> Receipt:
        try:
            return call_job(job, self.arguments)
        except GateFailure as failure:
            self.report = failure.report
            raise
        except (Exception, AirflowTaskTimeout) as trouble:  # whatever it is, it says nothing about a version
            log.warning("%s gave no verdict, the step is held: %s", job, trouble, exc_info=trouble)
            if troubles + 1 >= TROUBLES_TOLD:
                report_held(context, trouble)
            self._look_again(context, method, troubles=troubles + 1)

    def _look_again(self, context: Context, method: str, **state: int) -> NoReturn:
        started = context["dag_run"].start_date
        if started is not None and utcnow() > started + self.ends_after:
            raise AirflowFailException(f"the step is held, and its promotion has taken {self.ends_after}")
        wait = TimeDeltaTrigger(timedelta(seconds=self.poll_seconds))
        raise TaskDeferred(trigger=wait, method_name=method, kwargs=state)
