"""The service of a day, from its prediction log: what is known before any label has matured.

In: the day's log and the volume of the same weekdays before, the champion's reference, chargebacks so far,
quarantined rows, and this job's own figures of the last weeks. Out: the part "<day>.service" of
`monitoring`: answers, errors, latency, features that are null or have no fresh row online, confidence and
alerts of the scores, early disputes, quarantined rows.
A figure with a limit in the policy is held against that, the others against other days (other_days.py).
Errors: none for missing data: no answer at all is `unknown`, which alerts.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from scipy import stats

from jobs.alerts import raise_alerts
from jobs.conf.contract import contract_of
from jobs.conf.policy import Policy, policy_of
from jobs.conf.settings import Settings
from jobs.core import DayParams, Receipt, Stopwatch
from jobs.features.declarations import FEATURES, PRESENCE, Feature, Nulls
from jobs.lake.store import Lake, lake_of
from jobs.lake.tables import PREDICTIONS
from jobs.monitoring.comparison import SCORE, reference_days
from jobs.monitoring.drift import VARIANTS, live_rows
from jobs.monitoring.features_logged import batches
from jobs.monitoring.figures import (
    ALERT,
    OK,
    SERVICE,
    UNKNOWN,
    Figure,
    alerts_of,
    finite,
    read_champion,
    worst,
    write_figures,
)
from jobs.monitoring.interval import Interval
from jobs.monitoring.other_days import against_days, alike_by_chance
from jobs.monitoring.reference import load_reference
from jobs.monitoring.trends import trend_figures

# and its own figures of the days before
READS: tuple[str, ...] = ("predictions", "reference", "transactions", "labels", "quarantine")
WRITES: tuple[str, ...] = ("monitoring",)

NEVER_NULL = {feature.name: feature for feature in FEATURES if feature.nulls is Nulls.NEVER}
ALWAYS_THERE = tuple(NEVER_NULL)  # the features that `log_figures` looks at
FLAG = "{}_missing"  # the flag of an answer that found no fresh row of that kind
FEWEST_ANSWERS = 100  # a p99 of fewer is their largest


class Params(DayParams):
    pass


def answers_figure(
    answers: int, weeks_before: Sequence[int], policy: Policy, *, may_be_empty: bool = False
) -> Figure:
    """Answers over the median of the same weekday, or of its same hour, in the last weeks.

    Fewer alert beyond what chance explains, were the rate that of these weeks. None at all is unknown; an
    hour of a quiet night `may_be_empty`, as far as chance explains that.
    Source: the conditional test of two Poisson rates, Przyborowski and Wilenski 1940.
    """
    known = [each for each in weeks_before if each]
    weeks = len(known)
    chance = float(stats.binom.cdf(answers, answers + sum(known), 1 / (weeks + 1)))
    enough = weeks >= policy.quality.volume_weeks_min
    fewer = enough and chance < policy.performance.proxy_significance
    if not answers and (fewer or not may_be_empty):
        return Figure(
            metric="answers", subject="all", value=0.0, status=UNKNOWN, detail="no answer in the log"
        )
    if not enough:
        detail = f"{answers} answers; {weeks} such weekdays before"
        return Figure(metric="answers", subject="all", value=float(answers), detail=detail)
    share = answers / float(np.median(known))
    limit = policy.quality.volume_share_alert
    return Figure(metric="answers", subject="all", value=float(answers), threshold=limit,
                  status=ALERT if fewer and share < limit else OK,
                  detail=f"{answers} answers, {share:.0%} of the median of the same weekday")  # fmt: skip


def beyond(count: int, rows: int, limit: float, policy: Policy) -> bool:
    """Whether a share lies above its limit, and further than chance explains (binomial tail)."""
    return count > limit * rows and bool(stats.binom.sf(count - 1, rows, limit) < policy.drift.significance)


def error_figure(errors: int, answers: int, policy: Policy) -> Figure:
    """The share of failed answers against the policy's."""
    limit = policy.canary.error_rate_max
    share = errors / answers if answers else float("nan")
    return Figure(metric="error_share", subject="all", value=finite(share), threshold=limit,
                  status=ALERT if beyond(errors, answers, limit, policy) else OK,
                  detail=f"{errors} of {answers} answers failed")  # fmt: skip


