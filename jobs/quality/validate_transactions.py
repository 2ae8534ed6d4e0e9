"""The job `validate_transactions`: the gate that a day of transactions must pass.

In: the newest landed file of the day; ids that are published on the days around it.
Out: `work/transactions/<day>/validation.json` and `parsed.parquet`, a Data Docs page whose path is in the
receipt.
Errors: SluiceError for a file that is no CSV or Parquet file or has other columns; GateClosed where the
day breaks the policy (nulls, duplicates, quality score, no rows, missing evidence). A low volume alerts.
A transaction that another day has published is a duplicate here. Of two days that are validated at the same
time neither sees the other; what slips through so is refused by build_frame.
"""

from __future__ import annotations

import math
from datetime import date, timedelta
from statistics import median

import numpy as np
import pandas as pd

from jobs.conf.contract import contract_of
from jobs.conf.policy import policy_of
from jobs.conf.settings import Settings
from jobs.core import DayParams, Receipt
from jobs.ingest.landing import landed_rows
from jobs.lake.store import Lake, lake_of
from jobs.lake.tables import TRANSACTIONS
from jobs.quality.feeds import transactions_feed
from jobs.quality.suites import ROWS_FLOOR, rules_of, volume_rule
from jobs.quality.validate import validate_landed

READS = ("raw_transactions",)  # the days around it are looked at, nothing waits for them
WRITES = ("validation",)

LOOK_BACK_DAYS = 35  # before and, for a repair or a backfill, after the day


class Params(DayParams):
    """The day to validate."""


def usual_rows(settings: Settings, feed: str, day: date, weeks: int, otherwise: int) -> float:
    """Median rows of the same weekday in the last weeks; the contract's figure before there is one."""
    days = [day - timedelta(weeks=age) for age in range(1, weeks + 1)]
    rows = landed_rows(settings, feed, days)
    return float(median(rows)) if rows else float(otherwise)


def mark_published(frame: pd.DataFrame, lake: Lake, day: date) -> pd.DataFrame:
    """The frame with each row whose id is published on a day around this one counted as a copy."""
    near, far = timedelta(days=1), timedelta(days=LOOK_BACK_DAYS)
    wanted = frame["transaction_id_value"].fillna(-1).to_numpy(dtype=np.int64)
    elsewhere = np.zeros(len(frame), dtype=bool)
    for first, last in ((day - far, day - near), (day + near, day + far)):
        ids = lake.read(TRANSACTIONS, first=first, last=last, columns=["transaction_id"])
        elsewhere |= np.isin(wanted, ids["transaction_id"].to_numpy())
    copies = frame["copy_number"] + elsewhere.astype(np.int64)
    return frame.assign(copy_number=copies)


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
        extend=lambda frame: mark_published(frame, lake_of(settings), params.day),
    )
