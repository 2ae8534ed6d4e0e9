"""What has no reference but its own past: early disputes and quarantined rows.

In: approved answers and chargebacks, quarantined and published rows, and the same figures of the last weeks.
Out: of each a figure, and one of the rows that it is a share of: a later day is held against the shares of
the days before and, by an exact test, against all their rows together. Weeks without a case have no spread,
so that one case would stand outside of them.
Errors: none for missing data: `investigate`; measure_performance and check_freshness tell of a silent feed.
"""

from __future__ import annotations

from datetime import date, timedelta

import pandas as pd

from jobs.conf.policy import Policy
from jobs.core import midnight
from jobs.evaluation.labels import first_word_of_fraud
from jobs.lake.store import Lake
from jobs.lake.tables import (
    LABELS,
    MERGED_LABELS,
    MONITORING,
    PREDICTIONS,
    QUARANTINE,
    TRANSACTIONS,
    feed_part,
)
from jobs.monitoring.drift import VARIANTS
from jobs.monitoring.figures import INVESTIGATE, OK, Figure
from jobs.monitoring.other_days import Share, share_beside
from jobs.quality.feeds import TRANSACTIONS_FEED

NONE = Share(0, 0)
ROWS = "_rows"  # of the figure of that name


def early_disputes(lake: Lake, day: date, delay_days: int) -> Share:
    """What was approved `delay_days` before and is disputed by the day's end; no rows without word."""
    events = day - timedelta(days=delay_days)
    merged = set(lake.partitions(MERGED_LABELS))
    if any(str(events + timedelta(days=each)) not in merged for each in range(1, delay_days + 1)):
        return NONE
    columns = ["transaction_id", "decision", "variant", "served_at"]
    rows = lake.read(PREDICTIONS, first=events, last=events, columns=columns).to_pandas()
    rows = rows[rows["variant"].isin(VARIANTS)].sort_values("served_at")
    rows = rows.drop_duplicates("transaction_id", keep="last")
    approved = rows.loc[rows["decision"].eq("approve"), "transaction_id"]
    labels = lake.read(LABELS, first=events, last=day).to_pandas()
    disputed = first_word_of_fraud(labels, pd.Timestamp(midnight(day + timedelta(days=1)))).index
    return Share(int(approved.isin(disputed).sum()), len(approved))


def quarantined_rows(lake: Lake, day: date) -> Share:
    """Rows of the day's transactions that broke a rule, of all its rows."""
    part = feed_part(TRANSACTIONS_FEED, day)
    quarantined = lake.read(QUARANTINE, first=part, last=part, columns=["row_number"]).num_rows
    published = lake.read(TRANSACTIONS, first=day, last=day, columns=["day"]).num_rows
    return Share(quarantined, quarantined + published)


def own_history(lake: Lake, metric: str, day: date, days: int) -> list[Share]:
    """The figure on the days before, leaving out days that alerted and those whose rows nobody counted."""
    first = f"{day - timedelta(days=days)}."
    rows = lake.read(MONITORING, first=first, last=f"{day}.", columns=["metric", "day", "status", "value"])
    known = {
        (row["metric"], row["day"]): row["value"]
        for row in rows.to_pylist()
        if row["day"] < day and row["status"] == OK and row["value"] is not None
    }
    counted = [(each, count) for (name, each), count in known.items() if name == metric + ROWS]
    shares = [(known[metric, each], int(count)) for each, count in counted if (metric, each) in known]
    return [Share(round(value * count), count) for value, count in shares]


def trend_figures(lake: Lake, day: date, delay_days: int, policy: Policy) -> list[Figure]:
    """Both figures of a day, with their rows."""
    figures = []
    for metric, today in (
        ("early_disputes", early_disputes(lake, day, delay_days)),
        ("quarantined_share", quarantined_rows(lake, day)),
    ):
        if today.rows:
            history = own_history(lake, metric, day, policy.performance.window_days)
            figures += [share_beside(metric, today, history, policy),
                        Figure(metric=metric + ROWS, subject="all", value=float(today.rows))]  # fmt: skip
        else:
            figures.append(
                Figure(metric=metric, subject="all", status=INVESTIGATE, detail="nothing to count")
            )
    return figures
