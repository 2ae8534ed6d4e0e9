"""Drift of a day: the inputs and scores that the champion met, against its own test rows.

In: the day's prediction log (all answers, no shadow), reference rows of the champion. Out: the part
"<day>.drift" of `monitoring` (per feature PSI with its status, Jensen-Shannon, Kullback-Leibler,
Holm-adjusted Kolmogorov-Smirnov p; for the scores PSI and chi-square p) and the Evidently report
reports/drift/<day>.html.
A feature is judged against reference rows of the same kind of day (working day or weekend) whose windows
were full, and above `investigate` only where it differs more than the reference's own days do among
themselves and the Kolmogorov-Smirnov test agrees. See docs/decisions/0008-drift-and-canary-guards.md.
Errors: none for missing or too few rows: they are `unknown`, which alerts and never passes.
"""

from __future__ import annotations

from datetime import date, timedelta

import numpy as np
import pandas as pd

from jobs.alerts import raise_alerts
from jobs.conf.contract import contract_of
from jobs.conf.policy import Drift, policy_of
from jobs.conf.settings import Settings
from jobs.core import DayParams, Receipt, Stopwatch, midnight
from jobs.features.declarations import FEATURES, Feature, Nulls
from jobs.lake.store import Lake, lake_of
from jobs.lake.tables import TRANSACTIONS
from jobs.monitoring import statistics
from jobs.monitoring.features_logged import LOGGED, logged_rows, of_this_version, with_features
from jobs.monitoring.figures import (
    ALERT,
    DRIFT,
    INVESTIGATE,
    OK,
    RETRAIN,
    SEVERITY,
    UNKNOWN,
    Figure,
    alerts_of,
    finite,
    read_champion,
    worst,
    write_figures,
)
from jobs.monitoring.reference import load_reference
from jobs.monitoring.report import save_index, save_report

READS: tuple[str, ...] = ("predictions", "reference", "transactions")
WRITES: tuple[str, ...] = ("monitoring",)

VARIANTS = ("champion", "canary", "holdout", "rules")
CALENDAR = ("is_weekend",)  # it selects the reference rows, so it says nothing
NULL_BY_WINDOW = {
    feature.name for feature in FEATURES if feature.nulls in (Nulls.EMPTY, Nulls.FEW, Nulls.FEWER)
}
RARE = 0.01  # share of rows with a value
REPORT_ROWS = 20_000
SCORE = "score"
FEWEST_ROWS_A_DAY = 30


class Params(DayParams):
    pass


def live_rows(lake: Lake, day: date, version: str) -> pd.DataFrame:
    """One row per transaction of the day with the features of its answer, and the version's score."""
    columns = ["transaction_id", "event_time", "variant", "model_version", "score", "error",
               "served_at"]  # fmt: skip
    rows = logged_rows(lake, day, day, columns)
    rows = rows[rows["variant"].isin(VARIANTS) & rows["error"].fillna("").eq("")]
    rows = rows[of_this_version(rows)]
    rows = rows.sort_values("served_at").drop_duplicates("transaction_id", keep="last")
    rows[SCORE] = rows["score"].where(rows["model_version"].eq(version))
    return with_features(rows[["event_time", SCORE, *LOGGED]].reset_index(drop=True))


def days_until_full(feature: Feature, delay_days: int) -> int:
    """Days of history before a feature's window is full."""
    return feature.window.days + (delay_days if feature.delayed else 0)


def same_kind_of_day(reference: pd.DataFrame, day: date, minimum: int) -> pd.DataFrame:
    """Reference rows of working days or of weekends, as the day is; all of them where these are few."""
    weekend = pd.to_datetime(reference["event_time"], utc=True).dt.weekday >= 5
    alike = reference[weekend == (day.weekday() >= 5)]
    return pd.DataFrame(alike if len(alike) >= minimum else reference)


def usual_psi(values: pd.Series, days: pd.Series, policy: Drift) -> float:
    """The largest PSI that one reference day shows against the other ones; 0 where there is one day only."""
    numbers = statistics.as_floats(values)
    if np.isnan(numbers).all():
        return 0.0
    edges = statistics.quantile_edges(numbers, policy.bins)
    codes, names = pd.factorize(days)
    counts = np.array([statistics.bin_counts(numbers[codes == each], edges) for each in range(len(names))])
    found = [0.0]
    for mine, rest in zip(counts, counts.sum(axis=0) - counts, strict=True):
        used = (mine + rest) > 0
        if min(mine.sum(), rest.sum()) >= FEWEST_ROWS_A_DAY:
            pair = (statistics.shares(each[used], policy.bin_floor) for each in (rest, mine))
            found.append(statistics.psi_of_shares(*pair))
    return max(found)


