"""The world outside: whoever delivers the source's files. Only the simulator's demo needs it."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path

import boto3
from botocore.config import Config

from demo.plan import Plan
from jobs.registry import run_job

BUCKET = "card-transactions"
PREFIX = "daily"
S3_SOURCE = f"s3://{BUCKET}/{PREFIX}"
EARLY_SHARE = 2  # the first half of the past lies in a directory, everything later on S3


def folders(home: Path) -> tuple[Path, Path]:
    """Directories of the early transactions and of the chargebacks."""
    return home / "source" / "transactions", home / "source" / "chargebacks"


def early_days(plan: Plan) -> list[date]:
    """Days whose files lie in the directory."""
    return plan.backfilled[: len(plan.backfilled) // EARLY_SHARE]


def deliver(plan: Plan, home: Path) -> None:
    """Write the whole simulated source: early days to a directory, later ones to S3, all chargebacks."""
    early, chargebacks = folders(home)
    make_bucket()
    last_early = early_days(plan)[-1]
    _simulate(plan, plan.first, last_early, str(early), str(chargebacks))
    _simulate(plan, last_early + timedelta(days=1), plan.last, S3_SOURCE, str(chargebacks))


def repair(plan: Plan, day: date) -> None:
    """Send a day's file again, without its fault."""
    _simulate(plan, day, day, S3_SOURCE, "", faults=False)


def make_bucket() -> None:
    """Create the bucket on the S3-compatible server, unless it is there."""
    client = boto3.client("s3", config=Config(s3={"addressing_style": "path"}))
    try:
        client.create_bucket(Bucket=BUCKET)
    except (client.exceptions.BucketAlreadyOwnedByYou, client.exceptions.BucketAlreadyExists):
        return


def _simulate(
    plan: Plan, first: date, last: date, destination: str, labels: str, faults: bool = True
) -> None:
    arguments = {
        "first_day": first,
        "last_day": last,
        "destination": destination,
        "labels_destination": labels,
        "new_pattern_from": plan.pattern_from,
        "broken_day": plan.broken_day if faults else None,
        "failing_day": plan.failing_day if faults else None,
    }
    run_job("simulate_source", arguments)
