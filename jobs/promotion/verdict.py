"""The verdict on one promotion step: rows of the prediction log in, a `Verdict` out. No I/O, no clock.

In: `StepEvidence`, rows as frames with customer_id, score (NaN where none), failed (the model raised or gave
no score), latency_ms, seconds (since the step's start).
Out: fail as soon as the evidence is beyond chance, whatever the time; pass only when time, sample and every
figure are there; inconclusive otherwise.

A rollback for noise costs a good version, so each figure must exceed its threshold by its lower
confidence bound at `ALPHA`. Requests of one customer are alike, and latency comes in bursts that hit both
variants: customers, and slices of time, are what the bootstrap draws.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import isnan, nan

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats

from jobs.conf.policy import Policy
from jobs.core import Check, Outcome, Verdict
from jobs.monitoring.statistics import Floats, psi_lower_bound, quantile_edges
from jobs.promotion.state import SHADOW_STEP, minutes_of, percent_of, requests_of

ALPHA = 0.001  # chance that one look at a good version takes one figure for bad
Z_SCORE = 3.09  # the same, in standard deviations
DRAWS = 200
CLUSTERS = 200  # more customers than this are drawn in groups
TIME_SLICES = 20
FEWEST = 20  # fewer rows than this say nothing about latency or scores
COLUMNS = ("customer_id", "score", "failed", "latency_ms", "seconds")

# enough rows -> the quantile of latency that they can carry
QUANTILES = ((1000, 0.99), (200, 0.95), (FEWEST, 0.90))


def no_rows() -> pd.DataFrame:
    """A frame of evidence without rows."""
    return pd.DataFrame({name: pd.Series(dtype="float64") for name in COLUMNS})


@dataclass(frozen=True)
class StepEvidence:
    """What is known about a step at one look."""

    step: str
    elapsed_minutes: float
    has_champion: bool
    challenger: pd.DataFrame  # its canary rows, or its shadow rows in the shadow step
    champion: pd.DataFrame  # the champion's answers in the same window
    champion_before: pd.DataFrame = field(default_factory=no_rows)  # of the promotion's earlier steps
    shadow: pd.DataFrame = field(default_factory=no_rows)  # the challenger's own shadow rows
    challenger_reference: Floats | None = None  # its offline scores on its test rows
    champion_reference: Floats | None = None


def judge(evidence: StepEvidence, policy: Policy) -> Verdict:
    """The verdict on a step at this look."""
    checks = [
        _time(evidence, policy),
        _sample(evidence, policy),
        _errors(evidence, policy),
        _latency(evidence, policy),
        *_scores(evidence, policy),
    ]
    if 0 < percent_of(evidence.step) < 100 and evidence.has_champion:
        checks.append(_sample_ratio(evidence, policy))
    return Verdict.of(checks)


def _time(evidence: StepEvidence, policy: Policy) -> Check:
    needed = minutes_of(evidence.step, policy)
    done = evidence.elapsed_minutes >= needed
    return Check(
        name="time",
        outcome=Outcome.PASS if done else Outcome.INCONCLUSIVE,
        value=round(evidence.elapsed_minutes, 3),
        threshold=needed,
        detail="" if done else f"{evidence.elapsed_minutes:.2f} of {needed:g} minutes have passed",
    )


def _sample(evidence: StepEvidence, policy: Policy) -> Check:
    needed, got = requests_of(evidence.step, policy), len(evidence.challenger)
    detail = "" if got >= needed else f"{got} of {needed} requests of the challenger"
    return Check(
        name="requests",
        outcome=Outcome.PASS if got >= needed else Outcome.INCONCLUSIVE,
        value=got,
        threshold=needed,
        detail=detail if got else "no traffic reached the challenger",
    )


def _errors(evidence: StepEvidence, policy: Policy) -> Check:
    """Share of requests on which the challenger raised or gave no score."""
    limit, rows = policy.canary.error_rate_max, len(evidence.challenger)
    failed = int(evidence.challenger["failed"].sum()) if rows else 0
    rate = failed / rows if rows else nan
    others = evidence.champion["failed"]
    champion_rate = float(others.mean()) if len(others) else 0.0
    # a fault that hits both, such as a feature store that is down, is no fault of the challenger
    beyond = rows > 0 and stats.binom.sf(failed - 1, rows, max(limit, champion_rate)) < ALPHA
    outcome, detail = Outcome.PASS, ""
    if beyond:
        outcome = Outcome.FAIL
        detail = f"error rate {rate:.1%} ({failed} of {rows}), allowed {limit:.1%}"
    elif rows == 0 or rate > max(limit, champion_rate):
        outcome = Outcome.INCONCLUSIVE
        detail = f"{failed} errors in {rows} requests: too few to tell from {limit:.1%}"
    return _check("error rate", outcome, rate, limit, detail)


def _latency(evidence: StepEvidence, policy: Policy) -> Check:
    """Against the champion in the same window; absolute where it does not answer in this window.

    A shadow score is made after the response, when the machine has time: its latency has no champion's to
    stand beside and is held against the absolute limit only.
    """
    slow = _present(evidence.challenger["latency_ms"])
    base = _present(evidence.champion["latency_ms"])
    if len(slow) < FEWEST:
        return _check(
            "latency",
            Outcome.INCONCLUSIVE,
            nan,
            policy.canary.latency_ratio_max,
            f"{len(slow)} latencies of the challenger",
        )
    if evidence.step == SHADOW_STEP or not evidence.has_champion or percent_of(evidence.step) == 100:
        return _absolute_latency(evidence, policy)
    if len(base) < FEWEST:
        return _check(
            "latency",
            Outcome.INCONCLUSIVE,
            nan,
            policy.canary.latency_ratio_max,
            f"{len(base)} latencies of the champion in this window to compare with",
        )
    return _relative_latency(evidence, policy)


def _relative_latency(evidence: StepEvidence, policy: Policy) -> Check:
    limit = policy.canary.latency_ratio_max
    slow, base = _timed(evidence.challenger), _timed(evidence.champion)
    quantile = _quantile_for(min(len(slow), len(base)))
    slices = _time_slices(slow["seconds"], base["seconds"])
    columns = slow["latency_ms"], base["latency_ms"]
    ratio, lower = _ratio_bound(*columns, slices, quantile)
    _, median_lower = _ratio_bound(*columns, slices, 0.5)
    # bursts hide a constant delay in the tail of a small sample, never in the median
    added = float(columns[0].median() - columns[1].median())
    typical = median_lower > limit and (ratio > limit or added > policy.gate.latency_p99_ms / 2)
    name = f"p{quantile * 100:.0f} latency / champion"
    if lower > limit or typical:
        detail = f"{name} is {ratio:.1f}, allowed {limit:g}; a typical answer takes {added:.1f} ms more"
        return _check(name, Outcome.FAIL, ratio, limit, detail)
    return _check(name, Outcome.PASS, ratio, limit)


def _absolute_latency(evidence: StepEvidence, policy: Policy) -> Check:
    """Where no champion answers beside it, both the policy's absolute limit and the ratio must be broken."""
    slow = _timed(evidence.challenger)
    quantile = _quantile_for(len(slow))
    label, limit = f"p{quantile * 100:.0f} latency ms", policy.gate.latency_p99_ms
    value, lower = _quantile_bound(slow, quantile)
    before = _present(evidence.champion_before["latency_ms"])
    if percent_of(evidence.step) and len(before) >= FEWEST:
        limit = max(limit, policy.canary.latency_ratio_max * float(np.quantile(before, quantile)))
    if lower > limit:
        return _check(label, Outcome.FAIL, value, limit, f"{label} is {value:.1f}, allowed {limit:.1f}")
    return _check(label, Outcome.PASS, value, limit)


