"""Scores of a step: against the challenger's own in shadow and offline, and its ranks beside the champion's.

Requests of one customer are alike: customers are drawn, and summed over, as a whole.
Source of the ranks' standard error: DeLong, DeLong and Clarke-Pearson 1988, clustered as Obuchowski 1997.
"""

from __future__ import annotations

from math import nan, sqrt

import numpy as np
import pandas as pd
from scipy import stats

from jobs.conf.policy import Policy
from jobs.core import Check, Outcome
from jobs.monitoring.statistics import Floats, psi_lower_bound, quantile_edges
from jobs.promotion.look import Look, joined, latest_of_hours, latest_scores, made_check, no_rows
from jobs.promotion.sequential import FIRST_LOOK
from jobs.promotion.state import percent_of

DRAWS = 200
CLUSTERS = 200  # more customers than this are drawn in groups
ROWS_OF_A_BIN = 12
HOUR_AT_LEAST = 12  # scores of an hour of the day: fewer stand for no hour
TOP_SHARE = 0.25  # of the champion's scores: what it holds for suspicious


def scores(look: Look, policy: Policy) -> list[Check]:
    """The challenger's scores against its own in shadow, and its own offline ones, at the same hours.

    A step at hours that the shadow has not seen is held against the offline scores alone.
    """
    limit, evidence = policy.canary.score_psi_max, look.evidence
    answered = latest_scores(evidence.challenger) if look.number else no_rows()
    offline = _against_offline(look, answered, policy)
    checks = [offline] if offline is not None else []
    if percent_of(evidence.step):
        name, shadow = "score PSI against own shadow", latest_of_hours(evidence.shadow)
        shift = _score_shift(shadow, answered, policy, look.alpha)
        if shift is not None:
            checks.insert(0, _shift_check(name, *shift, limit))
        elif offline is None:
            detail = f"{len(answered)} canary and {len(shadow)} shadow scores: too few of the same hours"
            checks.append(made_check(name, Outcome.INCONCLUSIVE, nan, limit, detail))
    return checks


def _against_offline(look: Look, answered: pd.DataFrame, policy: Policy) -> Check | None:
    """Live scores against the offline ones; what the champion's scores moved as well is the world's doing."""
    evidence = look.evidence
    shift = _offline_shift(evidence.challenger_reference, answered, policy, look.alpha)
    if shift is None:
        return None
    champion = latest_scores(joined(evidence.champion, evidence.champion_before))
    moved = _offline_shift(evidence.champion_reference, champion, policy, look.alpha)
    world = moved[0] if moved is not None else 0.0
    name, limit = "score PSI against own offline scores", policy.canary.score_psi_max
    return _shift_check(name, shift[0] - world, shift[1] - world, limit)


def _offline_shift(
    reference: pd.DataFrame | None, answered: pd.DataFrame, policy: Policy, alpha: float
) -> tuple[float, float] | None:
    if reference is None:
        return None
    each_alone = reference.assign(customer_id=np.arange(len(reference)))
    return _score_shift(each_alone, answered, policy, alpha)


def _shift_check(name: str, value: float, lower: float, limit: float) -> Check:
    if lower > limit:
        detail = f"{name} is {value:.2f}, at least {lower:.2f}; allowed {limit:g}"
        return made_check(name, Outcome.FAIL, value, limit, detail)
    return made_check(name, Outcome.PASS, value, limit)


