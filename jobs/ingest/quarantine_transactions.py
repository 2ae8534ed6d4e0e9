"""The job `quarantine_transactions`: rows that broke a rule, as they came, with the rules.

In: the day's passed validation. Out: the partition `transactions.<day>` of `quarantine`, one row for each
broken row.
Errors: GateClosed where the validation did not pass or is missing; SluiceError where the contract says
something of `transactions` that the table cannot take: before either table is written.
"""

from __future__ import annotations

import pyarrow as pa

from jobs.conf.contract import contract_of
from jobs.conf.settings import Settings
from jobs.core import DayParams, Receipt, Stopwatch
from jobs.ingest.landing import Landed
from jobs.lake.store import conform, content_digest, lake_of
from jobs.lake.tables import QUARANTINE, feed_part, transactions_table
from jobs.quality.feeds import TRANSACTIONS_FEED
from jobs.quality.gate import check_account, read_evidence

READS = ("validation",)
WRITES = ("quarantine",)


class Params(DayParams):
    """The day to quarantine."""


def quarantine_rows(bad: pa.Table, landed: Landed) -> pa.Table:
    """Broken rows in the shape of the table `quarantine`."""
    same = {
        "part": feed_part(landed.feed, landed.day),
        "day": landed.day,
        "feed": landed.feed,
        "digest": landed.digest,
        "run": landed.run_name,
    }
    rows = bad.select(["row_number", "rule", "row"])
    for name, value in same.items():
        rows = rows.append_column(name, pa.array([value] * len(bad), type=QUARANTINE.schema.field(name).type))
    return conform(QUARANTINE, rows)


def run(params: Params, settings: Settings) -> Receipt:
    """Replace the day's quarantine."""
    watch = Stopwatch()
    validation, parsed, landed = read_evidence(settings, TRANSACTIONS_FEED, params.day)
    bad = parsed.bad()
    check_account(validation, landed, parsed.rows - len(bad), len(bad))
    rows, lake = quarantine_rows(bad, landed), lake_of(settings)
    lake.check(transactions_table(contract_of(settings)))
    version = lake.replace(QUARANTINE, rows, feed_part(TRANSACTIONS_FEED, params.day))
    return Receipt(
        job="quarantine_transactions",
        table=QUARANTINE.name,
        partition=feed_part(TRANSACTIONS_FEED, params.day),
        version=version,
        rows=len(rows),
        digest=content_digest(rows),
        seconds=watch.seconds,
        facts={"broken_by_rule": validation.broken_by_rule},
    )