def _scores(evidence: StepEvidence, policy: Policy) -> list[Check]:
    """The challenger's scores against its own in shadow, and against its own offline ones."""
    limit = policy.canary.score_psi_max
    answered = _scored(evidence.challenger)
    checks = []
    if percent_of(evidence.step):
        name = "score PSI against own shadow"
        shadow = _scored(evidence.shadow)
        if len(answered) < FEWEST or len(shadow) < FEWEST:
            detail = f"{len(answered)} canary and {len(shadow)} shadow scores: too few"
            checks.append(_check(name, Outcome.INCONCLUSIVE, nan, limit, detail))
        else:
            pooled = shadow["score"].to_numpy(dtype=np.float64)
            value, lower = _score_shift(pooled, shadow, answered, policy)
            checks.append(_shift_check(name, value, lower, limit))
    if evidence.challenger_reference is not None and len(answered) >= FEWEST:
        checks.append(_against_offline(evidence, answered, policy))
    return checks


def _against_offline(evidence: StepEvidence, answered: pd.DataFrame, policy: Policy) -> Check:
    """Live scores against the offline ones; what the champion's scores moved as well is the world's doing."""
    reference = evidence.challenger_reference
    limit, world = policy.canary.score_psi_max, 0.0
    assert reference is not None  # noqa: S101 - the caller asked
    offline = pd.DataFrame({"customer_id": np.arange(len(reference)), "score": reference})
    value, lower = _score_shift(reference, offline, answered, policy)
    both = pd.concat([evidence.champion, evidence.champion_before], ignore_index=True)
    champion = _scored(both if len(both) else no_rows())
    if evidence.champion_reference is not None and len(champion) >= FEWEST:
        own = evidence.champion_reference
        stable = pd.DataFrame({"customer_id": np.arange(len(own)), "score": own})
        world, _ = _score_shift(own, stable, champion, policy)
    return _shift_check("score PSI against own offline scores", value - world, lower - world, limit)


