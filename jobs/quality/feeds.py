"""The two feeds as the contract describes them, in one form that reading and checking share."""

from __future__ import annotations

from jobs.conf.contract import Column, Contract
from jobs.core import StrictModel

TRANSACTIONS_FEED = "transactions"
LABELS_FEED = "labels"


class Feed(StrictModel):
    """One file a day of rows."""

    name: str
    format: str
    columns: dict[str, Column]
    ignored: tuple[str, ...]
    key: str  # a row with the same value twice is a duplicate
    instant: str  # the column that must lie inside the day, "" where there is none
    late_days: int = 0  # the instant may lie this many days before the file's day

    @property
    def required(self) -> dict[str, Column]:
        """The columns that a file must have, with a value in every row."""
        return {name: column for name, column in self.columns.items() if not column.optional}


def transactions_feed(contract: Contract) -> Feed:
    """The card transactions."""
    feed = contract.transactions
    return Feed(
        name=TRANSACTIONS_FEED,
        format=feed.format,
        columns=feed.columns,
        ignored=feed.ignored,
        key="transaction_id",
        instant="event_time",
        late_days=feed.late_days,
    )


def labels_feed(contract: Contract) -> Feed:
    """The chargebacks; those derived from transactions are kept as CSV."""
    feed = contract.labels
    columns = {
        "transaction_id": _column(feed.transaction_id, "integer", minimum=0),
        "is_fraud": _column(feed.is_fraud, "integer", minimum=0, maximum=1),
    }
    if feed.reported_at:
        columns["reported_at"] = _column(feed.reported_at, "timestamp")
    return Feed(
        name=LABELS_FEED,
        format=feed.format if feed.origin == "feed" else "csv",
        columns=columns,
        ignored=(),
        key="transaction_id",
        instant="reported_at" if feed.reported_at else "",
    )


def _column(source: str, kind: str, **bounds: float) -> Column:
    return Column.model_validate({"source": source, "type": kind, "null_share": 0.0, **bounds})
