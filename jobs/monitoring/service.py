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
    metric: str, value: float, days: Sequence[float], policy: Policy, *, only_above: bool = False
) -> Figure:
    """A share of a day beside the same share of other days; shares are compared by their square roots.

    The root makes the spread of a count independent of its size, so that rare events have an interval.
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
    detail = f"{value:.4g}, other days {middle:.4g} and within {max(low, 0.0) ** 2:.4g} to {high**2:.4g}"
    return Figure(metric=metric, subject="all", value=finite(value), threshold=finite(high**2),
                  status=ALERT if outside and far else OK, detail=detail)  # fmt: skip


def answers_figure(answers: int, weekdays_before: Sequence[int], policy: Policy) -> Figure:
    """Answers of the day over the median of the same weekday in the last weeks."""
    known = [each for each in weekdays_before if each]
    if not answers:
        return Figure(
            metric="answers", subject="all", value=0.0, status=UNKNOWN, detail="no answer in the log"
        )
    if len(known) < policy.quality.volume_weeks_min:
        detail = f"{answers} answers; {len(known)} such weekdays before"
        return Figure(metric="answers", subject="all", value=float(answers), detail=detail)
    share = answers / float(np.median(known))
    limit = policy.quality.volume_share_alert
    return Figure(metric="answers", subject="all", value=float(answers), threshold=limit,
                  status=ALERT if share < limit else OK,
                  detail=f"{answers} answers, {share:.0%} of the median of the same weekday")  # fmt: skip


def error_figure(errors: int, answers: int, policy: Policy) -> Figure:
    """Above the policy's share, beyond what chance explains by the binomial tail."""
    limit = policy.canary.error_rate_max
    share = errors / answers if answers else float("nan")
    beyond = (
        bool(answers)
        and share > limit
        and stats.binom.sf(errors - 1, answers, limit) < policy.drift.significance
    )
    return Figure(metric="error_share", subject="all", value=finite(share), threshold=limit,
                  status=ALERT if beyond else OK, detail=f"{errors} of {answers} answers failed")  # fmt: skip


def latency_figure(latency: Sequence[float], policy: Policy) -> Figure:
    """The 99th percentile of the answers' latency."""
    known = np.asarray(latency, dtype=np.float64)
    known = known[np.isfinite(known)]
    if len(known) < FEWEST_ANSWERS:
        return Figure(metric="latency_p99_ms", subject="all", detail=f"{len(known)} answers only")
    value, limit = float(np.quantile(known, 0.99)), policy.gate.latency_p99_ms
    return Figure(metric="latency_p99_ms", subject="all", value=finite(value), threshold=limit,
                  status=ALERT if value > limit else OK, detail=f"{value:.1f} ms")  # fmt: skip


def null_figure(rows: pd.DataFrame, policy: Policy) -> Figure:
    """The largest share of nulls of a feature that always has a value, where its entity had a row."""
    shares = rows[[name for name in ALWAYS_THERE if name in rows]].isna().mean()
    if not len(rows) or shares.empty:
        return Figure(
            metric="null_share_online", subject="all", status=UNKNOWN, detail="no answer with features"
        )
    name, value = str(shares.idxmax()), float(shares.max())
    limit = policy.features.null_share_alert
    return Figure(metric="null_share_online", subject="all", value=finite(value), threshold=limit,
                  status=ALERT if value > limit else OK, detail=f"{value:.1%} of {name}")  # fmt: skip


def score_shares(scores: pd.Series, policy: Policy) -> dict[str, float]:
    """How unsure the scores are, how high, and how many lead to an alert."""
    known, decisions = scores.dropna(), policy.decisions
    if known.empty:
        return dict.fromkeys(("unsure_share", "mean_score", "alert_share"), float("nan"))
    return {
        "unsure_share": float(known.between(decisions.blend_from, decisions.blend_to).mean()),
        "mean_score": float(known.mean()),
        "alert_share": float((known > decisions.review_above).mean()),
    }


def score_figures(reference: pd.DataFrame, current: pd.DataFrame, day: date, policy: Policy) -> list[Figure]:
    """Confidence and alerts of the day's scores beside those of the reference's days of its kind."""
    today = score_shares(current[SCORE], policy)
    days = reference_days(reference, day, policy.drift.minimum_rows)
    grouped = days.rows[SCORE].groupby(days.codes)
    others = [score_shares(rows, policy) for _, rows in grouped]
    return [
        against_days(name, value, [each[name] for each in others], policy) for name, value in today.items()
    ]


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


def weekdays_before(lake: Lake, day: date, weeks: int) -> list[int]:
    """Answers of the same weekday in the weeks before."""
    return [answers_of(lake, day - timedelta(weeks=each)) for each in range(1, weeks + 1)]


def answers_of(lake: Lake, day: date) -> int:
    """Transactions that were answered, however often each was asked."""
    rows = lake.read(PREDICTIONS, first=day, last=day, columns=["transaction_id", "variant"]).to_pandas()
    return int(rows.loc[rows["variant"].isin(VARIANTS), "transaction_id"].nunique())


def run(params: Params, settings: Settings) -> Receipt:
    watch = Stopwatch()
    lake, policy, day = lake_of(settings), policy_of(settings), params.day
    contract = contract_of(settings)
    columns = ["variant", "error", "latency_ms"]
    log = lake.read(PREDICTIONS, first=day, last=day, columns=columns).to_pandas()
    log = log[log["variant"].isin(VARIANTS)]
    figures = [
        answers_figure(answers_of(lake, day), weekdays_before(lake, day, policy.quality.volume_weeks), policy)
    ]
    champion = read_champion(settings)
    if len(log):
        errors = int(log["error"].fillna("").ne("").sum())
        rows = live_rows(lake, day, champion.version if champion else "")
        figures += [error_figure(errors, len(log), policy), latency_figure(list(log["latency_ms"]), policy),
                    null_figure(rows, policy)]  # fmt: skip
        reference = load_reference(settings, champion.run_id) if champion else None
        if reference is not None and rows[SCORE].notna().sum() >= policy.drift.minimum_rows:
            figures += score_figures(reference, rows, day, policy)
    figures += trend_figures(lake, day, contract.labels.delay_days, policy)
    version = write_figures(lake, day, SERVICE, figures)
    alerts = raise_alerts(settings, alerts_of(settings, day, figures))
    values = {each.metric: each.value for each in figures}
    return Receipt(
        job="measure_service", table="monitoring", partition=f"{day}.{SERVICE}", version=version,
        rows=len(figures), seconds=watch.seconds,
        facts={"status": worst(figures), "answers": len(log), "figures": values, "new_alerts": alerts},
    )  # fmt: skip
