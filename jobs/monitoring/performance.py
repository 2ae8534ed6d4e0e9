"""Performance of the champion on matured labels, against its own test rows.

In: prediction log of the last window_days matured days (answers of the champion's version), labels known at
the end of the day, reference rows of the champion. Out: the part "<day>.performance" of `monitoring`: PR-AUC
and recall at the policy's FPR with the interval of their difference, alerts a day, share of the fraud
amount that was stopped, and PR-AUC per slice of the contract.
Days differ more than rows do (a compromised terminal is a run of frauds), so the bootstrap draws days, and
rows within them. Fewer days or frauds than needed are `unknown`, and so is a window of which a day's
chargebacks are not merged: a silent feed must not look like a collapse. Rows of cards that were known to be
compromised count as little as among the reference rows.
Errors: none for missing data; SluiceError where MLflow does not answer.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, timedelta

import numpy as np
import numpy.typing as npt
import pandas as pd

from jobs.alerts import raise_alerts
from jobs.conf.contract import contract_of
from jobs.conf.policy import Policy, policy_of
from jobs.conf.settings import Settings
from jobs.core import DayParams, Receipt, Stopwatch, midnight
from jobs.evaluation.labels import (
    first_word_of_fraud,
    latest_labels,
    matured_days,
    missing_label_days,
    named_days,
    of_known_cards,
)
from jobs.evaluation.metrics import Ranking, recall_at_fpr
from jobs.evaluation.slices import SLICES
from jobs.lake.store import Lake, lake_of
from jobs.lake.tables import LABELS, TRANSACTIONS
from jobs.monitoring.features_logged import logged_rows, with_features
from jobs.monitoring.figures import (
    ALERT,
    INVESTIGATE,
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
from jobs.monitoring.reference import load_reference

READS: tuple[str, ...] = ("predictions", "labels", "reference")
WRITES: tuple[str, ...] = ("monitoring",)

VARIANTS = ("champion", "holdout")
FEWEST_DAYS = 3  # one day's figure has a standard deviation near 0.05 and decides nothing
Weights = npt.NDArray[np.float64]
Measure = Callable[[pd.DataFrame, Weights | None], float]


class Params(DayParams):
    pass


def labelled(predictions: pd.DataFrame, labels: pd.DataFrame, end: pd.Timestamp) -> pd.DataFrame:
    """Predictions with their label as it was known before `end`: the latest word, else no fraud."""
    truth = latest_labels(labels, end).set_index("transaction_id")["is_fraud"]
    found = predictions["transaction_id"].map(truth).fillna(0).astype(float)
    return predictions.assign(is_fraud=found)


def known_frauds(lake: Lake, labels: pd.DataFrame, earliest: date, end: pd.Timestamp) -> pd.DataFrame:
    """customer_id and known_at of every fraud among the labels, of transactions since `earliest`."""
    frauds = first_word_of_fraud(labels, end).reset_index()
    payers = lake.read(TRANSACTIONS, first=earliest, columns=["transaction_id", "customer_id"]).to_pandas()
    return frauds.merge(payers.drop_duplicates("transaction_id"), on="transaction_id")


def live_rows(lake: Lake, version: str, first: date, last: date) -> pd.DataFrame:
    """One answer of the version per transaction of the days, with amount and features."""
    columns = ["day", "transaction_id", "customer_id", "event_time", "amount_minor", "model_version",
               "variant", "score", "error", "served_at"]  # fmt: skip
    rows = logged_rows(lake, first, last, columns)
    rows = rows[rows["model_version"].eq(version) & rows["variant"].isin(VARIANTS)]
    rows = rows[rows["error"].fillna("").eq("") & rows["score"].notna()]
    rows = rows.sort_values("served_at").drop_duplicates("transaction_id", keep="last")
    return with_features(rows.reset_index(drop=True))


def pr_auc(rows: pd.DataFrame, weights: Weights | None) -> float:
    return Ranking(_scores(rows), _truth(rows)).average_precision(weights)


def recall_at(rate: float) -> Measure:
    """Recall at a false-positive rate; resampled rows are repeated."""

    def measure(rows: pd.DataFrame, weights: Weights | None) -> float:
        scores, truth = _scores(rows), _truth(rows)
        if weights is not None:
            drawn = np.repeat(np.arange(len(rows)), weights.astype(int))
            scores, truth = scores[drawn], truth[drawn]
        if truth.sum() in (0, len(truth)):
            return float("nan")
        return float(recall_at_fpr(scores, truth, rate))

    return measure


def alert_share(threshold: float) -> Measure:
    """Share of transactions that are not simply approved."""

    def measure(rows: pd.DataFrame, weights: Weights | None) -> float:
        return float(np.average(_scores(rows) > threshold, weights=weights))

    return measure


def stopped_share(threshold: float) -> Measure:
    """Share of the fraud amount that is not simply approved."""

    def measure(rows: pd.DataFrame, weights: Weights | None) -> float:
        lost = _truth(rows) * rows["amount_minor"].to_numpy(dtype=np.float64)
        lost = lost if weights is None else lost * weights
        total = lost.sum()
        return float((lost * (_scores(rows) > threshold)).sum() / total) if total else float("nan")

    return measure


def fraud_share(rows: pd.DataFrame, weights: Weights | None) -> float:
    """Share of frauds."""
    return float(np.average(_truth(rows), weights=weights))


def day_weights(rows: pd.DataFrame, samples: int, seed: int) -> list[Weights]:
    """How often each row is drawn, once per sample: days first, then rows within the days."""
    generator = np.random.default_rng(seed)
    codes, days = pd.factorize(pd.to_datetime(rows["event_time"], utc=True).dt.date)
    even = np.full(len(days), 1.0 / len(days))
    drawn = generator.multinomial(len(days), even, size=samples)
    return [generator.poisson(each[codes]).astype(np.float64) for each in drawn]


def difference(
    measure: Measure, live: pd.DataFrame, reference: pd.DataFrame, samples: int, level: float
) -> tuple[float, float, float, float]:
    """Live and reference figure, and the interval of live minus reference."""
    draws = zip(day_weights(live, samples, 5), day_weights(reference, samples, 6), strict=True)
    found = np.array([measure(live, mine) - measure(reference, other) for mine, other in draws])
    found = found[np.isfinite(found)]
    if len(found) < samples * 0.9:
        return measure(live, None), measure(reference, None), float("nan"), float("nan")
    low, high = np.quantile(found, [(1 - level) / 2, (1 + level) / 2])
    return measure(live, None), measure(reference, None), float(low), float(high)


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
    live: pd.DataFrame, reference: pd.DataFrame, slices: tuple[str, ...], policy: Policy
) -> list[Figure]:
    """All figures of a window of matured days."""
    performance, frauds = policy.performance, int(live["is_fraud"].sum())
    days = pd.to_datetime(live["event_time"], utc=True).dt.date.nunique()
    if frauds < policy.gate.minimum_positives or frauds == len(live):
        detail = f"{len(live)} matured answers with {frauds} frauds, needed {policy.gate.minimum_positives}"
        return [Figure(metric="pr_auc", subject="all", status=UNKNOWN, detail=detail)]
    samples, level = performance.bootstrap_samples, 1 - policy.drift.significance

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
        mine, base = live[SLICES[name](live)], reference[SLICES[name](reference)]
        figures.append(_slice_figure(name, mine, base, days, stricter, policy))
    return figures


def _slice_figure(
    name: str, mine: pd.DataFrame, base: pd.DataFrame, days: int, level: float, policy: Policy
) -> Figure:
    fewest = policy.gate.minimum_positives
    found = [int(rows["is_fraud"].sum()) for rows in (mine, base)]
    if min(found) < fewest:
        detail = f"{found[0]} frauds live, {found[1]} at its test, needed {fewest}: reported, not deciding"
        value = pr_auc(mine, None) if 0 < found[0] < len(mine) else float("nan")
        return Figure(metric="pr_auc", subject=name, value=finite(value), detail=detail)
    samples = policy.performance.bootstrap_samples
    figure = quality_figure("pr_auc", name, difference(pr_auc, mine, base, samples, level), days, policy)
    # a slice alone tells people; it does not retrain
    return figure.model_copy(update={"status": ALERT}) if figure.status in (RETRAIN, PAGE) else figure


def _scores(rows: pd.DataFrame) -> Weights:
    return rows["score"].to_numpy(dtype=np.float64)


def _truth(rows: pd.DataFrame) -> Weights:
    return rows["is_fraud"].to_numpy(dtype=np.float64)


def run(params: Params, settings: Settings) -> Receipt:
    watch = Stopwatch()
    lake, policy, contract = lake_of(settings), policy_of(settings), contract_of(settings)
    champion = read_champion(settings)
    reference = load_reference(settings, champion.run_id) if champion else None
    first, last = matured_days(params.day, contract.labels.maturity_days, policy.performance.window_days)
    live = pd.DataFrame({"is_fraud": []})
    if champion is None or reference is None or reference.empty:
        why = "no champion" if champion is None else f"version {champion.version} keeps no reference"
        figures = [Figure(metric="pr_auc", subject="all", status=UNKNOWN, detail=why)]
    else:
        rows = live_rows(lake, champion.version, first, last)
        known_card_days = policy.training.known_card_days
        labels_from = first - timedelta(days=known_card_days + 1)
        labels = lake.read(LABELS, first=labels_from, last=params.day).to_pandas()
        end = pd.Timestamp(midnight(params.day + timedelta(days=1)))
        frauds = known_frauds(lake, labels, labels_from - timedelta(days=contract.labels.maturity_days), end)
        live = labelled(rows, labels, end)
        live = live[~of_known_cards(live, frauds, known_card_days)].reset_index(drop=True)
        begin = min(rows["day"], default=last)
        missing = missing_label_days(lake, begin, params.day, contract.labels)
        if missing:
            detail = f"the chargebacks of {named_days(missing)} are not merged; run fraud_labels for them"
            figures = [Figure(metric="pr_auc", subject="all", status=UNKNOWN, detail=detail)]
        else:
            figures = measure_window(live, reference, contract.slices, policy)
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
