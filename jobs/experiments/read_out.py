"""Job read_out_experiment: one look at an experiment between two versions, on matured labels.

In: prediction log, transactions and labels; which days and step, which variants, the intended split.
Out: the look's rows in the table experiment_readouts, and reports/experiments/NAME.DAY.html. It changes
nothing else: whether a version goes on is the promotion's matter.
A split that is not the intended one (p below the policy's), customers whom both arms answered, missing
chargebacks or too few customers block the look: its verdict is `blocked`, no figure is shown and no alpha
is spent.
Errors: SluiceError where no such day has matured, the rows are of several steps or versions, or the plan
has no look left.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import date
from math import isfinite
from typing import Any

import pandas as pd
import pyarrow as pa
from pydantic import Field, model_validator

from jobs.conf.contract import contract_of
from jobs.conf.policy import Experiments, policy_of
from jobs.conf.settings import Settings
from jobs.core import DayParams, Receipt, SluiceError, Stopwatch
from jobs.evaluation.labels import named_days
from jobs.experiments.comparison import sample_ratio_p_value
from jobs.experiments.customers import Assigned, assign_arms, one_step, per_customer
from jobs.experiments.inputs import figures_before, frauds_known, label_days_missing, last_matured, log_of
from jobs.experiments.looks import BLOCKED, SAMPLE_RATIO, Look, Result, next_look, results_of, verdict_of
from jobs.experiments.metrics import read_metrics
from jobs.experiments.report import save_readout
from jobs.lake.store import Lake, conform, content_digest, lake_of
from jobs.lake.tables import EXPERIMENT_READOUTS
from jobs.promotion.state import percent_of

READS: tuple[str, ...] = ("predictions", "transactions", "labels", "merged_labels", "experiment_readouts")
WRITES: tuple[str, ...] = ("experiment_readouts",)
NAME = r"^[a-z0-9][a-z0-9_-]{0,79}$"  # it becomes part of a partition and of a file's name
VARIANT = r"^[a-z][a-z_]{0,39}$"


class Params(DayParams):
    """Which experiment; `day` says whose evening's labels count."""

    name: str = Field(pattern=NAME, description="name of the experiment; its looks are kept under it")
    first: date = Field(description="first day of the experiment")
    last: date = Field(description="last day of the plan, fixed before the first look")
    step: str = Field(
        "", pattern=r"^[a-z0-9_]{0,40}$", description="promotion step, e.g. canary_25; empty: the only one"
    )
    control: str = Field("champion", pattern=VARIANT, description="variant that is compared with")
    treatment: str = Field("canary", pattern=VARIANT, description="variant that is tried")
    percent: int = Field(
        0, ge=0, le=99, description="customers meant for the treatment, in percent; 0: as the step says"
    )

    @model_validator(mode="after")
    def _is_possible(self) -> Params:
        if not self.first <= self.last:
            raise ValueError(f"the last day {self.last} lies before the first, {self.first}")
        if self.control == self.treatment:
            raise ValueError("control and treatment are one variant")
        return self


@dataclass(frozen=True)
class Readout:
    """One look as it is reported."""

    params: Params
    plan: str
    counted: tuple[date, date]  # days whose transactions count
    assigned: Assigned
    percent: int
    ratio_p_value: float
    verdict: str
    reason: str
    look: Look | None  # None where it is blocked
    results: tuple[Result, ...]


def plan_of(params: Params, step: str, percent: int, versions: tuple[str, str]) -> str:
    """What may not change between looks, as one line of JSON."""
    names = ("control", "treatment")
    arms = {name: f"{getattr(params, name)} {version}" for name, version in zip(names, versions, strict=True)}
    return json.dumps(
        {"first": str(params.first), "last": str(params.last), "step": step, "percent": percent} | arms
    )


def intended_percent(params: Params, step: str) -> int:
    """Share of customers meant for the treatment.

    Raises:
        SluiceError: neither the call nor the step says it, or it leaves nobody in the control.
    """
    percent = params.percent or percent_of(step)
    if not 0 < percent < 100:
        raise SluiceError(f"experiment: step {step} splits {percent} % to the treatment; say --percent")
    return percent


def obstacle(
    assigned: Assigned, p_value: float, percent: int, missing: list[date], policy: Experiments
) -> str:
    """Why the figures would mislead, "" where nothing is in the way."""
    control, treatment = assigned.customers
    if missing:
        return f"the chargebacks of {named_days(missing)} are not merged; run fraud_labels for them"
    if assigned.crossed:
        return f"{assigned.crossed} customers were answered by both arms: the split was not kept"
    if min(control, treatment) < policy.customers_min:
        return f"{control} and {treatment} customers in the arms, needed {policy.customers_min} in each"
    if p_value < policy.sample_ratio_p_value:
        return (
            f"sample-ratio mismatch: {treatment} of {control + treatment} customers in the treatment, "
            f"intended {percent} % (p {p_value:.1g}); find out who is missing before any figure is read"
        )
    return ""


