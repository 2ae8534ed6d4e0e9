"""The job `validate_transactions`: the gate that a day of transactions must pass.

In: the newest landed file of the day; what is published on the days around it.
Out: `work/transactions/<day>/validation.json` and `parsed.parquet`, a Data Docs page whose path is in the
receipt.
Errors: SluiceError for a file that is no CSV or Parquet file or has other columns; GateClosed where the
day breaks the policy (nulls, duplicates, quality score, volume, freshness, distribution, no rows, missing
evidence). A low volume and a shifted distribution alert before they close the day.
A transaction that another day's file has published is a duplicate here; one that a later file brought late
stays that file's, and its row here is quarantined without a limit. Of two days that are validated at the
same time neither sees the other; what slips through so is refused by build_frame.
"""

from __future__ import annotations

from datetime import date, timedelta

import numpy as np
from numpy.typing import NDArray

from jobs.conf.contract import LATE_DAYS_MAX, contract_of
from jobs.conf.policy import policy_of
from jobs.conf.settings import Settings
from jobs.core import DayParams, Receipt
from jobs.ingest.landing import landed_rows
from jobs.lake.store import Lake, lake_of
from jobs.lake.tables import TRANSACTIONS
from jobs.quality.copies import Keys, Published
from jobs.quality.feeds import transactions_feed
from jobs.quality.figures import READ_ROWS, Sampler, distribution_figures, reference_of, volume_figures
from jobs.quality.suites import rules_of, transactions_rules
from jobs.quality.validate import Tally, validate_landed

READS = ("raw_transactions",)  # the days around it are looked at, nothing waits for them
WRITES = ("validation",)

LOOK_BACK_DAYS = LATE_DAYS_MAX  # before and, for a repair or a backfill, after the day


class Params(DayParams):
    """The day to validate."""


def same_weekdays(settings: Settings, feed: str, day: date, weeks: int) -> list[int]:
    """Rows of the same weekday in the last weeks, as far as these days were landed."""
    days = [day - timedelta(weeks=age) for age in range(1, weeks + 1)]
    return landed_rows(settings, feed, days)


def published_before(keys: Keys, lake: Lake, day: date) -> Published:
    """Rows whose id another file has published on a day around this one; never are all ids held at once."""
    if not keys.there.any():
        return Published.nothing(keys)
    around, today = timedelta(days=LOOK_BACK_DAYS), np.datetime64(day)
    columns = ["transaction_id", "day", "file_day"]
    lowest, highest = keys.values[keys.there].min(), keys.values[keys.there].max()
    elsewhere, late = _Held(keys), _Held(keys)
    for batch in lake.scan(TRANSACTIONS, first=day - around, last=day + around, columns=columns):
        ids, days, brought = (batch[name].to_numpy(zero_copy_only=False) for name in columns)
        others = (ids >= lowest) & (ids <= highest) & (brought != today)
        came_late = others & (brought > today) & (days < brought)
        elsewhere.add(ids[others & ~came_late])
        late.add(ids[came_late])
    return Published(elsewhere.found(), late.found())


class _Held:
    """Some published ids at a time, and the rows that have one of them."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self._found = np.zeros(len(keys.values), dtype=bool)
        self._ids: list[NDArray[np.int64]] = []

    def add(self, ids: NDArray[np.int64]) -> None:
        self._ids.append(ids)
        if sum(map(len, self._ids)) > READ_ROWS:
            self._look()

    def found(self) -> NDArray[np.bool_]:
        self._look()
        return self._found & self._keys.there

    def _look(self) -> None:
        if any(map(len, self._ids)):
            self._found |= np.isin(self._keys.values, np.concatenate(self._ids))
        self._ids = []


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
        published=lambda keys: published_before(keys, lake, day),
        figures=figures,
        look=sampler.add,
    )
