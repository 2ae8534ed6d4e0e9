"""The job `publish_transactions`: the good rows of a day replace the day in `transactions`.

In: the day's passed validation. Out: the day's partition of `transactions`, money in integer minor units.
Every landed row is either published or quarantined; a surplus copy counts as quarantined.
Errors: GateClosed where the validation did not pass or is missing, or the count of rows does not add up.
"""

from __future__ import annotations

import pyarrow as pa

from jobs.conf.settings import Settings
from jobs.core import DayParams, Receipt, Stopwatch
from jobs.lake.store import conform, content_digest, lake_of
from jobs.lake.tables import TRANSACTIONS
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
    rows = conform(TRANSACTIONS, good.append_column("day", days))
    version = lake_of(settings).replace(TRANSACTIONS, rows, params.day)
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
