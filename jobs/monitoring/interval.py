"""What is looked at: a whole UTC day, or one hour of it; half-open, by the time of the event.

In: a day and, for an hour, its number. Out: bounds, which rows lie inside, which rows of other days are
comparable, and the policy as it holds for a look of this length.
An hour is a slice of its day and one of its 24 looks. So it is judged by the policy's own numbers for that: a
sample may be as small as a slice's, and the looks of a day share its levels of significance.
Source: Bonferroni's inequality.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import NamedTuple

import pandas as pd

from jobs.conf.policy import Policy
from jobs.core import midnight

LOOKS = 24  # hours of a day
HOUR = timedelta(hours=1)


def event_times(rows: pd.DataFrame) -> pd.Series[pd.Timestamp]:
    """The time of each row's event, in UTC."""
    # a cache of equal times would first ask, for 20 ms of any size, whether there are any
    return pd.to_datetime(rows["event_time"], utc=True, cache=False)


class Interval(NamedTuple):
    """A UTC day, or its hour [hour, hour + 1)."""

    day: date
    hour: int | None = None

    def __str__(self) -> str:
        return f"{self.day}" if self.hour is None else f"{self.day}T{self.hour:02}"

    @property
    def start(self) -> datetime:
        return midnight(self.day) + HOUR * (self.hour or 0)

    @property
    def end(self) -> datetime:
        return self.start + (timedelta(days=1) if self.hour is None else HOUR)

    @property
    def before(self) -> Interval:
        """The interval of the same length that ends where this one starts."""
        began = self.start - (self.end - self.start)
        return Interval(began.date(), None if self.hour is None else began.hour)

    def alike(self, rows: pd.DataFrame) -> pd.DataFrame:
        """The rows of any day that lie in the same hour of it; all of them for a whole day."""
        if self.hour is None:
            return rows
        return rows[event_times(rows).dt.hour == self.hour]

    def weeks_ago(self, weeks: int) -> Interval:
        """The same weekday, and hour, some weeks before."""
        return self._replace(day=self.day - timedelta(weeks=weeks))

    def policy(self, policy: Policy) -> Policy:
        """The policy for one look of this length."""
        if self.hour is None:
            return policy
        drift, performance = policy.drift, policy.performance
        return policy.model_copy(
            update={
                "drift": drift.model_copy(
                    update={
                        "significance": drift.significance / LOOKS,
                        "minimum_rows": drift.slice_rows_min,
                    }
                ),
                "performance": performance.model_copy(
                    update={"proxy_significance": performance.proxy_significance / LOOKS}
                ),
            }
        )


def last_hour(as_of: datetime) -> Interval:
    """The newest hour that has ended at an instant, which needs its zone."""
    began = as_of.astimezone(UTC) - HOUR
    return Interval(began.date(), began.hour)
