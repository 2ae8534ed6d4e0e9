"""Latency of a step: against the champion in the same window; absolute where none answers in this window.

In blue-green, where none ever answers beside it, also against the champion in the window before.

Latency comes in bursts that hit both variants: slices of time are what the bootstrap draws, and the bound
stands as many of its standard deviations off as Student's t with one degree of freedom less than slices asks
for. A shadow score is made after the response, when the machine has time: its latency has no champion's to
stand beside.
"""

from __future__ import annotations

from math import exp, log, nan

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats

from jobs.conf.policy import Policy
from jobs.core import Check, Outcome
from jobs.monitoring.statistics import Floats
from jobs.promotion.look import Look, latest_latencies, made_check
from jobs.promotion.sequential import FIRST_LOOK
from jobs.promotion.state import percent_of

DRAWS = 200
TIME_SLICES = 20
FASTEST_MS = 1e-3  # no answer counts as faster

# enough rows -> the quantile of latency that they can carry
QUANTILES = ((1000, 0.99), (200, 0.95), (FIRST_LOOK, 0.90))


def latency(look: Look, policy: Policy) -> Check:
    """Whether the challenger is too slow."""
    evidence, limit = look.evidence, policy.canary.latency_ratio_max
    slow, base = latest_latencies(evidence.challenger), latest_latencies(evidence.champion)
    if look.number == 0 or len(slow) < FIRST_LOOK:
        return _open(f"{len(slow)} latencies of the challenger", limit)
    if not evidence.side_by_side:
        return _absolute(look, slow, policy)
    if len(base) < FIRST_LOOK:
        return _open(f"{len(base)} latencies of the champion in this window to compare with", limit)
    return _relative(look, slow, base, policy)


def _open(detail: str, limit: float) -> Check:
    return made_check("latency", Outcome.INCONCLUSIVE, nan, limit, detail)


def _relative(look: Look, slow: pd.DataFrame, base: pd.DataFrame, policy: Policy) -> Check:
    limit = policy.canary.latency_ratio_max
    quantile = _quantile_for(min(len(slow), len(base)))
    slices = _time_slices(slow["seconds"], base["seconds"])
    columns = slow["latency_ms"], base["latency_ms"]
    ratio, lower = _ratio_bound(*columns, slices, quantile, look.alpha / 2)
    _, median_lower = _ratio_bound(*columns, slices, 0.5, look.alpha / 2)
    name = f"p{quantile * 100:.0f} latency / champion"
    if lower > limit or _is_typical(*columns, ratio, median_lower, policy):
        return _too_slow(name, ratio, *columns, limit)
    return made_check(name, Outcome.PASS, ratio, limit)


def _is_typical(slow: pd.Series, base: pd.Series, ratio: float, median_lower: float, policy: Policy) -> bool:
    """Bursts hide a constant delay in the tail of a small sample, never in the median."""
    limit, added = policy.canary.latency_ratio_max, _added(slow, base)
    return median_lower > limit and (ratio > limit or added > policy.gate.latency_p99_ms / 2)


def _added(slow: pd.Series, base: pd.Series) -> float:
    return float(slow.median() - base.median())


def _too_slow(name: str, ratio: float, slow: pd.Series, base: pd.Series, limit: float) -> Check:
    added = f"a typical answer takes {_added(slow, base):.1f} ms more"
    return made_check(name, Outcome.FAIL, ratio, limit, f"{name} is {ratio:.1f}, allowed {limit:g}; {added}")


def _absolute(look: Look, slow: pd.DataFrame, policy: Policy) -> Check:
    """Where no champion answers beside it, both the policy's absolute limit and the ratio must be broken.

    Blue-green gives to everybody what no canary has compared: there the ratio alone is enough, where a
    typical answer shows it. Another time has other bursts, and those are in the tail.
    """
    quantile, blue_green = _quantile_for(len(slow)), policy.canary.mode == "blue_green"
    label, limit = f"p{quantile * 100:.0f} latency ms", policy.gate.latency_p99_ms
    alpha = look.alpha / 2 if blue_green else look.alpha
    value, lower = _quantile_bound(slow, quantile, alpha)
    before = latest_latencies(look.evidence.champion_before)
    if percent_of(look.evidence.step) and len(before) >= FIRST_LOOK:
        columns = slow["latency_ms"], before["latency_ms"]
        usual = float(np.quantile(columns[1], quantile))
        limit = max(limit, policy.canary.latency_ratio_max * usual)
        if blue_green:
            slices = [*_time_slices(slow["seconds"]), *_time_slices(before["seconds"])]
            ratio, median_lower = _ratio_bound(*columns, slices, 0.5, alpha, same_times=False)
            if _is_typical(*columns, value / max(usual, FASTEST_MS), median_lower, policy):
                name = "median latency / champion before"
                return _too_slow(name, ratio, *columns, policy.canary.latency_ratio_max)
    if lower > limit:
        return made_check(label, Outcome.FAIL, value, limit, f"{label} is {value:.1f}, allowed {limit:.1f}")
    return made_check(label, Outcome.PASS, value, limit)


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


def _log_bound(value: float, drawn: Floats, alpha: float) -> float:
    """Lower bound of exp(value) from its draws; 0 where too few of them have rows."""
    drawn = drawn[np.isfinite(drawn)]
    if len(drawn) < DRAWS // 2:
        return 0.0
    return exp(value - float(stats.t.isf(alpha, TIME_SLICES - 1)) * float(drawn.std()))


def _ratio_bound(
    slow: pd.Series,
    base: pd.Series,
    slices: list[npt.NDArray[np.int64]],
    quantile: float,
    alpha: float,
    *,
    same_times: bool = True,
) -> tuple[float, float]:
    """Ratio of a quantile of two variants and its lower bound; variants of the same times are drawn alike."""
    weights = _weights()
    first, second = (np.maximum(each.to_numpy(dtype=np.float64), FASTEST_MS) for each in (slow, base))
    top = _drawn_quantiles(first, slices[0], weights, quantile)
    bottom = _drawn_quantiles(second, slices[1], weights if same_times else weights[::-1], quantile)
    ratio = float(np.quantile(first, quantile)) / float(np.quantile(second, quantile))
    return ratio, _log_bound(log(ratio), np.log(top / bottom), alpha)


def _quantile_bound(rows: pd.DataFrame, quantile: float, alpha: float) -> tuple[float, float]:
    values = np.maximum(rows["latency_ms"].to_numpy(dtype=np.float64), FASTEST_MS)
    drawn = _drawn_quantiles(values, _time_slices(rows["seconds"])[0], _weights(), quantile)
    value = float(np.quantile(values, quantile))
    return value, _log_bound(log(value), np.log(drawn), alpha)
