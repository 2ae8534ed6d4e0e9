"""The metrics of an experiment: how the arms stand and by how much they differ.

In: one row per customer (jobs/experiments/customers.py), what was known of each before the start, and the
answers.
Out: one `Reading` per metric. Means and ratios by Welch's test of customers' (linearised) values after
CUPED; the share of customers by the two-proportion z-test; PR-AUC by resampling customers.
A metric that the data cannot give is a Reading without figures that says why.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd
from scipy import stats

from jobs.evaluation.metrics import Ranking
from jobs.experiments.comparison import (
    Comparison,
    Floats,
    cuped,
    linearised,
    newcombe_interval,
    summary,
    two_proportions,
    welch,
)
from jobs.experiments.customers import HELD_OUT_MIN, Assigned

NAN: Final = float("nan")
SEED = 11


@dataclass(frozen=True)
class Metric:
    """What is measured; `better` is 1 where more of it is better, -1 where less is."""

    name: str
    title: str
    better: int
    test: str


METRICS = (
    Metric("fraud_lost", "fraud let through per customer, minor units", -1, "Welch, CUPED"),
    Metric("fraud_share", "share of frauds among what was let through", -1,
           "Welch on the delta method, CUPED"),
    Metric("honest_stopped", "share of honest transactions challenged or blocked", -1,
           "Welch on the delta method, CUPED, holdout weights"),
    Metric("honest_challenged", "share of customers without a fraud who were challenged", -1,
           "two-proportion z"),
    Metric("pr_auc", "PR-AUC of the arm's scores", 1, "resampled customers, holdout weights"),
)  # fmt: skip


@dataclass(frozen=True)
class Reading:
    """One metric of both arms; `deviation` is of one customer's value, `interval` takes a critical |z|."""

    metric: Metric
    control: float = NAN
    treatment: float = NAN
    pooled: float = NAN  # of both arms together
    effect: float = NAN
    z_score: float = NAN
    p_value: float = NAN
    deviation: float = NAN
    variance_kept: float = 1.0  # what CUPED left of the variance
    note: str = ""
    interval: Callable[[float], tuple[float, float]] = lambda critical: (NAN, NAN)


def read_metrics(
    assigned: Assigned, customers: pd.DataFrame, before: np.ndarray, frauds: set[int], samples: int
) -> list[Reading]:
    """Every metric; `samples` resamples for PR-AUC."""
    ones = np.ones(len(customers))
    no_holdout = (
        f"an arm has blocks and fewer than {HELD_OUT_MIN} held-out rows to stand for them"
        if any(assigned.unknown_blocks)
        else ""
    )
    lost, share, stopped, challenged, ranking = METRICS
    return [
        ratio(lost, customers, _column(customers, "fraud_lost"), ones, before),
        ratio(
            share,
            customers,
            _column(customers, "let_through_frauds"),
            _column(customers, "let_through"),
            before,
        ),
        Reading(stopped, note=no_holdout)
        if no_holdout
        else ratio(
            stopped, customers, _column(customers, "honest_stopped"), _column(customers, "honest"), before
        ),
        proportion(challenged, customers[customers["defrauded"] == 0], "challenged"),
        Reading(ranking, note=no_holdout)
        if no_holdout
        else ranked(ranking, assigned.answers, frauds, samples),
    ]


