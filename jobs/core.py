"""What every job speaks: parameters in, a receipt or a verdict out, and errors a person can act on."""

from __future__ import annotations

import time
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict, Field


def first_line(error: Exception) -> str:
    """What an error of some library says first; its kind where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


class StrictModel(BaseModel):
    """Frozen, and it refuses keys that it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class JobParams(StrictModel):
    """Base of the parameters of a job: what a person types after `sluice NAME`."""


class DayParams(JobParams):
    """Parameters of a job that works on one UTC day."""

    day: date = Field(description="UTC day of the data interval, as YYYY-MM-DD")


class Receipt(StrictModel):
    """The only thing that travels between tasks: a few hundred bytes of JSON about what a job left behind."""

    job: str
    table: str = ""  # the table or the artefact that was written
    partition: str = ""  # the partition that was replaced, e.g. "2026-01-31"
    version: int = -1  # table version after the write, -1 where nothing was written
    rows: int = 0
    digest: str = ""  # order-independent digest of the contents
    seconds: float = 0.0  # the job's own wall time
    facts: dict[str, Any] = Field(default_factory=dict)  # further small figures and links


class Outcome(StrEnum):
    """Result of a gate. Only PASS lets the next task run."""

    PASS = "pass"  # noqa: S105 - an outcome, not a password
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"


class Check(StrictModel):
    """One line of evidence: what was measured, against what, and the outcome."""

    name: str
    outcome: Outcome
    value: float | None = None
    threshold: float | None = None
    detail: str = ""


class Verdict(StrictModel):
    """A gate's answer with its evidence."""

    outcome: Outcome
    reason: str
    checks: tuple[Check, ...] = ()

    @classmethod
    def of(cls, checks: list[Check]) -> Verdict:
        """Fail if any check failed or there is none, inconclusive if any is open, otherwise pass."""
        if not checks:
            return cls(outcome=Outcome.FAIL, reason="no evidence: nothing was checked")
        for outcome in (Outcome.FAIL, Outcome.INCONCLUSIVE):
            named = [check for check in checks if check.outcome is outcome]
            if named:
                reason = "; ".join(check.detail or check.name for check in named)
                return cls(outcome=outcome, reason=reason, checks=tuple(checks))
        return cls(outcome=Outcome.PASS, reason=f"{len(checks)} checks passed", checks=tuple(checks))


class SluiceError(Exception):
    """An error for a person: one sentence that says what was wrong, where, and what to do next.

    The command line prints it without a traceback and exits with 1; Airflow shows it as the reason.
    """


class NothingToDo(SluiceError):
    """There is nothing to do, for the reason given: no failure, and nothing that follows needs to run."""


class NotEnoughData(SluiceError):
    """There is too little to learn from, or a part of it is missing: only more data change that."""


class GateClosed(SluiceError):
    """A gate did not pass. Trying again on the same input gives the same answer, so nobody retries it."""

    def __init__(self, verdict: Verdict, where: str, report: str = "") -> None:
        """`report` is the page that shows why, below the reports folder."""
        super().__init__(f"{where}: {verdict.outcome.value}: {verdict.reason}")
        self.verdict = verdict
        self.report = report


class Stopwatch:
    """Seconds since it was made, for receipts."""

    def __init__(self) -> None:
        self._start = time.perf_counter()

    @property
    def seconds(self) -> float:
        return round(time.perf_counter() - self._start, 3)


def midnight(day: date) -> datetime:
    """The first instant of a UTC day."""
    return datetime(day.year, day.month, day.day, tzinfo=UTC)


def days_between(first: date, last: date) -> list[date]:
    """All days from first to last, both included."""
    return [first + timedelta(days=offset) for offset in range((last - first).days + 1)]
