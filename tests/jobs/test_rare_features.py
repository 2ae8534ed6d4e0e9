"""A feature that its window leaves null in nearly every row is no alarm; any other without a value is one."""

from __future__ import annotations

from datetime import date, timedelta

import numpy as np
import pandas as pd
import pytest

from jobs.conf.policy import load_policy
from jobs.monitoring.comparison import compare_column, reference_days
from jobs.monitoring.figures import Figure

ROWS = 1000
RARE, OLDEST, USUAL = "terminal_amount_deviation_5m", "customer_amount_before_8", "amount"


def sample(name: str, values: int) -> pd.DataFrame:
    """Rows of ten days, of which the first so many have a value."""
    column = np.full(ROWS, np.nan)
    column[:values] = np.linspace(1.0, 9.0, values)
    days = [date(2026, 2, 1) + timedelta(days=number % 10) for number in range(ROWS)]
    return pd.DataFrame({name: column, "event_time": pd.to_datetime(days, utc=True)})


@pytest.mark.parametrize(
    ("name", "before", "now", "status"),
    [
        (RARE, 0, 0, "investigate"),
        (RARE, 10, 0, "investigate"),
        (RARE, 0, 10, "investigate"),
        (RARE, 11, 0, "unknown"),
        (RARE, 0, 11, "unknown"),
        (RARE, 1000, 0, "unknown"),
        (OLDEST, 10, 0, "investigate"),
        (OLDEST, 11, 0, "unknown"),
        (USUAL, 0, 0, "unknown"),
        (USUAL, 10, 0, "unknown"),
    ],
)
def test_only_a_rare_feature_may_have_no_value(name: str, before: int, now: int, status: str) -> None:
    days = reference_days(sample(name, before), date(2026, 2, 20), ROWS)
    figure = compare_column(name, days, sample(name, now), date(2026, 1, 1), load_policy().drift)
    assert isinstance(figure, Figure)
    assert figure.status == status