def latency_figure(latency: npt.ArrayLike, policy: Policy) -> Figure:
    """The 99th percentile of the answers' latency: too long where over 1 % take longer than the limit."""
    known = np.asarray(latency, dtype=np.float64)
    known = known[np.isfinite(known)]
    if len(known) < FEWEST_ANSWERS:
        return Figure(metric="latency_p99_ms", subject="all", detail=f"{len(known)} answers only")
    value, limit = float(np.quantile(known, 0.99)), policy.gate.latency_p99_ms
    late = beyond(int((known > limit).sum()), len(known), 0.01, policy)
    return Figure(metric="latency_p99_ms", subject="all", value=finite(value), threshold=limit,
                  status=ALERT if late else OK, detail=f"{value:.1f} ms")  # fmt: skip


def null_figure(rows: pd.DataFrame, policy: Policy) -> Figure:
    """The largest share of nulls of a feature that always has a value, where a fresh row was found."""
    present = {row: rows[FLAG.format(row)].ne(1.0) for row in PRESENCE if FLAG.format(row) in rows}
    shares: dict[str, tuple[float, int, int]] = {}
    for name, feature in NEVER_NULL.items():
        if name in rows:
            there = present.get(_row_of(feature))
            values = rows[name] if there is None else rows.loc[there, name]
            nulls = int(values.isna().sum())
            shares[name] = nulls / max(len(values), 1), nulls, len(values)
    if not len(rows) or not shares:
        return Figure(
            metric="null_share_online", subject="all", status=UNKNOWN, detail="no answer with features"
        )
    name = max(shares, key=lambda each: shares[each])
    share, count, of = shares[name]
    limit = policy.features.null_share_alert
    return Figure(metric="null_share_online", subject="all", value=finite(share), threshold=limit,
                  status=ALERT if beyond(count, of, limit, policy) else OK,
                  detail=f"{share:.1%} of {name}")  # fmt: skip


def _row_of(feature: Feature) -> str:
    """The kind of row that a feature is read from; "" where it is made of the request alone."""
    return {"batch": feature.entity, "velocity": "velocity"}.get(feature.tier, "")


def missing_figures(reference: pd.DataFrame, rows: pd.DataFrame, day: date, policy: Policy) -> list[Figure]:
    """Of each kind of row the share of answers that found no fresh one, beside the reference's days.

    A store that is not filled any more shows here once its rows are older than their ttl.
    """
    days = reference_days(reference, day, policy.drift.minimum_rows)
    figures = []
    for row in PRESENCE:
        name = FLAG.format(row)
        if name in reference and name in rows:
            usual, today = days.rows[name].reset_index(drop=True), rows[name]
            by_day = list(usual.groupby(days.codes).mean())
            chance = alike_by_chance(today, usual)
            figures.append(against_days("missing_online", float(today.mean()), by_day, policy,
                                        chance=chance, subject=row, only_above=True))  # fmt: skip
    return figures


def score_signs(scores: pd.Series, policy: Policy) -> pd.DataFrame:
    """Of each score: whether it is unsure, its height, and whether it leads to an alert."""
    known, decisions = scores.dropna(), policy.decisions
    return pd.DataFrame(
        {
            "unsure_share": known.between(decisions.blend_from, decisions.blend_to).astype(np.float64),
            "mean_score": known,
            "alert_share": (known > decisions.review_above).astype(np.float64),
        }
    )