def psi_status(psi: float, policy: Drift) -> str:
    """The policy's bands."""
    if not np.isfinite(psi):
        return UNKNOWN
    if psi < policy.psi_investigate:
        return OK
    if psi < policy.psi_alert:
        return INVESTIGATE
    return ALERT if psi < policy.psi_retrain else RETRAIN


def guarded(status: str, psi: float, usual: float, p_value: float, policy: Drift) -> tuple[str, str]:
    """A status above `investigate` only where the day is unusual and the distribution test agrees."""
    if SEVERITY.index(status) <= SEVERITY.index(UNKNOWN):
        return status, ""
    if psi <= usual + policy.psi_investigate:
        return INVESTIGATE, f"PSI {psi:.2f}, days of the reference reach {usual:.2f} among themselves"
    if not p_value < policy.significance:
        return INVESTIGATE, f"PSI {psi:.2f}, Kolmogorov-Smirnov p {p_value:.2g}"
    return status, f"PSI {psi:.2f} against at most {usual:.2f} among the reference's own days"


def measure(
    reference: pd.DataFrame,
    current: pd.DataFrame,
    day: date,
    first_day: date,
    delay_days: int,
    policy: Drift,
) -> list[Figure]:
    """Figures of every feature and of the score."""
    if len(current) < policy.minimum_rows or len(reference) < policy.minimum_rows:
        detail = f"{len(reference)} reference and {len(current)} current rows, needed {policy.minimum_rows}"
        return [Figure(metric="psi", subject="all", status=UNKNOWN, detail=detail,
                       threshold=policy.psi_retrain)]  # fmt: skip
    alike = same_kind_of_day(reference, day, policy.minimum_rows)
    times = pd.to_datetime(alike["event_time"], utc=True)
    chosen = {
        feature.name: alike[
            times >= pd.Timestamp(midnight(first_day + timedelta(days=days_until_full(feature, delay_days))))
        ]
        for feature in FEATURES
        if feature.name not in CALENDAR
    }
    p_values = statistics.holm(
        [
            statistics.kolmogorov_smirnov(
                statistics.as_floats(rows[name]) if name in rows else np.empty(0),
                statistics.as_floats(current[name]),
            )
            for name, rows in chosen.items()
        ]
    )
    figures: list[Figure] = []
    for (name, rows), p_value in zip(chosen.items(), p_values, strict=True):
        figures += feature_figures(name, rows, current, p_value, policy)
    return [*figures, *score_figures(alike, current, policy)]


def feature_figures(
    name: str, rows: pd.DataFrame, current: pd.DataFrame, p_value: float, policy: Drift
) -> list[Figure]:
    """PSI, divergences and the adjusted p-value of one feature."""
    if name not in rows or len(rows) < policy.minimum_rows:
        # nothing is wrong with the day: the reference is too young to say what is usual
        status = INVESTIGATE if name in rows else UNKNOWN
        detail = f"{len(rows)} reference rows with a full window: not compared"
        return [Figure(metric="psi", subject=name, status=status, detail=detail)]
    expected, actual = statistics.as_floats(rows[name]), statistics.as_floats(current[name])
    pair = statistics.shared_bins(expected, actual, policy.bins, policy.bin_floor)
    if pair is None:
        # a window that hardly ever holds enough has no value in many a sample, and nothing is wrong with it
        rare = name in NULL_BY_WINDOW and max(_share_there(expected), _share_there(actual)) <= RARE
        detail = (
            "hardly ever has a value: not compared" if rare else "no value in the reference or in the day"
        )
        return [Figure(metric="psi", subject=name, status=INVESTIGATE if rare else UNKNOWN, detail=detail)]
    psi = statistics.psi_of_shares(*pair)
    usual = usual_psi(rows[name], pd.to_datetime(rows["event_time"], utc=True).dt.date, policy)
    if np.unique(expected[~np.isnan(expected)]).size <= 2:
        # flags: the counts in the bins say all that there is
        p_value = _binned_p(expected, actual, policy.bins)
    status, detail = guarded(psi_status(psi, policy), psi, usual, p_value, policy)
    high = statistics.jensen_shannon(*pair), statistics.kullback_leibler(pair[1], pair[0])
    return [
        Figure(metric="psi", subject=name, value=finite(psi), threshold=policy.psi_retrain,
               status=status, detail=detail),
        Figure(metric="psi_usual", subject=name, value=finite(usual)),
        Figure(metric="jensen_shannon", subject=name, value=finite(high[0]),
               threshold=policy.jensen_shannon_high,
               status=_high(high[0], policy.jensen_shannon_high, status)),
        Figure(metric="kullback_leibler", subject=name, value=finite(high[1]),
               threshold=policy.kullback_leibler_high,
               status=_high(high[1], policy.kullback_leibler_high, status)),
        Figure(metric="ks_p_holm", subject=name, value=finite(p_value), threshold=policy.significance),
    ]  # fmt: skip


