"""The job `publish_transactions`: the good rows of a file replace what the file brought before.

In: the day's passed validation. Out: in one commit, the rows of `transactions` whose `file_day` is the day,
in the partitions of the day and of the `late_days` before it; money in integer minor units. Rows that other
files brought to these partitions stay. The receipt names the days that were touched.
Every landed row is either published or quarantined; a surplus copy counts as quarantined.
Errors: GateClosed where the validation did not pass or is missing, or the count of rows does not add up.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, timedelta

import pyarrow as pa
import pyarrow.compute as pc

from jobs.conf.contract import contract_of
from jobs.conf.settings import Settings
from jobs.core import DayParams, Receipt, Stopwatch
from jobs.lake.store import ContentDigest, Lake, conform, lake_of
from jobs.lake.tables import TRANSACTIONS, Table, transactions_table
from jobs.quality.feeds import TRANSACTIONS_FEED
from jobs.quality.gate import Parsed, check_account, read_evidence

READS = ("validation",)
WRITES = ("transactions",)


class Params(DayParams):
    """The day to publish."""


def days_brought(lake: Lake, day: date, late_days: int) -> set[date]:
    """The days before a file's own to which it has brought rows already."""
    if not late_days:
        return set()
    first, last = day - timedelta(days=late_days), day - timedelta(days=1)
    rows = lake.read(TRANSACTIONS, first=first, last=last, columns=["day", "file_day"])
    return set(rows.filter(pc.equal(rows["file_day"], pa.scalar(day)))["day"].unique().to_pylist())


def published_rows(
    table: Table, parsed: Parsed, day: date, digest: ContentDigest, days: set[date]
) -> Iterator[pa.RecordBatch]:
    """The good rows as the table has them; their digest and their days are noted on the way."""
    for good in parsed.good():
        file_day = pa.repeat(pa.scalar(day, type=pa.date32()), len(good))
        rows = conform(table, pa.table(good.append_column("file_day", file_day)))
        digest.add(rows)
        days.update(rows["day"].unique().to_pylist())
        yield from rows.to_batches()


def run(params: Params, settings: Settings) -> Receipt:
    """Replace what the day's file brought."""
    watch = Stopwatch()
    validation, parsed, landed = read_evidence(settings, TRANSACTIONS_FEED, params.day)
    quarantined = parsed.bad_rows()
    check_account(validation, landed, parsed.rows - quarantined, quarantined)
    contract, lake = contract_of(settings), lake_of(settings)
    table, late_days = transactions_table(contract), contract.transactions.late_days
    digest, days = ContentDigest(), {params.day, *days_brought(lake, params.day, late_days)}
    rows = published_rows(table, parsed, params.day, digest, days)
    first = params.day - timedelta(days=late_days)
    version = lake.replace_where(
        table,
        pa.RecordBatchReader.from_batches(table.schema, rows),
        f"day >= '{first}' AND day <= '{params.day}' AND file_day = '{params.day}'",
        str(params.day),
    )
    return Receipt(
        job="publish_transactions",
        table=TRANSACTIONS.name,
        partition=str(params.day),
        version=version,
        rows=digest.rows,
        digest=digest.hexdigest(),
        seconds=watch.seconds,
        facts={
            "landed_rows": landed.rows,
            "quarantined_rows": quarantined,
            "landed_version": landed.sequence,
            "days": sorted(str(day) for day in days),
        },
    )
