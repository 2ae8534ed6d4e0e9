"""The job `publish_transactions`: the good rows of a day replace the day in `transactions`.

In: the day's passed validation. Out: the day's partition of `transactions`, money in integer minor units.
Every landed row is either published or quarantined; a surplus copy counts as quarantined.
Errors: GateClosed where the validation did not pass or is missing, or the count of rows does not add up.
"""

from __future__ import annotations

from datetime import timedelta

import pyarrow as pa

from jobs.conf.contract import contract_of
from jobs.conf.settings import Settings
from jobs.core import DayParams, Receipt, Stopwatch, midnight
from jobs.lake.store import conform, content_digest, lake_of
from jobs.lake.tables import TIMESTAMP, TRANSACTIONS, transactions_table
from jobs.quality.feeds import TRANSACTIONS_FEED
from jobs.quality.gate import read_evidence, split_rows

READS = ("validation",)
WRITES = ("transactions",)


class Params(DayParams):
    """The day to publish."""


def run(params: Params, settings: Settings) -> Receipt:
    """Replace the day's transactions."""
    watch = Stopwatch()
    validation, parsed, landed = read_evidence(settings, TRANSACTIONS_FEED, params.day)
    good, bad = split_rows(validation, parsed, landed)
    days = pa.array([params.day] * len(good), type=pa.date32())
    placed = good.append_column("day", days).append_column("file_day", days)
    delivered = pa.scalar(midnight(params.day + timedelta(days=1)), type=TIMESTAMP)
    if "available_at" in placed.column_names:  # the source's own, which may be optional
        position = placed.column_names.index("available_at")
        own = placed["available_at"].fill_null(delivered)
        placed = placed.set_column(position, "available_at", own)
    else:
        placed = placed.append_column("available_at", pa.repeat(delivered, len(good)))
    table = transactions_table(contract_of(settings))
    rows = conform(table, placed)
    version = lake_of(settings).replace(table, rows, params.day)
    return Receipt(
        job="publish_transactions",
        table=TRANSACTIONS.name,
        partition=str(params.day),
        version=version,
        rows=len(rows),
        digest=content_digest(rows),
        seconds=watch.seconds,
        facts={
            "landed_rows": landed.rows,
            "quarantined_rows": len(bad),
            "landed_version": landed.sequence,
        },
    )