def score_figures(reference: pd.DataFrame, current: pd.DataFrame, day: date, policy: Policy) -> list[Figure]:
    """Confidence and alerts of the day's scores beside those of the reference's days of its kind."""
    today = score_signs(current[SCORE], policy)
    days = reference_days(reference, day, policy.drift.minimum_rows)
    usual = score_signs(days.rows[SCORE].reset_index(drop=True), policy)
    by_day = usual.groupby(days.codes[usual.index]).mean()
    return [
        against_days(name, float(today[name].mean()), list(by_day[name]), policy,
                     chance=alike_by_chance(today[name], usual[name]))
        for name in map(str, today)
    ]  # fmt: skip


def answers_of(lake: Lake, when: Interval) -> int:
    """Transactions that were answered, however often each was asked."""
    return int(_answers(lake, when, [])["transaction_id"].nunique())


def _answers(lake: Lake, when: Interval, columns: list[str]) -> pd.DataFrame:
    """Transactions that were answered and some columns of each answer."""
    wanted, answered = ["transaction_id", *columns], pa.array(VARIANTS)
    found = [
        batch.filter(pc.is_in(batch["variant"], answered)).select(wanted)
        for batch in batches(lake, when, [*wanted, "variant"])
    ]
    schema = pa.schema([PREDICTIONS.schema.field(name) for name in wanted])
    return pd.DataFrame(pa.Table.from_batches(found, schema).to_pandas())


class Log(NamedTuple):
    """The answers of a day or an hour."""

    rows: pd.DataFrame  # error, latency_ms of every answer, however often one was asked
    answers: int  # transactions that were answered
    weeks: list[int]  # the same, one week before and further back


def read_log(lake: Lake, when: Interval, weeks: int) -> Log:
    """The answers of an interval, and how many there were in the weeks before."""
    rows = _answers(lake, when, ["error", "latency_ms"])
    before = [answers_of(lake, when.weeks_ago(each)) for each in range(1, weeks + 1)]
    return Log(rows, int(rows["transaction_id"].nunique()), before)


def log_figures(
    log: Log, rows: pd.DataFrame, reference: pd.DataFrame | None, when: Interval, policy: Policy
) -> list[Figure]:
    """What the prediction log tells of a day or an hour; `rows` are its `live_rows`."""
    is_hour = when.hour is not None
    figures = [answers_figure(log.answers, log.weeks, policy, may_be_empty=is_hour)]
    count = len(log.rows)
    if count:
        errors = int(log.rows["error"].fillna("").ne("").sum())
        figures += [error_figure(errors, count, policy),
                    latency_figure(log.rows["latency_ms"], policy)]  # fmt: skip
        if not is_hour or count >= policy.drift.minimum_rows:
            figures.append(null_figure(rows, policy))
        if reference is not None and len(rows) >= policy.drift.minimum_rows:
            figures += missing_figures(when.alike(reference), rows, when.day, policy)
        if reference is not None and rows[SCORE].notna().sum() >= policy.drift.minimum_rows:
            figures += score_figures(when.alike(reference), rows, when.day, policy)
    return figures


def run(params: Params, settings: Settings) -> Receipt:
    watch = Stopwatch()
    lake, policy, when = lake_of(settings), policy_of(settings), Interval(params.day)
    champion = read_champion(settings)
    rows = live_rows(lake, when, champion.version if champion else "", ALWAYS_THERE)
    reference = load_reference(settings, champion.run_id) if champion else None
    log = read_log(lake, when, policy.quality.volume_weeks)
    figures = log_figures(log, rows, reference, when, policy)
    figures += trend_figures(lake, params.day, contract_of(settings).labels.delay_days, policy)
    version = write_figures(lake, params.day, SERVICE, figures)
    alerts = raise_alerts(settings, alerts_of(settings, params.day, figures))
    values = {each.metric: each.value for each in figures}
    return Receipt(
        job="measure_service", table="monitoring", partition=f"{params.day}.{SERVICE}", version=version,
        rows=len(figures), seconds=watch.seconds,
        facts={"status": worst(figures), "answers": log.answers, "figures": values,
               "new_alerts": alerts},
    )  # fmt: skip