def _share_there(values: np.ndarray) -> float:
    return float(np.mean(~np.isnan(values))) if len(values) else 0.0


def score_figures(reference: pd.DataFrame, current: pd.DataFrame, policy: Drift) -> list[Figure]:
    """Prediction drift: chi-square on counts in the score buckets, together with PSI on the same ones."""
    expected = np.round(statistics.as_floats(reference[SCORE]), 6)
    actual = np.round(statistics.as_floats(current[SCORE]), 6)
    actual = actual[~np.isnan(actual)]
    if actual.size < policy.minimum_rows or np.isnan(expected).all():
        detail = f"{actual.size} scores, needed {policy.minimum_rows}"
        return [Figure(metric="prediction_psi", subject=SCORE, status=UNKNOWN, detail=detail)]
    psi = statistics.population_stability_index(expected, actual, policy.score_buckets, policy.bin_floor)
    p_value = _binned_p(expected, actual, policy.score_buckets)
    days = pd.to_datetime(reference["event_time"], utc=True).dt.date
    usual = usual_psi(pd.Series(expected), days, policy)
    moved = p_value < policy.significance and psi >= policy.psi_investigate
    unusual = psi > usual + policy.psi_investigate
    status = (ALERT if unusual else INVESTIGATE) if moved else OK
    return [
        Figure(metric="prediction_psi", subject=SCORE, value=finite(psi),
               threshold=policy.psi_investigate, status=status,
               detail=f"days of the reference reach {usual:.2f} among themselves"),
        Figure(metric="prediction_chi_square_p", subject=SCORE, value=finite(p_value),
               threshold=policy.significance),
    ]  # fmt: skip


def _binned_p(expected: statistics.Floats, actual: statistics.Floats, bins: int) -> float:
    edges = statistics.quantile_edges(expected, bins)
    return statistics.chi_square(statistics.bin_counts(expected, edges), statistics.bin_counts(actual, edges))


def _high(value: float, threshold: float, psi_status: str) -> str:
    """The divergences describe the same bins: they never say more than PSI with its guards."""
    return INVESTIGATE if value >= threshold and psi_status != OK else OK


def history_start(lake: Lake, settings: Settings) -> date:
    """The first day of transactions that features could be made from: late rows of days before are none."""
    days = lake.partitions(TRANSACTIONS)
    if not days:
        return settings.first_day
    latest = date.fromisoformat(days[0]) + timedelta(days=contract_of(settings).transactions.late_days)
    files: list[date] = lake.read(TRANSACTIONS, last=latest, columns=["file_day"])["file_day"].to_pylist()
    return min(files)


def run(params: Params, settings: Settings) -> Receipt:
    watch = Stopwatch()
    lake, policy = lake_of(settings), policy_of(settings)
    champion = read_champion(settings)
    reference = load_reference(settings, champion.run_id) if champion else None
    current = live_rows(lake, params.day, champion.version if champion else "")
    report = ""
    if reference is None or champion is None:
        why = "no champion" if champion is None else f"version {champion.version} keeps no reference"
        figures = [Figure(metric="psi", subject="all", status=UNKNOWN, detail=f"{why} to compare with")]
    else:
        delay = contract_of(settings).labels.delay_days
        start = history_start(lake, settings)
        figures = measure(reference, current, params.day, start, delay, policy.drift)
        if len(current) and len(reference):
            alike = same_kind_of_day(reference, params.day, policy.drift.minimum_rows)
            path = settings.reports / "drift" / f"{params.day}.html"
            save_report(alike, current, path, rows=REPORT_ROWS)
            save_index(path.parent)
            report = f"drift/{path.name}"
    version = write_figures(lake, params.day, DRIFT, figures)
    alerts = raise_alerts(settings, alerts_of(settings, params.day, figures))
    named = [figure.subject for figure in figures if figure.status not in (OK, INVESTIGATE)]
    psi = {figure.subject: figure.value for figure in figures if figure.metric == "psi"}
    largest = max(psi, key=lambda name: psi[name] or 0.0)
    facts = {
        "status": worst(figures), "model_version": champion.version if champion else "",
        "reference_rows": 0 if reference is None else len(reference), "current_rows": len(current),
        "named": named[:10], "largest_psi": {largest: psi[largest]}, "new_alerts": alerts,
        "report": report,
    }  # fmt: skip
    return Receipt(
        job="measure_drift", table="monitoring", partition=f"{params.day}.{DRIFT}", version=version,
        rows=len(figures), seconds=watch.seconds, facts=facts,
    )  # fmt: skip
