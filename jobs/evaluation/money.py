"""What decisions save, in minor units.

    saved = amount of stopped frauds * missed_fraud_share - false alarms * false_alarm_minor

An alert is any decision but approve; it stops the payment. The contract declares both costs.
Days differ more than rows do (a compromised terminal is a run of frauds), so what two models save is held
against each other by days: the interval is Student's, of the paired differences of the days. Drawing so few
days again would make it too narrow: of two, one in four equal versions would lie below 0.
"""

from __future__ import annotations

from datetime import date

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats

from jobs.conf.contract import ErrorCosts

LEVEL = 0.95
Floats = npt.NDArray[np.float64]


def saved_minor(
    stopped: npt.ArrayLike, fraud: npt.ArrayLike, amount: npt.ArrayLike, costs: ErrorCosts
) -> Floats:
    """What each row's decision saves, [rows]: a stopped fraud its share, a false alarm less than nothing."""
    stop, truth, money = (np.asarray(each, dtype=np.float64) for each in (stopped, fraud, amount))
    return np.asarray(
        stop * (truth * money * costs.missed_fraud_share - (1.0 - truth) * costs.false_alarm_minor)
    )


def by_day(amounts: Floats, day_of_row: npt.ArrayLike, days: list[date]) -> Floats:
    """The sum of the rows of each day, [days]; 0 where a day has none.

    Raises:
        ValueError: a row is of none of the days, or its day is no date.
    """
    places = pd.Index(days, dtype=object).get_indexer(pd.Index(np.asarray(day_of_row), dtype=object))
    if (places < 0).any():
        raise ValueError(f"{(places < 0).sum()} rows are of no day from {days[0]} to {days[-1]}")
    return np.bincount(places, weights=amounts, minlength=len(days)).astype(np.float64)


def paired_interval(differences: Floats) -> tuple[float, float]:
    """Where the mean of paired differences lies at LEVEL (Student 1908); NaN of fewer than two."""
    if len(differences) < 2:
        return float("nan"), float("nan")
    mean, error = differences.mean(), differences.std(ddof=1) / np.sqrt(len(differences))
    reach = float(stats.t.ppf((1 + LEVEL) / 2, len(differences) - 1) * error)
    return float(mean) - reach, float(mean) + reach
