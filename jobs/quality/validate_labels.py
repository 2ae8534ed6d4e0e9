"""The job `validate_labels`: the gate that a day of chargebacks must pass.

In: the newest landed chargeback feed of the day. Out: `work/labels/<day>/validation.json` and
`parsed.parquet`, a Data Docs page. A day without chargebacks passes. A chargeback about a transaction that
is not published (yet) is kept. Many of them alert; most of them close the gate, unless they may be about a
day that is not published: before the first day of the data, or before a repair.
Errors: SluiceError for other columns; GateClosed where the day breaks the policy.
"""

from __future__ import annotations

from datetime import date, timedelta

import numpy as np
from numpy.typing import NDArray

from jobs.conf.contract import contract_of
from jobs.conf.policy import Quality, policy_of
from jobs.conf.settings import Settings
from jobs.core import DayParams, Receipt, days_between
from jobs.lake.store import Lake, lake_of
from jobs.lake.tables import TRANSACTIONS
from jobs.quality.copies import Keys, Published
from jobs.quality.feeds import labels_feed
from jobs.quality.figures import delivered_days
from jobs.quality.suites import labels_rules, rules_of
from jobs.quality.validate import Tally, validate_landed

READS = ("raw_labels", "transactions")
WRITES = ("validation_labels",)

NEAR_DAYS = 7  # most chargebacks are about the days just before they mature


class Params(DayParams):
    """The day to validate."""


def known_transactions(
    lake: Lake, wanted: NDArray[np.int64], day: date, maturity_days: int
) -> NDArray[np.bool_]:
    """Which of these transactions are published: the days near maturity first, then all before."""
    first = day - timedelta(days=maturity_days + NEAR_DAYS)
    ids = lake.read(TRANSACTIONS, first=first, last=day, columns=["transaction_id"])
    known = np.isin(wanted, ids["transaction_id"].to_numpy())
    if len(wanted) and not known.all():
        older = lake.read(TRANSACTIONS, last=first - timedelta(days=1), columns=["transaction_id"])
        known |= np.isin(wanted, older["transaction_id"].to_numpy())
    return known


def days_are_whole(lake: Lake, day: date, maturity_days: int) -> bool:
    """Whether the file of every day is published that the chargebacks of a day are usually about."""
    first = day - timedelta(days=maturity_days + NEAR_DAYS)
    last = day - timedelta(days=1)
    rows = lake.read(TRANSACTIONS, first=first, last=last, columns=["day", "file_day"])
    return set(days_between(first, last)) <= set(delivered_days(rows))


def unknown_figures(
    keys: Keys, known: NDArray[np.bool_], quality: Quality, *, whole: bool
) -> dict[str, float | None]:
    """The share of chargebacks about no published transaction, and the same where it may be judged."""
    rows = len(keys.values)
    if not rows:
        return {"unknown_share": None, "judged_unknown_share": None}
    share = 1.0 - float((known & keys.there).sum()) / rows
    may_be_judged = whole and rows >= quality.unknown_labels_min
    return {"unknown_share": share, "judged_unknown_share": share if may_be_judged else None}


def run(params: Params, settings: Settings) -> Receipt:
    """Validate the day's newest landed chargebacks."""
    contract, quality = contract_of(settings), policy_of(settings).quality
    feed, lake, maturity = labels_feed(contract), lake_of(settings), contract.labels.maturity_days

    def figures(keys: Keys, _: Tally) -> dict[str, float | None]:
        known = known_transactions(lake, keys.values, params.day, maturity)
        whole = days_are_whole(lake, params.day, maturity)
        return unknown_figures(keys, known, quality, whole=whole)

    return validate_landed(
        settings,
        feed,
        params.day,
        quality,
        (*rules_of(feed, quality), *labels_rules(quality)),
        published=Published.nothing,
        figures=figures,
        may_be_empty=True,
    )
