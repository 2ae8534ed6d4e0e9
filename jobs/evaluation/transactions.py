"""Which transactions were known at a moment: a past moment is judged without the rows that came after it.

In: the table transactions, a range of days, an instant. Out: frames of transactions.
"""

from __future__ import annotations

from datetime import date, datetime

import pyarrow as pa
import pyarrow.compute as pc

from jobs.lake.store import Lake
from jobs.lake.tables import TIMESTAMP, TRANSACTIONS


def known_transactions(
    lake: Lake, first: date | None, last: date, as_of: datetime, columns: list[str]
) -> pa.Table:
    """Transactions of the days first to last, both included, with available_at <= as_of.

    The file of the day that ends at as_of is there: it counts as available at that midnight.
    """
    read = list(dict.fromkeys([*columns, "available_at"]))
    rows = lake.read(TRANSACTIONS, first=first, last=last, columns=read)
    known = pc.less_equal(rows["available_at"], pa.scalar(as_of, TIMESTAMP))
    return rows.filter(known).select(columns)
