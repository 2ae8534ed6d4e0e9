"""Job snapshot_labels: what was known about each matured transaction at the end of the day.

In: tables transactions, labels, landed_files.
Out: labels.parquet (transaction_id, day, is_fraud int8, known_at or null), one row per transaction whose
    day lies in the policy's window of matured days; labels.json with counts and the snapshot's digest.
Label: the latest row with available_at < as_of, else 0. as_of is the instant after the day; matured days
    end `maturity_days` before the day. Younger transactions are left out, also those already known as fraud:
    keeping only these would make young days look far worse than they are.
Errors: SluiceError where there are no matured transactions, no fraud at all, or where the chargeback feed
    has not come far enough for "no chargeback" to mean "no fraud".
"""

from __future__ import annotations

from datetime import date, timedelta

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from jobs.conf.contract import LabelFeed, contract_of
from jobs.conf.policy import policy_of
from jobs.conf.settings import Settings
from jobs.core import Receipt, SluiceError, Stopwatch, midnight
from jobs.lake.store import Lake, content_digest
from jobs.lake.tables import LABELS, LANDED_FILES, TRANSACTIONS
from jobs.training.run_folder import RunFolder, TrainingParams

READS = ("transactions", "labels")
WRITES = ("label_snapshot",)


class Params(TrainingParams):
    """Which run, and as of the end of which day."""


def matured_days(day: date, maturity_days: int, window_days: int) -> tuple[date, date]:
    """First and last matured day of the training window as of the end of `day`, both included."""
    last = day - timedelta(days=maturity_days)
    return last - timedelta(days=window_days - 1), last


def snapshot(transactions: pd.DataFrame, labels: pd.DataFrame, as_of: pd.Timestamp) -> pd.DataFrame:
    """One label per transaction as of an instant.

    Args:
        transactions: transaction_id, day; matured ones only.
        labels: transaction_id, available_at, is_fraud; any number of rows per transaction.
        as_of: rows that became available at or after it are not known yet.
    """
    known = labels[labels["available_at"] < as_of]
    # two rows of one instant contradict each other: the fraud counts, a correction comes with a later time
    latest = known.sort_values(["available_at", "is_fraud"]).drop_duplicates("transaction_id", keep="last")
    result = transactions.merge(
        latest.rename(columns={"available_at": "known_at"}), on="transaction_id", how="left"
    )
    result["is_fraud"] = result["is_fraud"].fillna(0).astype("int8")
    return result[["transaction_id", "day", "is_fraud", "known_at"]]


def check_feed(newest: date | None, day: date, feed: LabelFeed) -> None:
    """The feed must have come far enough for the last matured day.

    Raises:
        SluiceError: chargebacks of matured transactions may still be on their way.
    """
    needed = day - timedelta(days=feed.maturity_days - feed.delay_days)
    if newest is None or newest < needed:
        raise SluiceError(
            f"labels as of {day}: the newest chargeback file that was landed is of {newest or 'no day'}, "
            f"needed up to {needed}: an unknown fraud would count as good; land and merge the labels first"
        )


def newest_label_day(landed: pa.Table) -> date | None:
    """The newest day of the chargeback feed among the landed files."""
    days = landed.filter(pc.equal(landed["feed"], "labels"))["day"]
    newest: date | None = pc.max(days).as_py()
    return newest


def run(params: Params, settings: Settings) -> Receipt:
    watch = Stopwatch()
    feed = contract_of(settings).labels
    window = policy_of(settings).training.window_days
    first, last = matured_days(params.day, feed.maturity_days, window)
    lake = Lake(settings.lake)
    transactions = lake.read(TRANSACTIONS, first=first, last=last, columns=["transaction_id", "day"])
    if transactions.num_rows == 0:
        raise SluiceError(
            f"labels as of {params.day}: no matured transactions between {first} and {last}; "
            "ingest earlier days, or train on a later day"
        )
    check_feed(newest_label_day(lake.read(LANDED_FILES, last=params.day)), params.day, feed)
    known = lake.read(LABELS, last=params.day)
    as_of = pd.Timestamp(midnight(params.day + timedelta(days=1)))
    labels = snapshot(transactions.to_pandas(), known.drop_columns(["day"]).to_pandas(), as_of).sort_values(
        "transaction_id", ignore_index=True
    )
    positives = int(labels["is_fraud"].sum())
    if positives == 0:
        raise SluiceError(
            f"labels as of {params.day}: none of {len(labels)} matured transactions between {first} and "
            f"{last} is fraud; is the chargeback feed merged?"
        )
    folder = RunFolder(settings, params.run)
    digest = content_digest(pa.Table.from_pandas(labels, preserve_index=False))
    folder.write_frame("labels.parquet", labels)
    facts = {
        "as_of": as_of.isoformat(),
        "first": str(labels["day"].min()),
        "last": str(last),
        "rows": len(labels),
        "positives": positives,
        "digest": digest,
        "table_versions": {table.name: lake.version(table) for table in (TRANSACTIONS, LABELS)},
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
