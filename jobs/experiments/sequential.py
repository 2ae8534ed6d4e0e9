"""Looking more than once: boundaries that spend alpha, and p-values that may be read at every look.

In: for each look the share of the planned time that has gone by (how much alpha may be spent by then) and
the information that it rests on (how strongly looks are correlated). Out: critical values of |z|, one per
look.
The spending function is Lan and DeMets' of the O'Brien-Fleming type, per side 2 - 2 Phi(z(alpha/4) /
sqrt(t)) with z the upper quantile (Biometrika, 1983); boundaries come by the recursive integration of
Armitage, McPherson and Rowe (1969) over the region in which nobody has stopped. Sequential p-values: Liu
and Anderson (2008), the smallest alpha at which some look up to this one would have stopped; they may be
adjusted for several metrics as any p-value may.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import optimize, special, stats

from jobs.core import SluiceError

Floats = npt.NDArray[np.float64]
POINTS, WEIGHTS = np.polynomial.legendre.leggauss(120)
REACH = 8.0  # standard deviations beyond which nothing lies
NEGLIGIBLE = 1e-15  # so little alpha is none
SMALLEST, LARGEST = 1e-10, 0.9999  # sequential p-values are looked for in between


def spent(alpha: float, time: float) -> float:
    """Two-sided alpha that may be spent by a share of the planned time in [0, 1]."""
    if time <= 0:
        return 0.0
    return float(4 * stats.norm.sf(stats.norm.isf(alpha / 4) / np.sqrt(min(time, 1.0))))


def boundaries(alpha: float, times: Sequence[float], information: Sequence[float] | None = None) -> Floats:
    """Critical |z| of each look; infinite where next to nothing may be spent.

    Args:
        times: rising, the last one at most 1; what is spent by each look.
        information: rising; by default the same as times. Only their ratios count.

    Raises:
        SluiceError: times or information do not rise.
    """
    amounts = _rising(information if information is not None else times, "information")
    _rising(times, "times")
    found: list[float] = []
    walk, before = _Walk(), 0.0
    for time, amount in zip(times, amounts / amounts[-1], strict=True):
        now = spent(alpha, time)
        step = walk.to(amount)
        found.append(_critical(step, now - before))
        walk.keep(step, found[-1])
        before = now
    return np.array(found)


def crossing_probability(bounds: Sequence[float], information: Sequence[float], drift: float = 0.0) -> float:
    """Chance that some look crosses its boundary where z at full information has the mean `drift`."""
    walk, total = _Walk(drift), 0.0
    amounts = _rising(information, "information")
    for bound, amount in zip(bounds, amounts / amounts[-1], strict=True):
        step = walk.to(amount)
        total += step.beyond(bound)
        walk.keep(step, bound)
    return total


def sequential_p_value(
    z_scores: Sequence[float], times: Sequence[float], information: Sequence[float] | None = None
) -> float:
    """The smallest alpha at which a look up to this one would have stopped; 1 where there is none.

    A look whose z-score is NaN could not have stopped.
    """
    sizes = np.nan_to_num(np.abs(np.asarray(z_scores, dtype=np.float64)), nan=-1.0)

    def stops(alpha: float) -> bool:
        return bool((sizes >= boundaries(alpha, times, information)).any())

    if not stops(LARGEST):
        return 1.0
    low, high = np.log(SMALLEST), np.log(LARGEST)
    if stops(SMALLEST):
        return SMALLEST
    while high - low > 1e-4:
        middle = (low + high) / 2
        low, high = (low, middle) if stops(float(np.exp(middle))) else (middle, high)
    return float(np.exp(high))


def inflation(alpha: float, power: float, looks: int) -> float:
    """How many times the sample of a single look these many evenly spaced looks need for the same power."""
    times = np.arange(1, looks + 1) / looks
    bounds = list(boundaries(alpha, list(times)))
    single = stats.norm.isf(alpha / 2) + stats.norm.isf(1 - power)

    def missing(drift: float) -> float:
        return crossing_probability(bounds, list(times), drift) - power

    return float((optimize.brentq(missing, single * 0.9, single * 1.5) / single) ** 2)


class _Step:
    """What is known at one look before its boundary is drawn."""

    def __init__(self, nodes: Floats, mass: Floats, amount: float, gap: float, drift: float) -> None:
        self.nodes, self.mass = nodes, mass
        self.amount, self.gap = amount, gap
        self.centre = nodes + drift * gap

    def beyond(self, critical: float) -> float:
        """Chance of not having stopped before and of |z| at or above this."""
        if not np.isfinite(critical):
            return 0.0
        edge, spread = critical * np.sqrt(self.amount), np.sqrt(self.gap)
        outside = special.ndtr((self.centre - edge) / spread) + special.ndtr((-edge - self.centre) / spread)
        return float(self.mass @ outside)

    def density(self, places: Floats) -> Floats:
        spread = np.sqrt(self.gap)
        away = (places[:, None] - self.centre[None, :]) / spread
        kernel = np.exp(-0.5 * away * away) / (spread * np.sqrt(2 * np.pi))
        return np.asarray(kernel @ self.mass, dtype=np.float64)


class _Walk:
    """A Brownian motion in information, on the region in which nobody has stopped."""

    def __init__(self, drift: float = 0.0) -> None:
        self._drift, self._amount = drift, 0.0
        self._nodes, self._mass = np.zeros(1), np.ones(1)

    def to(self, amount: float) -> _Step:
        return _Step(self._nodes, self._mass, amount, amount - self._amount, self._drift)

    def keep(self, step: _Step, critical: float) -> None:
        spread = np.sqrt(step.amount)
        middle = self._drift * step.amount
        low = max(-critical * spread, middle - REACH * spread)
        high = min(critical * spread, middle + REACH * spread)
        nodes = (high + low) / 2 + (high - low) / 2 * POINTS
        self._mass = step.density(nodes) * WEIGHTS * (high - low) / 2
        self._nodes, self._amount = nodes, step.amount


def _critical(step: _Step, increment: float) -> float:
    if increment < NEGLIGIBLE or step.beyond(REACH) > increment:
        return float("inf")
    if step.beyond(0.0) <= increment:
        return 0.0
    return float(optimize.brentq(lambda z: step.beyond(z) - increment, 0.0, REACH, xtol=1e-8))


def _rising(values: Sequence[float], name: str) -> Floats:
    found = np.asarray(values, dtype=np.float64)
    if len(found) == 0 or found[0] <= 0 or bool((np.diff(found) <= 0).any()):
        raise SluiceError(
            f"sequential looks: {name} {[float(each) for each in found]} must rise from above 0"
        )
    return found
