"""What a demo shows and on which days."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

from jobs.conf.contract import load_contract
from jobs.core import SluiceError, days_between
from jobs.ingest.sources import days_there, open_source

SIMULATED_FIRST = date(2026, 1, 1)
BACKFILLED_DAYS = 45
SIMULATED_DAYS = 66
RECENT_SHARE = 3  # of a source that is given, one third of the days is replayed as live traffic


@dataclass(frozen=True)
class Plan:
    """The days of a demo, all inclusive."""

    contract: str
    first: date
    backfill_last: date
    last: date
    source_uri: str = ""  # empty: the simulator's
    pattern_from: date | None = None  # a new kind of fraud begins
    broken_day: date | None = None  # a file with broken rows
    failing_day: date | None = None  # a file that fails its quality gate, until it is sent again

    @property
    def simulated(self) -> bool:
        return not self.source_uri

    @property
    def calm(self) -> bool:
        """Simulated without a new pattern: nothing should happen, and nothing is promoted."""
        return self.simulated and self.pattern_from is None

    @property
    def backfilled(self) -> list[date]:
        return days_between(self.first, self.backfill_last)

    @property
    def replayed(self) -> list[date]:
        return days_between(self.backfill_last + timedelta(days=1), self.last)


def simulated_plan(drift: bool) -> Plan:
    """Simulated days; with `drift`, a new fraud pattern appears when the first model is in place."""
    backfill_last = SIMULATED_FIRST + timedelta(days=BACKFILLED_DAYS - 1)
    return Plan(
        contract="simulated",
        first=SIMULATED_FIRST,
        backfill_last=backfill_last,
        last=SIMULATED_FIRST + timedelta(days=SIMULATED_DAYS - 1),
        pattern_from=backfill_last - timedelta(days=1) if drift else None,
        broken_day=SIMULATED_FIRST + timedelta(days=9),
        failing_day=SIMULATED_FIRST + timedelta(days=24),
    )


def plan_of_source(source_uri: str, contract: str, first: date | None, last: date | None) -> Plan:
    """A plan for somebody's own source.

    Raises:
        SluiceError: the source is missing or empty, or holds none of the days asked for.
    """
    feed = load_contract(contract).transactions
    address = source_uri if "://" in source_uri else str(Path(source_uri).resolve())
    there = days_there(open_source(address), feed.file)
    if not there:
        raise SluiceError(f"source {address}: no file named {feed.file} in it; see the contract {contract}")
    begin, end = first or there[0], last or there[-1]
    if begin < there[0] or end > there[-1]:
        raise SluiceError(
            f"source {address} holds {there[0]} to {there[-1]}: {begin} to {end} is not all there"
        )
    days = days_between(begin, end)
    if len(days) < 30:
        raise SluiceError(f"{begin} to {end} are {len(days)} days: the demo needs at least 30")
    backfill_last = days[len(days) - 1 - len(days) // RECENT_SHARE]
    return Plan(contract=contract, first=begin, backfill_last=backfill_last, last=end, source_uri=address)
