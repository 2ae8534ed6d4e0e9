"""The job `publish_transactions`: the good rows of a file replace what the file brought before.

In: the day's passed validation. Out: in one commit, the rows of `transactions` whose `file_day` is the day,
in the partitions of the day and of the `late_days` before it; money in integer minor units. Rows that other
files brought to these partitions stay. The receipt names the days that were touched; an alert names a day
whose own file has rows in quarantine because this file had brought them, where it brings fewer of them now.
Every landed row is either published or quarantined; a surplus copy counts as quarantined.
Errors: GateClosed where the validation did not pass or is missing, or the count of rows does not add up.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import date, timedelta

import pyarrow as pa
import pyarrow.compute as pc

from jobs.alerts import Alert, raise_alerts
from jobs.conf.contract import LATE_DAYS_MAX, contract_of
from jobs.conf.settings import Settings
from jobs.core import DayParams, Receipt, Stopwatch
from jobs.ingest.releases import quarantined, run_again
from jobs.lake.store import ContentDigest, Lake, conform, lake_of
from jobs.lake.tables import TRANSACTIONS, Table, transactions_table
from jobs.quality.feeds import TRANSACTIONS_FEED
from jobs.quality.gate import Parsed, check_account, read_evidence
from jobs.quality.suites import LATE_ALREADY

READS = ("validation",)
WRITES = ("transactions",)


class Params(DayParams):
    """The day to publish."""


def rows_brought(lake: Lake, day: date, late_days: int) -> Counter[date]:
    """How many rows a file has brought already to each of the days before its own."""
    if not late_days:
        return Counter()
    first, last = day - timedelta(days=late_days), day - timedelta(days=1)
    rows = lake.read(TRANSACTIONS, first=first, last=last, columns=["day", "file_day"])
    return Counter(rows.filter(pc.equal(rows["file_day"], pa.scalar(day)))["day"].to_pylist())


def published_rows(
    table: Table, parsed: Parsed, day: date, digest: ContentDigest, brought: Counter[date]
) -> Iterator[pa.RecordBatch]:
    """The good rows as the table has them; their digest and their days are noted on the way."""
    for good in parsed.good():
        file_day = pa.repeat(pa.scalar(day, type=pa.date32()), len(good))
        rows = conform(table, pa.table(good.append_column("file_day", file_day)))
        digest.add(rows)
        for found in pc.value_counts(rows["day"]).to_pylist():
            brought[found["values"]] += found["counts"]
        yield from rows.to_batches()


def waiting_rows(settings: Settings, lake: Lake, day: date, fewer: list[date]) -> list[Alert]:
    """Alerts on days that a file brings fewer rows to than before, while their own file's copies of such rows
    are in quarantine."""
    alerts = []
    for other in fewer:
        held = quarantined(lake, feed=TRANSACTIONS_FEED, day=other, rule=LATE_ALREADY).num_rows
        if held:
            alerts.append(
                Alert(
                    key=f"{other}/transactions/{LATE_ALREADY}/{day}",
                    cause=f"the file of {day} brings fewer rows of {other} than before, and {held} rows of "
                    "that day's own file are in quarantine because they had been brought already",
                    owner=contract_of(settings).owner,
                    action=f"run {other} again, so that they count: {run_again(TRANSACTIONS_FEED, other)}",
                    facts={"rows": held},
                )
            )
    return alerts


def run(params: Params, settings: Settings) -> Receipt:
    """Replace what the day's file brought."""
    watch = Stopwatch()
    validation, parsed, landed = read_evidence(settings, TRANSACTIONS_FEED, params.day)
    quarantined = parsed.bad_rows()
    check_account(validation, landed, parsed.rows - quarantined, quarantined)
    contract, lake = contract_of(settings), lake_of(settings)
    table, late_days = transactions_table(contract), contract.transactions.late_days
    before, brought = rows_brought(lake, params.day, late_days), Counter[date]()
    digest = ContentDigest()
    rows = published_rows(table, parsed, params.day, digest, brought)
    # also what was brought while the contract allowed more
    first = params.day - timedelta(days=LATE_DAYS_MAX)
    version = lake.replace_where(
        table,
        pa.RecordBatchReader.from_batches(table.schema, rows),
        f"day >= '{first}' AND day <= '{params.day}' AND file_day = '{params.day}'",
        str(params.day),
    )
    fewer = sorted(day for day, count in before.items() if brought[day] < count)
    raise_alerts(settings, waiting_rows(settings, lake, params.day, fewer))
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
            "days": sorted(map(str, {params.day, *before, *brought})),
        },
    )
