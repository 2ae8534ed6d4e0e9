"""The job `simulate_source`: writes a simulated source, one file a day.

In: parameters, and the contract: it says the files' names, the columns' names and order, the units. Out:
one CSV file of transactions and one of chargebacks a day, in directories or under s3:// prefixes. About 1 %
of the rows are frauds; a chargeback comes one to three days after its transaction.
Errors: SluiceError for a period that ends before it begins, a contract whose files are no CSV or that has no
chargeback feed, or a destination that cannot be written.
Source: own design; the same seed and day always give the same bytes.
"""

from __future__ import annotations

import hashlib
import sys
from datetime import date, timedelta
from typing import NamedTuple

import numpy as np
import pandas as pd
from pydantic import Field
from rich.progress import track

from jobs.conf.contract import Contract, TransactionFeed, contract_of
from jobs.conf.settings import Settings
from jobs.core import JobParams, Receipt, SluiceError, Stopwatch, days_between, midnight
from jobs.ingest.sources import open_source
from jobs.simulator.faults import break_rows, fail_feed
from jobs.simulator.files import check_shape, labels_bytes, transactions_bytes, transactions_text
from jobs.simulator.patterns import fraud_rows
from jobs.simulator.world import (
    BASE_COLUMNS,
    HONEST,
    REPORTS,
    SimulatorConfig,
    generator,
    honest_rows,
)

READS: tuple[str, ...] = ()
WRITES = ("source",)

IDS_PER_DAY = 10_000_000
ID_ORIGIN = date(2000, 1, 1).toordinal()
REPORT_DAYS = (1, 2, 3)  # a chargeback comes this many days after its transaction …
REPORT_SHARES = (0.35, 0.45, 0.20)  # … with these probabilities
REPORTED_HOURS = (6, 22)


class Params(JobParams):
    """What to simulate and where to put it."""

    first_day: date = Field(description="first day to write")
    last_day: date = Field(description="last day to write, included")
    destination: str = Field(description="transactions: a directory or s3://bucket/prefix")
    labels_destination: str = Field("", description="chargebacks: the same, empty to leave them out")
    seed: int = Field(7, ge=0, description="same seed, same data")
    rows_per_day: int = Field(2500, ge=50, description="transactions of an average day")
    customers: int = Field(1250, ge=20, description="number of card holders")
    terminals: int = Field(600, ge=20, description="number of payment terminals")
    new_pattern_from: date | None = Field(None, description="first day of the new fraud pattern")
    broken_day: date | None = Field(None, description="a day with about 2 % broken rows")
    failing_day: date | None = Field(None, description="a day whose feed fails the quality gate")

    def config(self) -> SimulatorConfig:
        """The part that decides what a day looks like."""
        return SimulatorConfig(**self.model_dump(include=set(SimulatorConfig.model_fields)))


class SimulatedDay(NamedTuple):
    """The truth about a day.

    transactions: transaction_id, event_time, customer_id, terminal_id, amount_minor, and what no file
    shows: is_fraud, pattern. labels: by day of report, transaction_id, reported_at, is_fraud.
    """

    transactions: pd.DataFrame
    labels: dict[date, pd.DataFrame]


def simulate_day(config: SimulatorConfig, day: date) -> SimulatedDay:
    """One day of transactions in order of time, and the chargebacks that they will cause."""
    parts = [honest_rows(config, day), *fraud_rows(config, day)]
    columns = {name: np.concatenate([part[name].to_numpy() for part in parts]) for name in BASE_COLUMNS}
    rows = pd.DataFrame(columns).sort_values("second", kind="stable", ignore_index=True)
    start = pd.Timestamp(midnight(day))
    transactions = pd.DataFrame(
        {
            "transaction_id": (day.toordinal() - ID_ORIGIN) * IDS_PER_DAY + np.arange(len(rows)) + 1,
            "event_time": start + pd.to_timedelta(rows["second"], unit="s"),
            "customer_id": rows["customer_id"],
            "terminal_id": rows["terminal_id"],
            "amount_minor": rows["amount_minor"],
            "is_fraud": (rows["pattern"] != HONEST).astype("int8"),
            "pattern": rows["pattern"],
        }
    )
    return SimulatedDay(transactions, _chargebacks(config, day, transactions))