def _shift_check(name: str, value: float, lower: float, limit: float) -> Check:
    if lower > limit:
        detail = f"{name} is {value:.2f}, at least {lower:.2f}; allowed {limit:g}"
        return _check(name, Outcome.FAIL, value, limit, detail)
    return _check(name, Outcome.PASS, value, limit)


def _score_shift(
    edges_from: Floats, first: pd.DataFrame, second: pd.DataFrame, policy: Policy
) -> tuple[float, float]:
    """PSI of scores and its lower bound, customers drawn as a whole; bins as fine as the sample bears."""
    bins = int(np.clip(min(len(first), len(second)) // 12, 3, policy.drift.bins))
    edges = quantile_edges(_rounded(edges_from), bins)
    return psi_lower_bound(
        _counts_by_cluster(first, edges),
        _counts_by_cluster(second, edges),
        z_score=Z_SCORE,
        samples=DRAWS,
        generator=np.random.default_rng(7),
    )


def _counts_by_cluster(rows: pd.DataFrame, edges: Floats) -> Floats:
    codes = pd.factorize(rows["customer_id"])[0] % CLUSTERS
    places = np.searchsorted(edges, _rounded(rows["score"].to_numpy(dtype=np.float64)), side="left")
    counts = np.zeros((int(codes.max()) + 1, len(edges) + 1))
    np.add.at(counts, (codes, places), 1.0)
    return counts


def _rounded(scores: Floats) -> Floats:
    """Calibrated scores come in plateaus: a difference in the last bit must not move one over an edge."""
    return np.asarray(np.round(scores, 6), dtype=np.float64)


def _sample_ratio(evidence: StepEvidence, policy: Policy) -> Check:
    """Customers who got the challenger against the intended share; requests of one are no fresh draws."""
    limit = policy.canary.sample_ratio_p_value
    mine = evidence.challenger["customer_id"].nunique()
    others = evidence.champion["customer_id"].nunique()
    intended = percent_of(evidence.step) / 100
    if mine == 0:
        return _check("sample ratio p", Outcome.INCONCLUSIVE, nan, limit, "no customers in the canary")
    p_value = float(stats.binomtest(mine, mine + others, intended).pvalue)
    detail = f"{mine} of {mine + others} customers in the canary, intended {intended:.0%}: p {p_value:.1g}"
    if p_value < limit:
        return _check("sample ratio p", Outcome.FAIL, p_value, limit, f"sample-ratio mismatch, {detail}")
    return _check("sample ratio p", Outcome.PASS, p_value, limit)


def _quantile_for(rows: int) -> float:
    return next(quantile for least, quantile in QUANTILES if rows >= least)


def _time_slices(*times: pd.Series) -> list[npt.NDArray[np.int64]]:
    """The slice of time of each row, over the span of all of them."""
    everything = np.concatenate([time.to_numpy(dtype=np.float64) for time in times])
    start, end = float(everything.min()), float(everything.max())
    width = max((end - start) / TIME_SLICES, 1e-9)
    return [
        np.minimum((time.to_numpy(dtype=np.float64) - start) // width, TIME_SLICES - 1).astype(np.int64)
        for time in times
    ]


def _drawn_quantiles(
    values: Floats, slices: npt.NDArray[np.int64], weights: Floats, quantile: float
) -> Floats:
    """The quantile under each row of weights per time slice; NaN where a draw has no row."""
    order = np.argsort(values, kind="stable")
    running = np.cumsum(weights[:, slices[order]], axis=1)
    totals = running[:, -1]
    places = (running < quantile * totals[:, None]).sum(axis=1)
    found = values[order][np.minimum(places, len(values) - 1)]
    return np.asarray(np.where(totals > 0, found, np.nan))


def _weights() -> Floats:
    generator = np.random.default_rng(11)
    even = np.full(TIME_SLICES, 1.0 / TIME_SLICES)
    return generator.multinomial(TIME_SLICES, even, size=DRAWS).astype(np.float64)


def _ratio_bound(
    slow: pd.Series, base: pd.Series, slices: list[npt.NDArray[np.int64]], quantile: float
) -> tuple[float, float]:
    """Ratio of a quantile of two variants and its lower bound; both are drawn from the same times."""
    weights = _weights()
    first, second = slow.to_numpy(dtype=np.float64), base.to_numpy(dtype=np.float64)
    top = _drawn_quantiles(first, slices[0], weights, quantile)
    bottom = np.maximum(_drawn_quantiles(second, slices[1], weights, quantile), 1e-3)
    ratio = float(np.quantile(first, quantile) / max(float(np.quantile(second, quantile)), 1e-3))
    drawn = np.log(top / bottom)
    drawn = drawn[np.isfinite(drawn)]
    if len(drawn) < DRAWS // 2:
        return ratio, 0.0
    return ratio, float(np.exp(min(np.quantile(drawn, 0.005), np.log(ratio))))


def _quantile_bound(rows: pd.DataFrame, quantile: float) -> tuple[float, float]:
    values = rows["latency_ms"].to_numpy(dtype=np.float64)
    drawn = _drawn_quantiles(values, _time_slices(rows["seconds"])[0], _weights(), quantile)
    return float(np.quantile(values, quantile)), float(np.nanquantile(drawn, 0.005))


def _present(values: pd.Series) -> pd.Series:
    return values[values.notna()]


def _timed(rows: pd.DataFrame) -> pd.DataFrame:
    """The latest rows with a latency: enough for a quantile, few enough to draw from."""
    return rows[rows["latency_ms"].notna()].nlargest(5000, "seconds")


def _scored(rows: pd.DataFrame) -> pd.DataFrame:
    return rows[rows["score"].notna()].nlargest(20000, "seconds")


def _check(name: str, outcome: Outcome, value: float, threshold: float, detail: str = "") -> Check:
    return Check(
        name=name,
        outcome=outcome,
        value=None if isnan(value) else round(float(value), 6),
        threshold=threshold,
        detail=detail,
    )
