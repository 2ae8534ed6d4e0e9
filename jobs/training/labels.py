"""Job snapshot_labels: what was known about each matured transaction at the end of the day.

In: tables transactions, labels, landed_files, merged_labels.
Out: labels.parquet (transaction_id, day, is_fraud int8, known_at or null), one row per transaction whose
    day lies in the policy's window: fit rows, an embargo of the maturity, test; labels.json with counts and
    the snapshot's digest.
Transactions: those with available_at <= as_of; every table at one version, named in labels.json.
Label: the latest row with available_at < as_of, else 0. as_of is the instant after the day; matured days
    end `maturity_days` before the day. Younger transactions are left out, also those already known as fraud:
    keeping only these would make young days look far worse than they are.
Errors: NothingToDo where a weekly training is not due; NotEnoughData where there are no matured transactions,
    no fraud at all, or where a day of the chargeback feed is missing, so that "no chargeback" does not mean
    "no fraud".
"""

from __future__ import annotations

from datetime import date, timedelta

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from jobs.conf.contract import LabelFeed, contract_of
from jobs.conf.policy import WEEKLY, Training, policy_of
from jobs.conf.settings import Settings
from jobs.core import NotEnoughData, Receipt, Stopwatch, midnight
from jobs.evaluation.labels import (
    first_word_of_fraud,
    latest_labels,
    matured_days,
    missing_label_days,
    named_days,
)
from jobs.evaluation.transactions import known_transactions
from jobs.lake.at import LakeAt, versions_of
from jobs.lake.store import Lake, content_digest, lake_of
from jobs.lake.tables import LABELS, LANDED_FILES, MERGED_LABELS, TRANSACTIONS
from jobs.training.due import require_due
from jobs.training.run_folder import RunFolder, TrainingParams

READS = ("transactions", "labels")
WRITES = ("label_snapshot",)
TABLES = (TRANSACTIONS, LABELS, LANDED_FILES, MERGED_LABELS)


class Params(TrainingParams):
    """Which run, as of the end of which day, and why: one that its schedule began has to be due."""

    reason: str = Field(default="", max_length=500)


def training_window(day: date, feed: LabelFeed, training: Training) -> tuple[date, date]:
    """First and last matured day of a training: the fit rows' window, the embargo and the test."""
    days = training.window_days + feed.maturity_days + training.test_days
    return matured_days(day, feed.maturity_days, days)


def snapshot(transactions: pd.DataFrame, labels: pd.DataFrame, as_of: pd.Timestamp) -> pd.DataFrame:
    """One label per transaction as of an instant.

    Args:
        transactions: transaction_id, day; matured ones only.
        labels: transaction_id, available_at, is_fraud; any number of rows per transaction.
        as_of: rows that became available at or after it are not known yet.
    """
    latest = latest_labels(labels, as_of).drop(columns="available_at")
    result = transactions.merge(latest, on="transaction_id", how="left")
    result = result.merge(first_word_of_fraud(labels, as_of), on="transaction_id", how="left")
    result["is_fraud"] = result["is_fraud"].fillna(0).astype("int8")
    return result[["transaction_id", "day", "is_fraud", "known_at"]]


def check_feed(lake: Lake, first: date, day: date, feed: LabelFeed) -> None:
    """Every chargeback file that the transactions from `first` on need must be merged.

    Raises:
        NotEnoughData: chargebacks of matured transactions are missing or may still be on their way.
    """
    missing = missing_label_days(lake, first, day, feed)
    if missing:
        raise NotEnoughData(
            f"labels as of {day}: the chargebacks of {named_days(missing)} are not merged, so an unknown "
            "fraud would count as good; run land_labels, validate_labels and merge_labels for each (DAG "
            "fraud_labels)"
        )


def label_snapshot(lake: Lake, first: date, last: date, day: date) -> pd.DataFrame:
    """The labels of the transactions of the days first to last as of the end of `day`, by transaction.

    A day whose own file has not come is left out, also between others, though rows of it may have come late:
    it has no features.
    """
    as_of = midnight(day + timedelta(days=1))
    found = known_transactions(lake, first, last, as_of, ["transaction_id", "day", "file_day"])
    own = pc.unique(found.filter(pc.equal(found["day"], found["file_day"]))["day"])
    found = found.filter(pc.is_in(found["day"], value_set=own))
    transactions = found.drop_columns("file_day").to_pandas()
    labels = lake.read(LABELS, last=day).drop_columns(["day"]).to_pandas()
    known = snapshot(transactions, labels, pd.Timestamp(as_of))
    return known.sort_values("transaction_id", ignore_index=True)


def run(params: Params, settings: Settings) -> Receipt:
    watch = Stopwatch()
    folder = RunFolder(settings, params.run)
    if params.reason == WEEKLY and not folder.file("labels.json").exists():  # one that began goes on
        require_due(settings, params.day)
    feed = contract_of(settings).labels
    first, last = training_window(params.day, feed, policy_of(settings).training)
    # versions first, then data: what is written meanwhile belongs to no run
    versions = versions_of(lake_of(settings), TABLES)
    lake = LakeAt(lake_of(settings), versions)
    labels = label_snapshot(lake, first, last, params.day)
    if labels.empty:
        raise NotEnoughData(
            f"labels as of {params.day}: no matured transactions between {first} and {last}; "
            "ingest earlier days, or train on a later day"
        )
    check_feed(lake, labels["day"].min(), params.day, feed)
    positives = int(labels["is_fraud"].sum())
    if positives == 0:
        raise NotEnoughData(
            f"labels as of {params.day}: none of {len(labels)} matured transactions between {first} and "
            f"{last} is fraud; is the chargeback feed merged?"
        )
    digest = label_digest(labels)
    folder.write_frame("labels.parquet", labels)
    facts = {
        "as_of": midnight(params.day + timedelta(days=1)).isoformat(),
        "first": str(labels["day"].min()),
        "last": str(last),
        "rows": len(labels),
        "positives": positives,
        "digest": digest,
        "table_versions": versions,
    }
    folder.write_facts("labels.json", facts)
    return Receipt(
        job="snapshot_labels",
        table="label_snapshot",
        partition=params.run,
        rows=len(labels),
        digest=digest,
        seconds=watch.seconds,
        facts={"positives": positives, "first": facts["first"], "last": facts["last"]},
    )


def label_digest(labels: pd.DataFrame) -> str:
    """Digest of a snapshot's contents."""
    return content_digest(pa.Table.from_pandas(labels, preserve_index=False))