def _score_shift(
    pool: pd.DataFrame, answered: pd.DataFrame, policy: Policy, alpha: float
) -> tuple[float, float] | None:
    """PSI of scores at the same hours and its lower bound, customers drawn as a whole; None of too few.

    Bins are as fine as the samples bear.
    """
    pool, answered = at_the_same_hours(pool, answered)
    size = min(pool["weight"].sum(), len(answered))
    if size < FIRST_LOOK:
        return None
    bins = int(np.clip(size // ROWS_OF_A_BIN, 3, policy.drift.bins))
    edges = quantile_edges(_rounded(pool["score"].to_numpy(dtype=np.float64)), bins)
    return psi_lower_bound(
        _counts_by_cluster(pool, edges),
        _counts_by_cluster(answered, edges),
        z_score=float(stats.norm.isf(alpha)),
        samples=DRAWS,
        generator=np.random.default_rng(7),
    )


def at_the_same_hours(pool: pd.DataFrame, answered: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows of hours that both have; `weight` gives the pool's the other's shares of hours.

    Weights sum to the number of unweighted rows that tell as much (Kish 1965, Survey Sampling, 11.7). Nights
    have other payments than days, so a step that begins by night differs from a shadow of the day before.
    """
    there = pool["hour"].value_counts()
    answered = answered[answered["hour"].isin(there.index[there >= HOUR_AT_LEAST])]
    asked = answered["hour"].value_counts()
    pool = pool[pool["hour"].isin(asked.index)]
    weight = pool["hour"].map(asked / there).astype(np.float64)
    if len(pool):
        weight *= weight.sum() / (weight**2).sum()
    return pool.assign(weight=weight), answered.assign(weight=1.0)


def _counts_by_cluster(rows: pd.DataFrame, edges: Floats) -> Floats:
    codes = pd.factorize(rows["customer_id"])[0] % CLUSTERS
    places = np.searchsorted(edges, _rounded(rows["score"].to_numpy(dtype=np.float64)), side="left")
    counts = np.zeros((int(codes.max()) + 1, len(edges) + 1))
    np.add.at(counts, (codes, places), rows["weight"].to_numpy(dtype=np.float64))
    return counts


def _rounded(values: Floats) -> Floats:
    """Calibrated scores come in plateaus: a difference in the last bit must not move one over an edge."""
    return np.asarray(np.round(values, 6), dtype=np.float64)


def agreement(look: Look, policy: Policy) -> Check:
    """Whether the challenger sees danger where the champion does: both have scored the shadow's requests.

    The chance that it ranks a request of the champion's suspicious quarter above another one: 0.5 is what a
    model knows that was trained on noise. A better model may well disagree, but not about everything.
    """
    name, limit = "agreement with the champion's ranks", policy.canary.agreement_min
    columns = ["request_id", "customer_id", "score"]
    pairs = latest_scores(look.evidence.challenger)[columns].merge(
        latest_scores(look.evidence.champion)[["request_id", "score"]],
        on="request_id",
        suffixes=("", "_champion"),
    )
    theirs = _rounded(pairs["score_champion"].to_numpy(dtype=np.float64))
    top = theirs > np.quantile(theirs, 1 - TOP_SHARE) if len(theirs) else np.empty(0, dtype=bool)
    if look.number == 0 or len(pairs) < FIRST_LOOK or not 1 < top.sum() < len(top) - 1:
        detail = f"{len(pairs)} requests that both have scored: too few, or all alike"
        return made_check(name, Outcome.INCONCLUSIVE, nan, limit, detail)
    mine = _rounded(pairs["score"].to_numpy(dtype=np.float64))
    value, error = clustered_auc(mine, top, pairs["customer_id"].to_numpy())
    upper = value + float(stats.norm.isf(look.alpha)) * error
    if upper < limit:
        detail = f"{name} is {value:.2f}, at most {upper:.2f}; 0.5 is chance, needed {limit:g}"
        return made_check(name, Outcome.FAIL, value, limit, detail)
    return made_check(name, Outcome.PASS, value, limit)


def clustered_auc(values: Floats, top: np.ndarray, clusters: np.ndarray) -> tuple[float, float]:
    """Chance that a value of the top stands above another, ties half, and its standard error.

    Args:
        values: [rows].
        top: [rows], who should stand above; both kinds must be there.
        clusters: [rows], rows of one cluster are correlated.
    """
    above, below = values[top], values[~top]
    wins = np.empty(len(values))
    wins[top] = _share_below(above, below)
    wins[~top] = 1.0 - _share_below(below, above)
    area = float(wins[top].mean())
    influence = np.where(top, (wins - area) / len(above), (wins - area) / len(below))
    sums = np.bincount(pd.factorize(clusters)[0], weights=influence)
    return area, sqrt(float((sums**2).sum()))


def _share_below(values: Floats, others: Floats) -> Floats:
    """For each value the share of the others below it, ties half."""
    ordered = np.sort(others)
    left = np.searchsorted(ordered, values, side="left")
    right = np.searchsorted(ordered, values, side="right")
    return np.asarray((left + right) / (2.0 * len(others)), dtype=np.float64)
