"""Performance of the champion on matured labels, against its own test rows.

In: prediction log of the last window_days matured days (answers of the champion's version), labels known at
the end of the day, reference rows of the champion. Out: the part "<day>.performance" of `monitoring`: PR-AUC
and recall at the policy's FPR with the interval of their difference, alerts a day, share of the fraud
amount that was stopped, and PR-AUC per slice of the contract.
Intervals are those of days drawn again (resampled.py). Fewer days or frauds than needed are `unknown`, and so
is a window of which a day's chargebacks are not merged: a silent feed must not look like a collapse.
A champion that has not served for long has no matured answers, and nothing is wrong with that: meanwhile the
version that served before it is measured, against its own test rows. What that shows is told under the name
of the version, and retrains nothing: the version is replaced already.
Errors: none for missing data; SluiceError where MLflow does not answer.
"""

from __future__ import annotations

from datetime import date

import numpy as np
import pandas as pd

from jobs.alerts import raise_alerts
from jobs.conf.contract import contract_of
from jobs.conf.policy import Policy, policy_of
from jobs.conf.settings import Settings
from jobs.core import DayParams, Receipt, Stopwatch
from jobs.evaluation.labels import matured_days, missing_label_days, named_days
from jobs.evaluation.slices import SLICES
from jobs.lake.store import lake_of
from jobs.monitoring.figures import (
    ALERT,
    INVESTIGATE,
    OF_VERSION,
    OK,
    PAGE,
    PERFORMANCE,
    RETRAIN,
    UNKNOWN,
    Figure,
    alerts_of,
    finite,
    read_champion,
    worst,
    write_figures,
)
from jobs.monitoring.matured import Matured
from jobs.monitoring.reference import load_reference
from jobs.monitoring.resampled import (
    Measure,
    Sample,
    alert_share,
    drawn,
    fraud_share,
    pr_auc,
    recall_at,
    stopped_share,
    whole,
)
from jobs.promotion import state as registry

READS: tuple[str, ...] = ("predictions", "labels", "transactions", "reference")
WRITES: tuple[str, ...] = ("monitoring",)

FEWEST_DAYS = 3  # one day's figure has a standard deviation near 0.05 and decides nothing


class Params(DayParams):
    pass


def difference(
    measure: Measure, live: Sample, reference: Sample, samples: int, level: float
) -> tuple[float, float, float, float]:
    """Live and reference figure, and the interval of live minus reference."""
    found = drawn(measure, live, samples, 5) - drawn(measure, reference, samples, 6)
    values = whole(measure, live), whole(measure, reference)
    found = found[np.isfinite(found)]
    if len(found) < samples * 0.9:
        return *values, float("nan"), float("nan")
    low, high = np.quantile(found, [(1 - level) / 2, (1 + level) / 2])
    return *values, float(low), float(high)


def quality_figure(
    metric: str, subject: str, found: tuple[float, float, float, float], days: int, policy: Policy
) -> Figure:
    """A drop beyond the policy's limits whose interval excludes 0 retrains, or pages."""
    value, base, low, high = found
    drop = base - value
    detail = f"{value:.3f} live, {base:.3f} at its test; difference {-drop:+.3f} [{low:+.3f}, {high:+.3f}]"
    status = OK
    if not np.isfinite(drop) or not np.isfinite(high):
        status, detail = UNKNOWN, f"{detail}: too few frauds"
    elif high < 0 and drop >= policy.performance.drop_retrain:
        status = PAGE if drop >= policy.performance.drop_page else RETRAIN
    elif drop >= policy.performance.drop_retrain:
        status = INVESTIGATE
    if status in (PAGE, RETRAIN) and days < FEWEST_DAYS:
        status, detail = INVESTIGATE, f"{detail}; {days} matured days only"
    return Figure(metric=metric, subject=subject, value=finite(value),
                  threshold=finite(base - policy.performance.drop_retrain),
                  status=status, detail=detail)  # fmt: skip


def business_figure(
    metric: str, found: tuple[float, float, float, float], scale: float, limit: float
) -> Figure:
    """A change beyond a share `limit` whose interval excludes 0 alerts."""
    value, base, low, high = found
    change = (value - base) / base if base else float("nan")
    detail = f"{value * scale:.4g} live, {base * scale:.4g} at its test, {change:+.0%}"
    status = OK
    if not np.isfinite(change) or not np.isfinite(low):
        status = UNKNOWN
    elif abs(change) >= limit and (low > 0 or high < 0):
        status = ALERT
    return Figure(metric=metric, subject="all", value=finite(value * scale), threshold=limit,
                  status=status, detail=detail)  # fmt: skip


def measure_window(
    live_rows: pd.DataFrame, reference_rows: pd.DataFrame, slices: tuple[str, ...], policy: Policy
) -> list[Figure]:
    """All figures of a window of matured days."""
    performance, live, reference = policy.performance, Sample(live_rows), Sample(reference_rows)
    if live.frauds < policy.gate.minimum_positives or live.frauds == len(live):
        needed = policy.gate.minimum_positives
        detail = f"{len(live)} matured answers with {live.frauds} frauds, needed {needed}"
        return [Figure(metric="pr_auc", subject="all", status=UNKNOWN, detail=detail)]
    samples, level, days = performance.bootstrap_samples, 1 - policy.drift.significance, live.days

    def compared(measure: Measure) -> tuple[float, float, float, float]:
        return difference(measure, live, reference, samples, level)

    threshold, business = policy.decisions.review_above, performance.business_change_alert
    figures = [
        quality_figure("pr_auc", "all", compared(pr_auc), days, policy),
        quality_figure(
            "recall_at_fpr", "all", compared(recall_at(performance.false_positive_rate)), days, policy
        ),
        business_figure("alerts_a_day", compared(alert_share(threshold)), len(live) / days, business),
        business_figure("fraud_amount_stopped", compared(stopped_share(threshold)), 1.0, business),
        business_figure("fraud_share", compared(fraud_share), 1.0, performance.label_change_alert),
    ]
    # several slices are looked at: each must be surer of its drop than the whole
    stricter = 1 - policy.drift.significance / max(len(slices), 1)
    for name in slices:
        mine, base = (Sample(rows[SLICES[name](rows)]) for rows in (live_rows, reference_rows))
        figures.append(_slice_figure(name, mine, base, days, stricter, policy))
    return figures


