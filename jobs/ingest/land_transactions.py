"""The job `land_transactions`: one day's file from the source into the raw layer, unchanged.

In: the source's file of the day. Out: `raw/transactions/<day>/<digest16>.<ext>` and a row of
`landed_files`. The same file again changes nothing; another file becomes the next version.
Errors: SluiceError for a missing or empty source, a day outside it, denied access, a server that does not
answer, an address that is not one of the installation's.
"""

from __future__ import annotations

from pydantic import Field

from jobs.conf.contract import contract_of
from jobs.conf.settings import Settings
from jobs.core import DayParams, Receipt, Stopwatch
from jobs.ingest.landing import Landing, allowed_address, arriving, land
from jobs.ingest.sources import fetch_day, open_source
from jobs.quality.chunks import count_rows
from jobs.quality.feeds import TRANSACTIONS_FEED

READS = ("source",)
WRITES = ("raw_transactions",)


class Params(DayParams):
    """The day to land, and from where."""

    source_uri: str = Field("", description="one of the installation's sources; empty: SLUICE_SOURCE_URI")


def run(params: Params, settings: Settings) -> Receipt:
    """Land the day's file."""
    watch = Stopwatch()
    feed = contract_of(settings).transactions
    address = allowed_address(settings, params.source_uri, settings.source_uri, "SLUICE_SOURCE_URI")
    source = open_source(address)
    with arriving(settings) as file:
        modified = fetch_day(source, feed.file, params.day, file)
        rows = count_rows(file, feed.format, f"{source.address}, {params.day}")
        landing = land(
            settings, TRANSACTIONS_FEED, params.day, source.address, file, feed.format, rows, modified
        )
    return landing_receipt("land_transactions", "raw_transactions", landing, watch)


def landing_receipt(job: str, artefact: str, landing: Landing, watch: Stopwatch) -> Receipt:
    """The receipt of a landing."""
    landed = landing.landed
    return Receipt(
        job=job,
        table=artefact,
        partition=str(landed.day),
        version=landing.table_version,
        rows=landed.rows,
        digest=landed.digest[:16],
        seconds=watch.seconds,
        facts={
            "address": landed.address,
            "path": landed.path,
            "size_bytes": landed.size_bytes,
            "arrived_at": landed.arrived_at.isoformat() if landed.arrived_at else "",
            "landed_version": landed.sequence,
            "is_new": landing.is_new,
        },
    )