def ratio(
    metric: Metric, customers: pd.DataFrame, numerator: Floats, denominator: Floats, before: np.ndarray
) -> Reading:
    """Sum of numerators over sum of denominators in each arm; a mean where every denominator is 1."""
    treated = customers["treated"].to_numpy(dtype=bool)
    values = np.empty(len(customers))
    for arm in (treated, ~treated):
        values[arm] = linearised(numerator[arm], denominator[arm])
    if not np.isfinite(values).all() or min(treated.sum(), (~treated).sum()) < 2:
        return Reading(metric, note="an arm has nothing to measure it by")
    plain = values[~treated].mean(), values[treated].mean()
    adjusted = cuped(values, treated, before)
    found = welch(summary(adjusted[~treated]), summary(adjusted[treated]))
    spread, left = (
        float(np.mean([each[arm].var(ddof=1) for arm in (treated, ~treated)])) for each in (values, adjusted)
    )
    return Reading(
        metric, float(plain[0]), float(plain[1]), float(numerator.sum() / denominator.sum()),
        *_figures(found),
        deviation=float(np.sqrt(left)),
        variance_kept=left / spread if spread > 0 else 1.0,
        interval=_interval(found),
    )  # fmt: skip


def proportion(metric: Metric, customers: pd.DataFrame, column: str) -> Reading:
    """Share of customers with a 1."""
    treated = customers["treated"].to_numpy(dtype=bool)
    hit = _column(customers, column)
    counts = (
        float(hit[~treated].sum()), float((~treated).sum()), float(hit[treated].sum()), float(treated.sum())
    )  # fmt: skip
    if not counts[1] or not counts[3]:
        return Reading(metric, note="an arm has no customer without a fraud")
    found = two_proportions(*counts)
    share = float(hit.mean())
    return Reading(
        metric, counts[0] / counts[1], counts[2] / counts[3], share, *_figures(found),
        deviation=float(np.sqrt(share * (1 - share))),
        interval=lambda critical: newcombe_interval(*counts, critical),
    )  # fmt: skip


def ranked(metric: Metric, answers: pd.DataFrame, frauds: set[int], samples: int) -> Reading:
    """PR-AUC of the scores of each arm, its customers drawn again with Poisson(1) weights."""
    scored = answers[answers["score"].notna() & answers["weight"].gt(0)]
    generator = np.random.default_rng(SEED)
    drawn, values, customers = [], [], 0
    for arm in (False, True):
        rows = scored[scored["treated"].eq(arm)]
        truth = rows["transaction_id"].isin(frauds).to_numpy(dtype=np.float64)
        if not 0 < truth.sum() < len(truth):
            return Reading(metric, note="an arm has no scored fraud, or nothing but frauds")
        codes, names = pd.factorize(rows["customer_id"])
        own, rank = _column(rows, "weight"), Ranking(_column(rows, "score"), truth)
        values.append(rank.average_precision(own))
        draws = (generator.poisson(1.0, len(names))[codes] for _ in range(samples))
        drawn.append(np.array([rank.average_precision(own * times) for times in draws]))
        customers += len(names)
    differences = drawn[1] - drawn[0]
    if np.isnan(differences).mean() > 0.01:  # a rare empty resample is no evidence
        return Reading(metric, values[0], values[1], note="too few frauds to resample")
    error = float(np.nanstd(differences, ddof=1))
    effect = np.asarray(values[1] - values[0])
    p_value = np.asarray(2 * stats.norm.sf(abs(effect) / error) if error > 0 else 1.0)
    found = Comparison(effect, np.asarray(error), np.asarray(np.inf), p_value)
    share = float(answers.drop_duplicates("customer_id")["treated"].mean())
    # the deviation with which the formula for means gives this standard error
    deviation = error * float(np.sqrt(customers * share * (1 - share)))
    return Reading(
        metric,
        values[0],
        values[1],
        float(np.mean(values)),
        *_figures(found),
        deviation=deviation,
        interval=_interval(found),
    )


def _figures(found: Comparison) -> tuple[float, float, float]:
    return float(found.effect), float(found.z_score), float(found.p_value)


def _interval(found: Comparison) -> Callable[[float], tuple[float, float]]:
    def of(critical: float) -> tuple[float, float]:
        low, high = found.interval(critical)
        return float(low), float(high)

    return of


def _column(rows: pd.DataFrame, name: str) -> Floats:
    return rows[name].to_numpy(dtype=np.float64)
