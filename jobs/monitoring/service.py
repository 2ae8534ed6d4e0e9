"""The service of a day, from its prediction log: what is known before any label has matured.

In: the day's log and the volume of the same weekdays before, the champion's reference, chargebacks so far,
quarantined rows, and this job's own figures of the last weeks. Out: the part "<day>.service" of
`monitoring`: answers, errors, latency, features that are null online, confidence and alerts of the scores,
early disputes, quarantined rows.
A figure with a limit in the policy is held against that. The others are held against other days: a day alerts
outside the prediction interval of these days at `performance.proxy_significance` that changed by
`business_change_alert` as well. Fewer days than a week say nothing yet.
Errors: none for missing data: no answer at all is `unknown`, which alerts.
Source: the interval of a further observation, e.g. Hahn and Meeker 1991, section 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, timedelta
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from jobs.alerts import raise_alerts
from jobs.conf.contract import contract_of
from jobs.conf.policy import Policy, policy_of
from jobs.conf.settings import Settings
from jobs.core import DayParams, Receipt, Stopwatch, midnight
from jobs.evaluation.labels import first_word_of_fraud
from jobs.features.declarations import FEATURES, Nulls
from jobs.lake.store import Lake, lake_of
from jobs.lake.tables import (
    LABELS,
    MERGED_LABELS,
    MONITORING,
    PREDICTIONS,
    QUARANTINE,
    TRANSACTIONS,
    feed_part,
)
from jobs.monitoring.comparison import SCORE, reference_days
from jobs.monitoring.drift import VARIANTS, live_rows
from jobs.monitoring.features_logged import log_rows
from jobs.monitoring.figures import (
    ALERT,
    INVESTIGATE,
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
from jobs.monitoring.reference import load_reference
from jobs.quality.feeds import TRANSACTIONS_FEED

# and its own figures of the days before
READS: tuple[str, ...] = ("predictions", "reference", "transactions", "labels", "quarantine")
WRITES: tuple[str, ...] = ("monitoring",)

ALWAYS_THERE = tuple(feature.name for feature in FEATURES if feature.nulls is Nulls.NEVER)
FEWEST_DAYS = 7
FEWEST_ANSWERS = 100  # a p99 of fewer is their largest


class Params(DayParams):
    pass


def usual_range(values: Sequence[float], significance: float) -> tuple[float, float]:
    """Between what a further day lies, given days like it; needs two of them."""
    known = np.asarray(values, dtype=np.float64)
    width = float(
        stats.t.isf(significance / 2, len(known) - 1) * known.std(ddof=1) * np.sqrt(1 + 1 / len(known))
    )
    return float(known.mean()) - width, float(known.mean()) + width


def against_days(
    metric: str,
    value: float,
    days: Sequence[float],
    policy: Policy,
    *,
    only_above: bool = False,
    chance: float = 0.0,
) -> Figure:
    """A share of a day beside the same share of other days; shares are compared by their square roots.

    The root makes the spread of a count independent of its size, so that rare events have an interval.
    `chance` is the p-value that its rows and theirs are alike, where the rows are known: days that all show
    nothing have no spread, and a few rows show what they like.
    """
    if len(days) < FEWEST_DAYS:
        detail = f"{len(days)} days to compare with, needed {FEWEST_DAYS}"
        return Figure(metric=metric, subject="all", value=finite(value), status=OK, detail=detail)
    if not np.isfinite(value):
        return Figure(metric=metric, subject="all", status=UNKNOWN, detail="no value on this day")
    low, high = usual_range(list(np.sqrt(days)), policy.performance.proxy_significance)
    middle = float(np.mean(days))
    change = (value - middle) / middle if middle else (0.0 if value == 0 else float("inf"))
    outside = np.sqrt(value) > high or (np.sqrt(value) < low and not only_above)
    far = abs(change) >= policy.performance.business_change_alert
    rare = chance < policy.performance.proxy_significance
    detail = f"{value:.4g}, other days {middle:.4g} and within {max(low, 0.0) ** 2:.4g} to {high**2:.4g}"
    return Figure(metric=metric, subject="all", value=finite(value), threshold=finite(high**2),
                  status=ALERT if outside and far and rare else OK, detail=detail)  # fmt: skip


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


def latency_figure(latency: Sequence[float], policy: Policy) -> Figure:
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
    """The largest share of nulls of a feature that always has a value, where its entity had a row."""
    nulls = rows[[name for name in ALWAYS_THERE if name in rows]].isna().sum()
    if not len(rows) or nulls.empty:
        return Figure(
            metric="null_share_online", subject="all", status=UNKNOWN, detail="no answer with features"
        )
    name, count = str(nulls.idxmax()), int(nulls.max())
    limit, share = policy.features.null_share_alert, count / len(rows)
    return Figure(metric="null_share_online", subject="all", value=finite(share), threshold=limit,
                  status=ALERT if beyond(count, len(rows), limit, policy) else OK,
                  detail=f"{share:.1%} of {name}")  # fmt: skip


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


def alike_by_chance(first: pd.Series, second: pd.Series) -> float:
    """p-value that two samples have one mean: Fisher's exact test of two shares, Welch's of other numbers."""
    if first.isin((0.0, 1.0)).all() and second.isin((0.0, 1.0)).all():
        table = [[int(each.sum()), int(len(each) - each.sum())] for each in (first, second)]
        return float(stats.fisher_exact(table).pvalue)
    found = float(stats.ttest_ind(first, second, equal_var=False).pvalue)
    return found if np.isfinite(found) else float(first.mean() == second.mean())


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


def early_disputes(lake: Lake, day: date, delay_days: int) -> float:
    """Share of what was approved `delay_days` before that is disputed by the day's end; NaN without word."""
    events = day - timedelta(days=delay_days)
    merged = set(lake.partitions(MERGED_LABELS))
    if any(str(events + timedelta(days=each)) not in merged for each in range(1, delay_days + 1)):
        return float("nan")
    columns = ["transaction_id", "decision", "variant", "served_at"]
    rows = lake.read(PREDICTIONS, first=events, last=events, columns=columns).to_pandas()
    rows = rows[rows["variant"].isin(VARIANTS)].sort_values("served_at")
    rows = rows.drop_duplicates("transaction_id", keep="last")
    approved = rows.loc[rows["decision"].eq("approve"), "transaction_id"]
    labels = lake.read(LABELS, first=events, last=day).to_pandas()
    if approved.empty:
        return float("nan")
    disputed = first_word_of_fraud(labels, pd.Timestamp(midnight(day + timedelta(days=1)))).index
    return float(approved.isin(disputed).mean())


