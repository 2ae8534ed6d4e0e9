"""The job `land_labels`: the chargeback feed as it was known on a day, into the raw layer.

In: the feed's file of the day; or, where the contract says that labels are a column of the transactions,
the transactions' file of `delay_days` before, of which only the frauds are taken. Out:
`raw/labels/<day>/<digest16>.<ext>` and a row of `landed_files`.
Errors: as land_transactions. A day whose transactions lie before the data begins has an empty feed.
"""

from __future__ import annotations

import csv
import io
from datetime import date, datetime, timedelta

import pandas as pd
from pydantic import Field

from jobs.conf.contract import Contract, contract_of
from jobs.conf.settings import Settings
from jobs.core import DayParams, Receipt, SluiceError, Stopwatch
from jobs.ingest.land_transactions import landing_receipt
from jobs.ingest.landing import allowed_address, arriving, land
from jobs.ingest.sources import FileNotThere, Source, days_there, fetch_day, open_source, read_day
from jobs.quality.chunks import count_rows
from jobs.quality.feeds import LABELS_FEED
from jobs.quality.parse import read_text

READS = ("source",)
WRITES = ("raw_labels",)


class Params(DayParams):
    """The day to land, and from where."""

    source_uri: str = Field(
        "", description="one of the installation's sources; empty: the one of the settings"
    )


def frauds_of(text: pd.DataFrame, transaction_id: str, is_fraud: str, where: str) -> bytes:
    """A chargeback file from a file of transactions: the rows that say fraud, sorted."""
    for name in (transaction_id, is_fraud):
        if name not in text.columns:
            raise SluiceError(f"{where}: column {name!r} is missing; the contract's labels need it")
    chosen = text[text[is_fraud] == "1"]
    sink = io.StringIO(newline="")
    writer = csv.writer(sink, lineterminator="\n")
    writer.writerow([transaction_id, is_fraud])
    writer.writerows(sorted([row, "1"] for row in chosen[transaction_id].fillna("")))
    return sink.getvalue().encode()


def derive_feed(contract: Contract, source: Source, day: date) -> tuple[bytes, datetime | None, str]:
    """The feed that a source without one would have sent on a day, its object's instant, and a remark.

    Raises:
        SluiceError: the source has no transactions of the day that the feed is about.
    """
    about = day - timedelta(days=contract.labels.delay_days)
    file = contract.transactions.file
    names = contract.labels.transaction_id, contract.labels.is_fraud
    try:
        found = source.read(file.replace("{day}", str(about)))
    except FileNotThere:
        days = days_there(source, file)
        if days and about < days[0]:
            return f"{names[0]},{names[1]}\n".encode(), None, f"the data begins on {days[0]}: no labels yet"
        found = read_day(source, file, about)
    where = f"{source.address}, {about}"
    text = read_text(found.data, contract.transactions.format, where)
    return frauds_of(text, *names, where), found.modified, f"frauds of {about}"


def run(params: Params, settings: Settings) -> Receipt:
    """Land the day's chargebacks."""
    watch = Stopwatch()
    contract = contract_of(settings)
    feed, remark = contract.labels, ""
    arrived_at: datetime | None
    if feed.origin == "transactions":
        address = allowed_address(settings, params.source_uri, settings.source_uri, "SLUICE_SOURCE_URI")
        kind = "csv"
    else:
        address = allowed_address(settings, params.source_uri, settings.labels_uri, "SLUICE_LABELS_URI")
        kind = feed.format
    source = open_source(address)
    with arriving(settings) as file:
        if feed.origin == "transactions":
            data, arrived_at, remark = derive_feed(contract, source, params.day)
            file.write_bytes(data)
        else:
            arrived_at = fetch_day(source, feed.file, params.day, file)
        rows = count_rows(file, kind, f"{source.address}, {params.day}")
        landing = land(settings, LABELS_FEED, params.day, source.address, file, kind, rows, arrived_at)
    receipt = landing_receipt("land_labels", "raw_labels", landing, watch)
    return receipt.model_copy(update={"facts": {**receipt.facts, "remark": remark}})
