"""Job measure_hour: what a payments team must hear of within the hour, by the figures of the day.

In: the last whole hour of the prediction log, the same hour of the same weekday before, the champion's
reference. Out: the part of this hour of `hourly_monitoring`: answers, errors, latency, nulls online,
confidence and alerts of the scores, and their drift; alerts.
The functions are those of measure_service and measure_drift; the reference is cut to the same hour of its
days, and the 24 looks of a day share the policy's levels of significance (jobs/monitoring/interval.py). What
lasts for hours is told once, when it begins. Nothing here starts a training or moves a version: the table is
read by no decision.
Errors: none for missing data: an hour without an answer is `unknown` where this hour has them else; an hour
with too few scores is not compared.
"""

from __future__ import annotations

import pandas as pd
from pydantic import AwareDatetime, Field

from jobs.alerts import raise_alerts
from jobs.conf.policy import Policy, policy_of
from jobs.conf.settings import Settings
from jobs.core import JobParams, Receipt, Stopwatch
from jobs.lake.store import Lake, lake_of
from jobs.monitoring.comparison import SCORE, compare_column, reference_days, score_figures
from jobs.monitoring.drift import live_rows
from jobs.monitoring.figures import (
    INVESTIGATE,
    LOUD,
    Figure,
    alerts_of,
    read_champion,
    read_hour,
    worst,
    write_hour,
)
from jobs.monitoring.interval import Interval, last_hour
from jobs.monitoring.reference import load_reference
from jobs.monitoring.service import ALWAYS_THERE, log_figures, read_log

READS: tuple[str, ...] = ("predictions", "reference")
WRITES: tuple[str, ...] = ("hourly_monitoring",)


class Params(JobParams):
    """The moment to look back from."""

    as_of: AwareDatetime = Field(
        description="instant with its zone, e.g. 2026-01-31T06:05:00Z: the whole hour before it is looked at"
    )


def prediction_figures(
    reference: pd.DataFrame | None, rows: pd.DataFrame, hour: Interval, policy: Policy
) -> list[Figure]:
    """Drift of an hour's scores against the same hour of the reference's days."""
    alike = None if reference is None else hour.alike(reference)
    sizes = [0 if each is None else int(each[SCORE].notna().sum()) for each in (alike, rows)]
    if alike is None or min(sizes) < policy.drift.minimum_rows:
        # the day is compared as a whole: it says whether something is missing
        detail = f"{sizes[0]} reference and {sizes[1]} current scores, needed {policy.drift.minimum_rows}"
        return [Figure(metric="prediction_psi", subject=SCORE, status=INVESTIGATE, detail=detail)]
    days = reference_days(alike, hour.day, policy.drift.minimum_rows)
    found = compare_column(SCORE, days, rows, days.names[0], policy.drift)
    return score_figures(found, policy.drift, policy.drift.slice_margin)  # an hour is a slice of its day


def begun(lake: Lake, hour: Interval, figures: list[Figure]) -> list[Figure]:
    """The figures that call for a person now and did not in the hour before."""
    told = {(each.metric, each.subject) for each in read_hour(lake, hour.before) if each.status in LOUD}
    return [each for each in figures if (each.metric, each.subject) not in told]


def run(params: Params, settings: Settings) -> Receipt:
    """Measure the hour, and tell what has begun in it."""
    watch = Stopwatch()
    lake, hour = lake_of(settings), last_hour(params.as_of)
    policy, champion = hour.policy(policy_of(settings)), read_champion(settings)
    reference = load_reference(settings, champion.run_id) if champion else None
    rows = live_rows(lake, hour, champion.version if champion else "", ALWAYS_THERE)
    log = read_log(lake, hour, policy.quality.volume_weeks)
    figures = log_figures(log, rows, reference, hour, policy)
    figures += prediction_figures(reference, rows, hour, policy)
    version = write_hour(lake, hour, figures)
    alerts = raise_alerts(settings, alerts_of(settings, hour, begun(lake, hour, figures)))
    values = {each.metric: each.value for each in figures}
    return Receipt(
        job="measure_hour", table=WRITES[0], partition=str(hour), version=version,
        rows=len(figures), seconds=watch.seconds,
        facts={"status": worst(figures), "answers": log.answers, "figures": values,
               "new_alerts": alerts},
    )  # fmt: skip
