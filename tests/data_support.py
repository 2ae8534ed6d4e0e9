"""Small days of transactions and chargebacks in files, and jobs called by name."""

from __future__ import annotations

from datetime import date
from pathlib import Path

from jobs.conf.settings import Settings
from jobs.core import Receipt
from jobs.registry import load_job

DAY = date(2026, 1, 5)
HEADER = "transaction_id,event_time,customer_id,terminal_id,amount"
LABEL_HEADER = "transaction_id,reported_at,is_fraud"
TRANSACTION_JOBS = (
    "land_transactions", "validate_transactions", "quarantine_transactions",
    "publish_transactions",
)  # fmt: skip
LABEL_JOBS = ("land_labels", "validate_labels", "merge_labels")


def good_row(number: int, day: date = DAY) -> str:
    """A row without a fault."""
    return f"{number},{day}T20:{number // 60 % 60:02d}:{number % 60:02d}Z,{number % 7 + 1},3,12.50"


def good_rows(count: int, day: date = DAY, first: int = 1) -> list[str]:
    """Rows with the transaction ids from the first on."""
    return [good_row(number, day) for number in range(first, first + count)]


def put_transactions(settings: Settings, rows: list[str], day: date = DAY) -> Path:
    """Write the day's file of the source."""
    return _put(Path(settings.source_uri), day, [HEADER, *rows])


def put_labels(settings: Settings, rows: list[str], day: date) -> Path:
    """Write the day's file of chargebacks."""
    return _put(Path(settings.labels_uri), day, [LABEL_HEADER, *rows])


def _put(folder: Path, day: date, lines: list[str]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{day}.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def run_named(name: str, settings: Settings, day: date = DAY, **arguments: object) -> Receipt:
    """Run one job."""
    job = load_job(name)
    return job.run(job.Params.model_validate({"day": day, **arguments}), settings)


def ingest_day(settings: Settings, day: date = DAY) -> dict[str, Receipt]:
    """Land, validate, quarantine and publish a day."""
    return {name: run_named(name, settings, day) for name in TRANSACTION_JOBS}


def label_day(settings: Settings, day: date) -> dict[str, Receipt]:
    """Land, validate and merge a day of chargebacks."""
    return {name: run_named(name, settings, day) for name in LABEL_JOBS}