def earlier_looks(lake: Lake, name: str) -> pd.DataFrame:
    """All rows of an experiment."""
    rows = lake.read(EXPERIMENT_READOUTS, first=f"{name}.", last=f"{name}.9")
    return pd.DataFrame(rows.to_pandas())


def read_out(lake: Lake, params: Params, settings: Settings) -> Readout:
    """One look, from the tables."""
    policy, feed = policy_of(settings), contract_of(settings).labels
    last = last_matured(params.day, params.last, feed)
    if last < params.first:
        raise SluiceError(
            f"experiment {params.name}: at the end of {params.day} no day since {params.first} has labels "
            f"that are {feed.maturity_days} days old"
        )
    log, step = one_step(log_of(lake, params.first, last), params.step)
    percent = intended_percent(params, step)
    assigned = assign_arms(log, params.control, params.treatment)
    p_value = sample_ratio_p_value(*assigned.customers, percent / 100)
    missing = label_days_missing(lake, params.first, last, feed)
    reason = obstacle(assigned, p_value, percent, missing, policy.experiments)
    plan = plan_of(params, step, percent, assigned.versions)
    base = (params, plan, (params.first, last), assigned, percent, p_value)
    if reason:
        return Readout(*base, BLOCKED, reason, None, ())
    matured = ((last - params.first).days + 1) / ((params.last - params.first).days + 1)
    look = next_look(earlier_looks(lake, params.name), params.day, plan, matured, len(assigned.answers),
                     policy.experiments)  # fmt: skip
    frauds = frauds_known(lake, params.first, params.day)
    customers = per_customer(assigned.answers, frauds)
    before = figures_before(lake, params.first, policy.experiments.pre_period_days, customers.index)
    readings = read_metrics(assigned, customers, before, frauds, policy.performance.bootstrap_samples)
    results = results_of(readings, look, policy.experiments.alpha)
    return Readout(*base, *verdict_of(results, look), look, tuple(results))


def rows_of(readout: Readout) -> pa.Table:
    """The rows of the table: one for the split, one per metric."""
    params, look = readout.params, readout.look
    common: dict[str, Any] = {
        "part": f"{params.name}.{params.day}", "experiment": params.name, "day": params.day,
        "look": look.number if look else 0, "control_customers": readout.assigned.customers[0],
        "treatment_customers": readout.assigned.customers[1], "transactions": len(readout.assigned.answers),
        "time": look.times[-1] if look else 0.0, "plan": readout.plan, "verdict": readout.verdict,
        "reason": readout.reason,
    }  # fmt: skip
    control, treatment = readout.assigned.customers
    split = {
        "metric": SAMPLE_RATIO, "treatment": treatment / max(control + treatment, 1),
        "control": readout.percent / 100, "p_value": readout.ratio_p_value,
        "conclusion": BLOCKED if look is None else "ok",
    }  # fmt: skip
    metrics = [
        {
            "metric": each.reading.metric.name, "control": each.reading.control,
            "treatment": each.reading.treatment, "effect": each.reading.effect, "low": each.low,
            "high": each.high, "z_score": each.reading.z_score, "p_value": each.reading.p_value,
            "sequential_p_value": each.sequential_p_value, "adjusted_p_value": each.adjusted_p_value,
            "conclusion": each.conclusion,
        }
        for each in readout.results
    ]  # fmt: skip
    found = [{name: _stored(value) for name, value in (common | row).items()} for row in (split, *metrics)]
    return conform(EXPERIMENT_READOUTS, pa.Table.from_pylist(found, EXPERIMENT_READOUTS.schema))


def _stored(value: Any) -> Any:
    """A figure that there is none of is null."""
    return None if isinstance(value, float) and not isfinite(value) else value


def run(params: Params, settings: Settings) -> Receipt:
    watch = Stopwatch()
    lake = lake_of(settings)
    # two looks at once would each spend what is left
    with lake.exclusively(f"experiment-{params.name}"):
        readout = read_out(lake, params, settings)
        rows = rows_of(readout)
        part = f"{params.name}.{params.day}"
        version = lake.replace(EXPERIMENT_READOUTS, rows, part)
    report = save_readout(readout, settings.reports / "experiments" / f"{part}.html")
    return Receipt(
        job="read_out_experiment", table=EXPERIMENT_READOUTS.name, partition=part, version=version,
        rows=rows.num_rows, digest=content_digest(rows), seconds=watch.seconds,
        facts={
            "verdict": readout.verdict, "reason": readout.reason,
            "look": readout.look.number if readout.look else 0, "report": str(report),
            "customers": readout.assigned.customers, "outside": readout.assigned.outside,
            "effects": {each.reading.metric.name: _stored(each.reading.effect) for each in readout.results},
        },
    )  # fmt: skip