def _slice_figure(name: str, mine: Sample, base: Sample, days: int, level: float, policy: Policy) -> Figure:
    fewest = policy.gate.minimum_positives
    found = mine.frauds, base.frauds
    if min(found) < fewest:
        detail = f"{found[0]} frauds live, {found[1]} at its test, needed {fewest}: reported, not deciding"
        value = whole(pr_auc, mine) if 0 < found[0] < len(mine) else float("nan")
        return Figure(metric="pr_auc", subject=name, value=finite(value), detail=detail)
    samples = policy.performance.bootstrap_samples
    figure = quality_figure("pr_auc", name, difference(pr_auc, mine, base, samples, level), days, policy)
    # a slice alone tells people; it does not retrain
    return figure.model_copy(update={"status": ALERT}) if figure.status in (RETRAIN, PAGE) else figure


def champion_figures(
    settings: Settings, champion: registry.VersionState, day: date
) -> tuple[list[Figure], pd.DataFrame]:
    """Figures of the champion, or of the version before it where its own answers have not matured yet."""
    lake, policy, contract = lake_of(settings), policy_of(settings), contract_of(settings)
    nothing = pd.DataFrame({"is_fraud": []})
    reference = load_reference(settings, champion.run_id)
    if reference is None or reference.empty:
        return [_unknown(f"version {champion.version} keeps no reference")], nothing
    matured = Matured(settings, day)
    rows = matured.rows(champion.version)
    begin = rows["day"].min().date() if len(rows) else matured.last
    missing = missing_label_days(lake, begin, day, contract.labels) if len(rows) else []
    if missing:
        return [_unknown(f"the chargebacks of {named_days(missing)} are not merged; "
                         "run fraud_labels for them")], rows  # fmt: skip
    frauds = int(rows["is_fraud"].sum())
    began = begin > matured.first if len(rows) else matured.answers_later(champion.version)
    if frauds >= policy.gate.minimum_positives or not began:
        return measure_window(rows, reference, contract.slices, policy), rows
    detail = (f"version {champion.version} serves too short: {len(rows)} matured answers with {frauds} "
              f"frauds, needed {policy.gate.minimum_positives}")  # fmt: skip
    young = Figure(metric="pr_auc", subject="all", status=INVESTIGATE, detail=detail)
    return [young, *replaced_figures(settings, champion.version, matured, day)], rows


def replaced_figures(settings: Settings, champion: str, matured: Matured, day: date) -> list[Figure]:
    """What the version that served before shows; none where there is no such version, or nothing to show."""
    lake, policy, contract = lake_of(settings), policy_of(settings), contract_of(settings)
    version = matured.served_before(champion)
    if not version:
        return []
    known = registry.read_version(registry.registry_client(settings), settings.model_name, version)
    reference = load_reference(settings, known.run_id) if known else None
    if reference is None or reference.empty:
        return []
    rows = matured.rows(version)
    if not len(rows) or missing_label_days(lake, rows["day"].min().date(), day, contract.labels):
        return []
    milder = {RETRAIN: ALERT, PAGE: ALERT, UNKNOWN: INVESTIGATE}
    return [
        each.model_copy(
            update={"subject": OF_VERSION + version, "status": milder.get(each.status, each.status)}
        )
        for each in measure_window(rows, reference, (), policy)
    ]


def _unknown(why: str) -> Figure:
    return Figure(metric="pr_auc", subject="all", status=UNKNOWN, detail=why)


def run(params: Params, settings: Settings) -> Receipt:
    watch = Stopwatch()
    lake, policy, contract = lake_of(settings), policy_of(settings), contract_of(settings)
    champion = read_champion(settings)
    first, last = matured_days(params.day, contract.labels.maturity_days, policy.performance.window_days)
    figures, live = [_unknown("no champion")], pd.DataFrame({"is_fraud": []})
    if champion is not None:
        figures, live = champion_figures(settings, champion, params.day)
    version = write_figures(lake, params.day, PERFORMANCE, figures)
    alerts = raise_alerts(settings, alerts_of(settings, params.day, figures))
    values = {f"{each.metric} {each.subject}": each.value for each in figures[:4]}
    facts = {
        "status": worst(figures), "model_version": champion.version if champion else "",
        "first_day": str(first), "last_day": str(last), "rows": len(live),
        "frauds": int(live["is_fraud"].sum()), "figures": values, "new_alerts": alerts,
    }  # fmt: skip
    return Receipt(
        job="measure_performance", table="monitoring", partition=f"{params.day}.{PERFORMANCE}",
        version=version, rows=len(figures), seconds=watch.seconds, facts=facts,
    )  # fmt: skip
