"""Looks at an experiment: what earlier ones have spent, and what the metrics say at this one.

In: the rows of earlier looks (table experiment_readouts), the readings of this one. Out: `Look` and
`Result`s.
Alpha is spent by days of the plan that have matured, which nobody can steer; looks are correlated as their
numbers of transactions are. The last look, by number or by time, spends all that is left. Metrics are
adjusted by Holm over their sequential p-values, so that alpha holds over all looks and metrics together.
Errors: SluiceError for a look that the plan does not have.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from itertools import pairwise

import numpy as np
import pandas as pd

from jobs.conf.policy import Experiments
from jobs.core import SluiceError
from jobs.experiments.metrics import Reading
from jobs.experiments.sequential import boundaries, sequential_p_value
from jobs.monitoring.statistics import holm

SAMPLE_RATIO = "sample_ratio"  # the row about the split, beside those of the metrics
BLOCKED = "blocked"
BETTER, WORSE, OPEN, UNKNOWN = "better", "worse", "open", "unknown"


@dataclass(frozen=True)
class Look:
    """One look: when it is, and on how much it rests, after those before it."""

    number: int
    times: tuple[float, ...]  # shares of the plan that had matured, this look's last
    transactions: tuple[float, ...]
    critical: float  # |z| of one metric alone
    before: dict[str, tuple[float, ...]]  # metric -> z-scores of the earlier looks

    @property
    def final(self) -> bool:
        return self.times[-1] >= 1.0


@dataclass(frozen=True)
class Result:
    """A reading at a look; the interval is the repeated one, right at every look."""

    reading: Reading
    low: float
    high: float
    sequential_p_value: float
    adjusted_p_value: float
    conclusion: str


def next_look(
    earlier: pd.DataFrame, day: date, plan: str, matured: float, transactions: int, policy: Experiments
) -> Look:
    """The look of a day; earlier looks are rows of experiment_readouts that were not blocked.

    Args:
        matured: share of the plan's days that have usable labels.

    Raises:
        SluiceError: the plan was another, a later look exists, none is left, or nothing is new since.
    """
    rows = earlier[earlier["verdict"].ne(BLOCKED) & pd.to_datetime(earlier["day"]).ne(pd.Timestamp(day))]
    others = sorted(set(rows["plan"]) - {plan})
    if others:
        raise SluiceError(
            f"experiment: it was begun as {others[0]}, this is {plan}; a plan is not changed between looks, "
            "another question is another experiment"
        )
    splits = rows[rows["metric"].eq(SAMPLE_RATIO)].sort_values("day")
    days = [pd.Timestamp(each).date() for each in splits["day"]]
    if days and days[-1] > day:
        raise SluiceError(f"experiment: it was looked at on {days[-1]} already; looks go forward")
    if len(days) >= policy.looks or (days and splits["time"].iloc[-1] >= 1.0):
        raise SluiceError(f"experiment: the look of {days[-1]} was the last of the plan, no alpha is left")
    number = len(days) + 1
    times = (*map(float, splits["time"]), 1.0 if number == policy.looks else matured)
    counts = (*map(float, splits["transactions"]), float(transactions))
    if any(after <= before for series in (times, counts) for before, after in pairwise(series)):
        raise SluiceError(f"experiment: nothing has matured since the look of {days[-1]}; look again later")
    scores = {
        str(name): tuple(group.set_index("day")["z_score"].reindex(splits["day"]))
        for name, group in rows.groupby("metric")
    }
    critical = boundaries(policy.alpha, times, counts)[-1]
    return Look(number, times, counts, float(critical), scores)


def results_of(readings: Sequence[Reading], look: Look, alpha: float) -> list[Result]:
    """What each metric says at this look, all of them and all looks taken together."""
    blank = (float("nan"),) * (look.number - 1)
    sequential = [
        sequential_p_value(
            (*look.before.get(each.metric.name, blank), each.z_score), look.times, look.transactions
        )
        for each in readings
    ]
    # a metric that cannot be read stays in the family: it was promised before anybody looked
    return [
        _result(reading, look, own, adjusted, alpha)
        for reading, own, adjusted in zip(readings, sequential, holm(sequential), strict=True)
    ]


def _result(reading: Reading, look: Look, own: float, adjusted: float, alpha: float) -> Result:
    low, high = reading.interval(look.critical)
    conclusion = OPEN
    if np.isnan(reading.z_score):
        conclusion = UNKNOWN
    elif adjusted <= alpha:
        conclusion = BETTER if reading.effect * reading.metric.better > 0 else WORSE
    return Result(reading, low, high, own, adjusted, conclusion)


def verdict_of(results: Sequence[Result], look: Look) -> tuple[str, str]:
    """(verdict, reason): better, worse, mixed, no difference found, or inconclusive so far."""
    said = {
        name: [each.reading.metric.title for each in results if each.conclusion == name]
        for name in (BETTER, WORSE)
    }
    told = "; ".join(f"{name}: {', '.join(titles)}" for name, titles in said.items() if titles)
    if said[BETTER] and said[WORSE]:
        return "mixed", told
    if told:
        return (BETTER if said[BETTER] else WORSE), told
    if look.final:
        return "no difference found", "the last look, and no metric differs beyond chance"
    return (
        "inconclusive",
        f"look {look.number}, {look.times[-1]:.0%} of the plan: no metric differs beyond chance",
    )
