"""The job `validate_transactions`: the gate that a day of transactions must pass.

In: the newest landed file of the day. Out: `work/transactions/<day>/validation.json` and `parsed.parquet`,
a Data Docs page whose path is in the receipt.
Errors: SluiceError for a file that is no CSV or Parquet file or has other columns; GateClosed where the
day breaks the policy (nulls, duplicates, quality score, no rows, missing evidence). A low volume alerts.
"""

from __future__ import annotations

import math
from datetime import date, timedelta
from statistics import median

from jobs.conf.contract import contract_of
from jobs.conf.policy import policy_of
from jobs.conf.settings import Settings
from jobs.core import DayParams, Receipt
from jobs.ingest.landing import landed_rows
from jobs.quality.feeds import transactions_feed
from jobs.quality.suites import ROWS_FLOOR, rules_of, volume_rule
from jobs.quality.validate import validate_landed

READS = ("raw_transactions",)
WRITES = ("validation",)


class Params(DayParams):
    """The day to validate."""


def usual_rows(settings: Settings, feed: str, day: date, weeks: int, otherwise: int) -> float:
    """Median rows of the same weekday in the last weeks; the contract's figure before there is one."""
    days = [day - timedelta(weeks=age) for age in range(1, weeks + 1)]
    rows = landed_rows(settings, feed, days)
    return float(median(rows)) if rows else float(otherwise)


def run(params: Params, settings: Settings) -> Receipt:
    """Validate the day's newest landed file."""
    contract, quality = contract_of(settings), policy_of(settings).quality
    feed = transactions_feed(contract)
    usual = usual_rows(
        settings, feed.name, params.day, quality.volume_weeks, contract.transactions.rows_per_day
    )
    return validate_landed(
        settings,
        feed,
        params.day,
        quality,
        (*rules_of(feed, quality), volume_rule()),
        parameters={ROWS_FLOOR: math.ceil(usual * quality.volume_share_alert)},
    )
