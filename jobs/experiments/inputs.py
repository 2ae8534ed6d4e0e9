"""What an experiment's jobs read: the log of some days, frauds known by an instant, the days before.

In: the lake. Out: frames and sets of transaction ids.
"""

from __future__ import annotations

from datetime import date, timedelta

import numpy as np
import pandas as pd

from jobs.conf.contract import LabelFeed
from jobs.core import midnight
from jobs.evaluation.labels import latest_labels, missing_label_days
from jobs.evaluation.transactions import known_transactions
from jobs.experiments.customers import LOG_COLUMNS, before_start
from jobs.lake.store import Lake
from jobs.lake.tables import LABELS, PREDICTIONS


def log_of(lake: Lake, first: date, last: date) -> pd.DataFrame:
    """The prediction log of the days first to last, both included."""
    return pd.DataFrame(lake.read(PREDICTIONS, first=first, last=last, columns=LOG_COLUMNS).to_pandas())


def frauds_known(lake: Lake, first: date, day: date) -> set[int]:
    """Transactions since `first` that were frauds by the last word of the end of `day`."""
    labels = lake.read(LABELS, first=first, last=day).to_pandas()
    latest = latest_labels(labels, pd.Timestamp(midnight(day + timedelta(days=1))))
    return set(latest.loc[latest["is_fraud"].eq(1), "transaction_id"])


def last_matured(day: date, last: date, feed: LabelFeed) -> date:
    """The last day up to `last` whose transactions have usable labels at the end of `day`."""
    return min(last, day - timedelta(days=feed.maturity_days))


def label_days_missing(lake: Lake, first: date, last: date, feed: LabelFeed) -> list[date]:
    """Days whose chargebacks transactions of first to last need, and that are not merged."""
    return missing_label_days(lake, first, last + timedelta(days=feed.maturity_days), feed)


def figures_before(lake: Lake, start: date, days: int, customers: pd.Index) -> np.ndarray:
    """[customers, 3] of the days before `start`: only what was known when it began."""
    first, last = start - timedelta(days=days), start - timedelta(days=1)
    columns = ["transaction_id", "customer_id", "amount_minor"]
    rows = known_transactions(lake, first, last, midnight(start), columns).to_pandas()
    return before_start(rows, frauds_known(lake, first, last), customers)