def _chargebacks(config: SimulatorConfig, day: date, transactions: pd.DataFrame) -> dict[date, pd.DataFrame]:
    """The chargebacks of a day's frauds, by the day on which they are reported."""
    random = generator(config.seed, REPORTS, day)
    frauds = transactions.loc[transactions["is_fraud"] == 1, "transaction_id"].to_numpy()
    delays = random.choice(REPORT_DAYS, size=len(frauds), p=REPORT_SHARES)
    first, last = REPORTED_HOURS
    seconds = random.integers(first * 3600, last * 3600, size=len(frauds))
    labels: dict[date, pd.DataFrame] = {}
    for delay in REPORT_DAYS:
        chosen, report_day = delays == delay, day + timedelta(days=delay)
        instants = pd.Timestamp(midnight(report_day)) + pd.to_timedelta(seconds[chosen], unit="s")
        labels[report_day] = pd.DataFrame(
            {"transaction_id": frauds[chosen], "reported_at": instants, "is_fraud": 1}
        )
    return labels


def labels_of(config: SimulatorConfig, report_day: date, source_begins: date) -> pd.DataFrame:
    """The chargebacks reported on a day, about transactions of `source_begins` and later."""
    days = [report_day - timedelta(days=delay) for delay in sorted(REPORT_DAYS, reverse=True)]
    frames = [simulate_day(config, day).labels[report_day] for day in days if day >= source_begins]
    if not frames:
        return pd.DataFrame({"transaction_id": [], "reported_at": [], "is_fraud": []})
    rows = pd.concat(frames, ignore_index=True)
    return rows.sort_values(["reported_at", "transaction_id"], ignore_index=True)


def transactions_file(config: SimulatorConfig, day: date, feed: TransactionFeed) -> bytes:
    """The file of a day as the source delivers it, with the day's faults if it has any."""
    text = transactions_text(simulate_day(config, day).transactions, day, feed)
    if day == config.broken_day:
        text = break_rows(config.seed, day, text)
    if day == config.failing_day:
        text = fail_feed(config.seed, day, text)
    return transactions_bytes(text, feed)


def labels_file(config: SimulatorConfig, report_day: date, source_begins: date, contract: Contract) -> bytes:
    """The chargeback file of a day; a header alone where nothing was reported."""
    return labels_bytes(labels_of(config, report_day, source_begins), contract)


def run(params: Params, settings: Settings) -> Receipt:
    """Write every day of the period; files that exist are replaced by the same or the repaired ones."""
    watch = Stopwatch()
    if params.last_day < params.first_day:
        raise SluiceError(
            f"simulate_source: last_day {params.last_day} lies before first_day {params.first_day}"
        )
    contract = contract_of(settings)
    check_shape(contract)
    feed = contract.transactions
    config, total = params.config(), hashlib.sha256()
    source = open_source(params.destination)
    labels = open_source(params.labels_destination) if params.labels_destination else None
    begins = min(settings.first_day, params.first_day)
    rows = 0
    days = days_between(params.first_day, params.last_day)
    for day in track(days, description="simulating", transient=True, disable=not _on_terminal()):
        data = transactions_file(config, day, feed)
        source.write(feed.file.replace("{day}", str(day)), data)
        total.update(data)
        rows += data.count(b"\n") - 1
        if labels is not None:
            data = labels_file(config, day, begins, contract)
            labels.write(contract.labels.file.replace("{day}", str(day)), data)
            total.update(data)
    return Receipt(
        job="simulate_source",
        table=source.address,
        partition=f"{params.first_day}..{params.last_day}",
        rows=rows,
        digest=total.hexdigest()[:16],
        seconds=watch.seconds,
        facts={"days": len(days), "labels": labels.address if labels else ""},
    )


def _on_terminal() -> bool:
    """Progress is for people: not for logs and pipes."""
    return sys.stdout.isatty()
