"""The job `validate_transactions`: the gate that a day of transactions must pass.

In: the newest landed file of the day; what is published on the days around it.
Out: `work/transactions/<day>/validation.json` and `parsed.parquet`, a Data Docs page whose path is in the
receipt.
Errors: SluiceError for a file that is no CSV or Parquet file or has other columns; GateClosed where the
day breaks the policy (nulls, duplicates, quality score, volume, freshness, distribution, no rows, missing
evidence). A low volume and a shifted distribution alert before they close the day.
A transaction that another file has published is a duplicate here. Of two days that are validated at the same
time neither sees the other; what slips through so is refused by build_frame.
"""

from __future__ import annotations

from datetime import date, timedelta

import numpy as np
from numpy.typing import NDArray

from jobs.conf.contract import contract_of
from jobs.conf.policy import policy_of
from jobs.conf.settings import Settings
from jobs.core import DayParams, Receipt
from jobs.ingest.landing import landed_rows
from jobs.lake.store import Lake, lake_of
from jobs.lake.tables import TRANSACTIONS
from jobs.quality.copies import Keys
from jobs.quality.feeds import transactions_feed
from jobs.quality.figures import READ_ROWS, Sampler, distribution_figures, reference_of, volume_figures
from jobs.quality.suites import rules_of, transactions_rules
from jobs.quality.validate import Tally, validate_landed

READS = ("raw_transactions",)  # the days around it are looked at, nothing waits for them
WRITES = ("validation",)

LOOK_BACK_DAYS = 35  # before and, for a repair or a backfill, after the day


class Params(DayParams):
    """The day to validate."""


def same_weekdays(settings: Settings, feed: str, day: date, weeks: int) -> list[int]:
    """Rows of the same weekday in the last weeks, as far as these days were landed."""
    days = [day - timedelta(weeks=age) for age in range(1, weeks + 1)]
    return landed_rows(settings, feed, days)


def published_elsewhere(keys: Keys, lake: Lake, day: date) -> NDArray[np.bool_]:
    """Rows whose id another file has published on a day around this one; never are all ids held at once."""
    found = np.zeros(len(keys.values), dtype=bool)
    if not keys.there.any():
        return found
    around = timedelta(days=LOOK_BACK_DAYS)
    columns = ["transaction_id", "file_day"]
    lowest, highest = keys.values[keys.there].min(), keys.values[keys.there].max()
    held: list[NDArray[np.int64]] = []
    for batch in lake.scan(TRANSACTIONS, first=day - around, last=day + around, columns=columns):
        ids, brought = (batch[name].to_numpy(zero_copy_only=False) for name in columns)
        held.append(ids[(ids >= lowest) & (ids <= highest) & (brought != np.datetime64(day))])
        if sum(map(len, held)) > READ_ROWS:
            found |= np.isin(keys.values, np.concatenate(held))
            held = []
    if any(map(len, held)):
        found |= np.isin(keys.values, np.concatenate(held))
    return found & keys.there


def run(params: Params, settings: Settings) -> Receipt:
    """Validate the day's newest landed file."""
    contract, policy = contract_of(settings), policy_of(settings)
    quality, day = policy.quality, params.day
    feed, lake = transactions_feed(contract), lake_of(settings)
    weekdays = same_weekdays(settings, feed.name, day, quality.volume_weeks)
    usual = contract.transactions.rows_per_day
    sampler = Sampler(day, max([usual, *landed_rows(settings, feed.name, [day])]))

    def figures(_: Keys, tally: Tally) -> dict[str, float | None]:
        reference, days = reference_of(lake, day, quality.distribution_days, usual)
        return {
            **volume_figures(tally.rows, weekdays, usual, quality),
            "newest_event_age_hours": sampler.newest_event_age_hours(),
            **distribution_figures(sampler.sample(), reference, days, quality, policy.drift),
        }

    return validate_landed(
        settings,
        feed,
        day,
        quality,
        (*rules_of(feed, quality), *transactions_rules(quality, contract.transactions.newest_event_hours)),
        published=lambda keys: published_elsewhere(keys, lake, day),
        figures=figures,
        look=sampler.add,
    )
