"""The job `validate_labels`: the gate that a day of chargebacks must pass.

In: the newest landed chargeback feed of the day. Out: `work/labels/<day>/validation.json` and
`parsed.parquet`, a Data Docs page. A day without chargebacks passes. A chargeback about a transaction that
is not published (yet) is kept: many of them are an alert, never a closed gate.
Errors: SluiceError for other columns; GateClosed where the day breaks the policy.
"""

from __future__ import annotations

from datetime import date, timedelta

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from jobs.conf.contract import contract_of
from jobs.conf.policy import policy_of
from jobs.conf.settings import Settings
from jobs.core import DayParams, Receipt
from jobs.lake.store import Lake, lake_of
from jobs.lake.tables import TRANSACTIONS
from jobs.quality.feeds import labels_feed
from jobs.quality.suites import known_rule, rules_of
from jobs.quality.validate import validate_landed

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


def run(params: Params, settings: Settings) -> Receipt:
    """Validate the day's newest landed chargebacks."""
    contract, quality = contract_of(settings), policy_of(settings).quality
    feed = labels_feed(contract)

    def with_known(frame: pd.DataFrame) -> pd.DataFrame:
        wanted = frame["transaction_id_value"].fillna(-1).to_numpy(dtype=np.int64)
        known = known_transactions(lake_of(settings), wanted, params.day, contract.labels.maturity_days)
        return frame.assign(known=known.astype(np.int64))

    return validate_landed(
        settings,
        feed,
        params.day,
        quality,
        (*rules_of(feed, quality), known_rule(quality)),
        parameters={},
        extend=with_known,
        may_be_empty=True,
    )
