"""Scores of a step: against the challenger's own in shadow and offline, and its ranks beside the champion's.

Requests of one customer are alike: customers are drawn, and summed over, as a whole.
Source of the ranks' standard error: DeLong, DeLong and Clarke-Pearson 1988, clustered as Obuchowski 1997.
"""

from __future__ import annotations

from math import hypot, nan, sqrt

import numpy as np
import pandas as pd
from scipy import stats

from jobs.conf.policy import Policy
from jobs.core import Check, Outcome
from jobs.monitoring.statistics import Floats, psi_lower_bound, quantile_edges
from jobs.promotion.look import (
    Look,
    StepEvidence,
    joined,
    latest_latencies,
    latest_of_hours,
    latest_scores,
    made_check,
    no_rows,
)
from jobs.promotion.sequential import FIRST_LOOK
from jobs.promotion.state import percent_of

DRAWS = 200
CLUSTERS = 200  # more customers than this are drawn in groups
ROWS_OF_A_BIN = 12
HOUR_AT_LEAST = 12  # scores of an hour of the day: fewer stand for no hour
TOP_SHARE = 0.25  # of the champion's scores: what it holds for suspicious


def scores(look: Look, policy: Policy) -> list[Check]:
    """The challenger's scores against its own in shadow, and its own offline ones, at the same hours.

    Where too few of one kind are of the step's hours the other one decides; where of both, nothing is known.
    """
    limit, evidence = policy.canary.score_psi_max, look.evidence
    answered = latest_scores(evidence.challenger) if look.number else no_rows()
    asked = {}
    if percent_of(evidence.step):
        asked["shadow"] = _against_shadow(look, answered, policy)
    if evidence.challenger_reference is not None:
        asked["offline scores"] = _against_offline(look, evidence.challenger_reference, answered, policy)
    compared = [check for check in asked.values() if check is not None]
    if compared or not asked:
        return compared
    detail = f"{len(answered)} scores, and too few of the same hours to hold them against"
    name = f"score PSI against own {next(iter(asked))}"
    return [made_check(name, Outcome.INCONCLUSIVE, nan, limit, detail)]


def _against_shadow(look: Look, answered: pd.DataFrame, policy: Policy) -> Check | None:
    found = at_the_same_hours(answered, latest_of_hours(look.evidence.shadow))
    if found is None:
        return None
    compared, shadow = found
    shift = _score_shift(shadow, compared, _bins(policy, shadow, compared), look.alpha)
    return _shift_check("score PSI against own shadow", *shift, policy.canary.score_psi_max)


def _against_offline(
    look: Look, reference: pd.DataFrame, answered: pd.DataFrame, policy: Policy
) -> Check | None:
    """Live scores against the offline ones; what the champion's scores moved as well is the world's doing."""
    found = at_the_same_hours(answered, _each_alone(reference))
    if found is None:
        return None
    compared, own = found
    world = _champions(look.evidence, compared)
    bins = _bins(policy, own, compared, *(world or ()))  # the same for both: more bins give more PSI
    value, lower = _score_shift(own, compared, bins, look.alpha)
    moved, least = (0.0, 0.0) if world is None else _score_shift(*world, bins, look.alpha)
    # both are estimates, of other rows: their errors add up as those of independent ones
    bound = value - moved - hypot(value - lower, moved - least)
    limit = policy.canary.score_psi_max
    return _shift_check("score PSI against own offline scores", value - moved, bound, limit)


def _champions(evidence: StepEvidence, compared: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame] | None:
    """The champion's offline scores and its answers at these hours, or at its own where it must be."""
    if evidence.champion_reference is None:
        return None
    theirs = _each_alone(evidence.champion_reference)
    answered, before = latest_scores(evidence.champion), evidence.champion_before
    found = at_the_same_hours(compared, joined(answered, latest_of_hours(before)), theirs)
    if found is None:
        own = answered if evidence.side_by_side else latest_scores(latest_latencies(before))
        found = at_the_same_hours(own, own, theirs)
    return None if found is None else (found[2], found[1])


def _each_alone(reference: pd.DataFrame) -> pd.DataFrame:
    return reference.assign(customer_id=np.arange(len(reference)))


def _shift_check(name: str, value: float, lower: float, limit: float) -> Check:
    if lower > limit:
        detail = f"{name} is {value:.2f}, at least {lower:.2f}; allowed {limit:g}"
        return made_check(name, Outcome.FAIL, value, limit, detail)
    return made_check(name, Outcome.PASS, value, limit)


def _bins(policy: Policy, *samples: pd.DataFrame) -> int:
    """As many bins as the smallest of the weighted samples bears."""
    size = round(min(each["weight"].sum() for each in samples), 6)
    return int(np.clip(size // ROWS_OF_A_BIN, 3, policy.drift.bins))


def _score_shift(first: pd.DataFrame, second: pd.DataFrame, bins: int, alpha: float) -> tuple[float, float]:
    """PSI of weighted scores and its lower bound, customers drawn as a whole."""
    scores, weights = (first[name].to_numpy(dtype=np.float64) for name in ("score", "weight"))
    edges = quantile_edges(_rounded(scores), bins, weights)
    return psi_lower_bound(
        _counts_by_cluster(first, edges),
        _counts_by_cluster(second, edges),
        z_score=float(stats.norm.isf(alpha)),
        samples=DRAWS,
        generator=np.random.default_rng(7),
    )


def at_the_same_hours(answered: pd.DataFrame, *pools: pd.DataFrame) -> list[pd.DataFrame] | None:
    """The rows of hours that all have, with their weights; None where too few rows are, or tell too little.

    Nights have other payments than days, so a step that begins by night differs from a shadow of the day
    before. Half of what was answered must be of such hours, or the rest could hide.
    """
    held = [pool["hour"].value_counts() for pool in pools]
    hours = set(answered["hour"]).intersection(*(set(each.index[each >= HOUR_AT_LEAST]) for each in held))
    compared = answered[answered["hour"].isin(hours)]
    found = [weighted_to(compared, pool) for pool in pools]
    enough = min((round(each["weight"].sum(), 6) for each in found), default=0.0)
    if min(enough, len(compared)) < FIRST_LOOK or 2 * len(compared) < len(answered):
        return None
    return [compared.assign(weight=1.0), *found]


def weighted_to(compared: pd.DataFrame, pool: pd.DataFrame) -> pd.DataFrame:
    """The pool's rows at the hours of the others, with the weights that give each hour the others' share.

    Weights sum to the number of unweighted rows that tell as much (Kish 1965, Survey Sampling, 11.7).
    """
    asked = compared["hour"].value_counts()
    pool = pool[pool["hour"].isin(asked.index)]
    weight = pool["hour"].map(asked / pool["hour"].value_counts()).astype(np.float64)
    if len(pool):
        weight *= weight.sum() / (weight**2).sum()
    return pool.assign(weight=weight)


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
