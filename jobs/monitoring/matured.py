"""Answers whose labels have matured: what a version said, and what became of it.

In: prediction log, labels, transactions. Out: rows of one version with score, is_fraud, amount, day and the
features by which slices choose. The log is read and labelled a day at a time, and of a row only that is kept:
some 70 bytes, where the features alone would be 700.
Rows of cards that were known to be compromised count as little as among the reference rows.
Errors: none for missing data: no rows.
"""

from __future__ import annotations

from collections import Counter
from datetime import date, timedelta

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from jobs.conf.contract import contract_of
from jobs.conf.policy import policy_of
from jobs.conf.settings import Settings
from jobs.core import days_between, midnight
from jobs.evaluation.labels import first_word_of_fraud, latest_labels, matured_days, of_known_cards
from jobs.evaluation.slices import SLICE_FEATURES
from jobs.lake.store import Lake, lake_of
from jobs.lake.tables import LABELS, PREDICTIONS, TRANSACTIONS
from jobs.monitoring.features_logged import latest_answers, logged
from jobs.monitoring.interval import Interval

VARIANTS = ("champion", "holdout")
COLUMNS = ["transaction_id", "customer_id", "event_time", "amount_minor", "score", "served_at"]


def latest_word(labels: pd.DataFrame, end: pd.Timestamp) -> pd.Series:
    """Whether a transaction is a fraud, by its id, as it was known before `end`."""
    return latest_labels(labels, end).set_index("transaction_id")["is_fraud"]


def labelled(predictions: pd.DataFrame, truth: pd.Series) -> pd.DataFrame:
    """Predictions with their label: the latest word, else no fraud."""
    found = predictions["transaction_id"].map(truth).fillna(0).astype(float)
    return predictions.assign(is_fraud=found)


def known_frauds(lake: Lake, labels: pd.DataFrame, earliest: date, end: pd.Timestamp) -> pd.DataFrame:
    """customer_id and known_at of every fraud among the labels, of transactions since `earliest`."""
    frauds = first_word_of_fraud(labels, end).reset_index()
    wanted = pa.array(frauds["transaction_id"].to_numpy(dtype=np.int64))
    columns = ["transaction_id", "customer_id"]
    found = [
        batch.filter(pc.is_in(batch["transaction_id"], wanted))
        for batch in lake.scan(TRANSACTIONS, first=earliest, last=None, columns=columns)
    ]
    schema = pa.schema([TRANSACTIONS.schema.field(name) for name in columns])
    payers = pa.Table.from_batches(found, schema).to_pandas()
    return frauds.merge(payers.drop_duplicates("transaction_id"), on="transaction_id")


def live_rows(lake: Lake, version: str, day: date) -> pd.DataFrame:
    """One answer of the version per transaction of a day, with amount and what slices need."""

    def wanted(batch: pa.RecordBatch) -> pa.Array:
        ours = pc.and_(pc.equal(batch["model_version"], version), _of_champions(batch))
        answered = pc.equal(pc.fill_null(batch["error"], ""), "")
        return pc.and_(pc.and_(ours, answered), pc.is_valid(batch["score"]))

    found = logged(lake, Interval(day), COLUMNS, wanted, SLICE_FEATURES)
    return latest_answers(found).assign(day=pd.Timestamp(day))


def judged_rows(settings: Settings, version: str, day: date) -> pd.DataFrame:
    """The version's answers of the matured days as of a day, with their labels."""
    lake, policy, contract = lake_of(settings), policy_of(settings), contract_of(settings)
    maturity, known_card_days = contract.labels.maturity_days, policy.training.known_card_days
    first, last = matured_days(day, maturity, policy.performance.window_days)
    labels_from = first - timedelta(days=known_card_days + 1)
    labels = lake.read(LABELS, first=labels_from, last=day).to_pandas()
    end = pd.Timestamp(midnight(day + timedelta(days=1)))
    frauds = known_frauds(lake, labels, labels_from - timedelta(days=maturity), end)
    truth = latest_word(labels, end)
    frames = []
    for each in days_between(first, last):
        rows = labelled(live_rows(lake, version, each), truth)
        rows = rows[~of_known_cards(rows, frauds, known_card_days)]
        frames.append(rows.drop(columns=["transaction_id", "customer_id"]))
    return pd.concat([each for each in frames if len(each)] or frames[:1], ignore_index=True)


def answered_since(lake: Lake, version: str, after: date, day: date) -> bool:
    """Whether a version has answered as champion on a later day than `after`."""
    later = days_between(after + timedelta(days=1), day)
    return any(version in _answering(lake, each) for each in reversed(list(later)))


def served_before(lake: Lake, version: str, first: date, last: date) -> str:
    """The other version that gave most answers of the newest day with any; "" where there is none."""
    for day in reversed(list(days_between(first, last))):
        others = [each for each in _answering(lake, day).most_common() if each[0] != version]
        if others:
            return others[0][0]
    return ""


def _answering(lake: Lake, day: date) -> Counter[str]:
    """Answers of a day for each version that was champion."""
    found: Counter[str] = Counter()
    for batch in lake.scan(PREDICTIONS, first=day, last=day, columns=["model_version", "variant"]):
        versions = batch.filter(_of_champions(batch))["model_version"]
        for each in pc.value_counts(versions).to_pylist():
            if each["values"]:
                found[each["values"]] += each["counts"]
    return found


def _of_champions(batch: pa.RecordBatch) -> pa.Array:
    return pc.is_in(batch["variant"], pa.array(VARIANTS))
