"""The job `abort_backfill`: gives up a backfill that has not been swapped, and drops what it staged.

In: a planned, staged or validated backfill. Out: the state aborted; its days can be planned again.
Errors: SluiceError where the swap has begun: that is finished or taken back, never given up halfway.
"""

from __future__ import annotations

from jobs.backfill.ledger import (
    Request,
    State,
    find,
    next_step,
    pin_name,
    production_of,
    record,
    require,
    working,
)
from jobs.backfill.run import drop_staging
from jobs.conf.settings import Settings
from jobs.core import Receipt, Stopwatch
from jobs.lake.pins import unpin
from jobs.lake.tables import PINS

READS = ("backfills",)
WRITES = ("backfills", "staging")


class Params(Request):
    """The backfill to give up."""


def run(params: Params, settings: Settings) -> Receipt:
    """Give it up, or say what that would drop."""
    watch = Stopwatch()
    lake = production_of(settings)
    with working(lake, params.name):
        entry = find(lake, params.name)
        require(entry, State.PLANNED, State.STAGED, State.VALIDATED, State.ABORTED)
        if params.execute:
            if entry.state is not State.ABORTED:
                entry = record(lake, entry.then(State.ABORTED, params))
            if pin_name(entry.name) in lake.partitions(PINS):  # a swap that was cut off before it began
                unpin(lake, pin_name(entry.name))
            drop_staging(settings, entry.name)
    return Receipt(
        job="abort_backfill",
        table="backfills",
        partition=entry.name,
        seconds=watch.seconds,
        facts={
            "state": entry.state.value,
            "executed": params.execute,
            "days": entry.days,
            "next_step": next_step(entry),
        },
    )
