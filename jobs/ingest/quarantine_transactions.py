"""The job `quarantine_transactions`: rows that broke a rule, as they came, with the rules.

In: the day's passed validation. Out: the day's partition of `quarantine`, one row for each broken row.
Errors: GateClosed where the validation did not pass or is missing.
"""

from __future__ import annotations

import pyarrow as pa

from jobs.conf.settings import Settings
from jobs.core import DayParams, Receipt, Stopwatch
from jobs.ingest.landing import Landed
from jobs.lake.store import content_digest, lake_of
from jobs.lake.tables import QUARANTINE
from jobs.quality.feeds import TRANSACTIONS_FEED
from jobs.quality.gate import read_evidence, split_rows

READS = ("validation",)
WRITES = ("quarantine",)


class Params(DayParams):
    """The day to quarantine."""


def quarantine_rows(bad: pa.Table, landed: Landed) -> pa.Table:
    """Broken rows in the shape of the quarantine tables."""
    count = len(bad)
    return pa.table(
        {
            "day": pa.array([landed.day] * count, type=pa.date32()),
            "feed": pa.array([landed.feed] * count, type=pa.string()),
            "row_number": bad["row_number"],
            "rule": bad["rule"],
            "row": bad["row"],
            "digest": pa.array([landed.digest] * count, type=pa.string()),
        }
    )


def run(params: Params, settings: Settings) -> Receipt:
    """Replace the day's quarantine."""
    watch = Stopwatch()
    validation, parsed, landed = read_evidence(settings, TRANSACTIONS_FEED, params.day)
    _, bad = split_rows(validation, parsed, landed)
    rows = quarantine_rows(bad, landed)
    version = lake_of(settings).replace(QUARANTINE, rows, params.day)
    return Receipt(
        job="quarantine_transactions",
        table=QUARANTINE.name,
        partition=str(params.day),
        version=version,
        rows=len(rows),
        digest=content_digest(rows),
        seconds=watch.seconds,
        facts={"broken_by_rule": validation.broken_by_rule},
    )