def quarantined_share(lake: Lake, day: date) -> float:
    """Rows of the day's transactions that broke a rule, over all its rows."""
    part = feed_part(TRANSACTIONS_FEED, day)
    quarantined = lake.read(QUARANTINE, first=part, last=part, columns=["row_number"]).num_rows
    published = lake.read(TRANSACTIONS, first=day, last=day, columns=["day"]).num_rows
    rows = quarantined + published
    return quarantined / rows if rows else float("nan")


def own_history(lake: Lake, metric: str, day: date, days: int) -> list[float]:
    """This job's figure on the days before, leaving out days that alerted."""
    first = f"{day - timedelta(days=days)}."
    rows = lake.read(MONITORING, first=first, last=f"{day}.", columns=["metric", "day", "status", "value"])
    return [
        row["value"]
        for row in rows.to_pylist()
        if row["metric"] == metric and row["day"] < day and row["status"] == OK and row["value"] is not None
    ]


def trend_figures(lake: Lake, day: date, delay_days: int, policy: Policy) -> list[Figure]:
    """What has no reference but its own past: early disputes and quarantined rows."""
    window = policy.performance.window_days
    figures = []
    for metric, value in (
        ("early_disputes", early_disputes(lake, day, delay_days)),
        ("quarantined_share", quarantined_share(lake, day)),
    ):
        if np.isfinite(value):
            history = own_history(lake, metric, day, window)
            figures.append(against_days(metric, value, history, policy, only_above=True))
        else:
            # measure_performance and check_freshness tell of a feed that is silent
            figures.append(
                Figure(metric=metric, subject="all", status=INVESTIGATE, detail="nothing to count")
            )
    return figures


def answers_of(lake: Lake, when: Interval) -> int:
    """Transactions that were answered, however often each was asked."""
    return int(_answers(lake, when, [])["transaction_id"].nunique())


def _answers(lake: Lake, when: Interval, columns: list[str]) -> pd.DataFrame:
    """Transactions that were answered and some columns of each answer."""
    rows = log_rows(lake, when.day, when.day, ["transaction_id", "variant", *columns], when.hour)
    return rows[rows["variant"].isin(VARIANTS)]


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
                    latency_figure(list(log.rows["latency_ms"]), policy)]  # fmt: skip
        if not is_hour or count >= policy.drift.minimum_rows:
            figures.append(null_figure(rows, policy))
        if reference is not None and rows[SCORE].notna().sum() >= policy.drift.minimum_rows:
            figures += score_figures(when.alike(reference), rows, when.day, policy)
    return figures


def run(params: Params, settings: Settings) -> Receipt:
    watch = Stopwatch()
    lake, policy, when = lake_of(settings), policy_of(settings), Interval(params.day)
    champion = read_champion(settings)
    rows = live_rows(lake, when, champion.version if champion else "")
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
