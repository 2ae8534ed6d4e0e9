"""Answers whose labels have matured: what a version said, and what became of it.

In: prediction log, labels, transactions. Out: rows of one version with score, is_fraud, amount, day and the
features by which slices choose. The log is read and labelled a day at a time, and of a row only that is kept:
some 70 bytes, where the features alone would be 700.
Rows of cards that were known to be compromised count as little as among the reference rows.
Errors: none for missing data: no rows.
"""

from __future__ import annotations

from collections import Counter, defaultdict
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


class Matured:
    """The matured days as of a day: who answered on them, and what became of the payments.

    Labels and who answered are read once, whichever versions are asked for, and features only of the days on
    which such a version answered.
    """

    def __init__(self, settings: Settings, day: date) -> None:
        policy, maturity = policy_of(settings), contract_of(settings).labels.maturity_days
        self._lake, self._known_card_days = lake_of(settings), policy.training.known_card_days
        self.first, self.last = matured_days(day, maturity, policy.performance.window_days)
        labels_from = self.first - timedelta(days=self._known_card_days + 1)
        labels = self._lake.read(LABELS, first=labels_from, last=day).to_pandas()
        end = pd.Timestamp(midnight(day + timedelta(days=1)))
        self._frauds = known_frauds(self._lake, labels, labels_from - timedelta(days=maturity), end)
        self._truth = latest_word(labels, end)
        self._day, self._answers = day, answers_by_day(self._lake, self.first, self.last)

    def rows(self, version: str) -> pd.DataFrame:
        """The version's answers of these days, with their labels."""
        days = [day for day in days_between(self.first, self.last) if version in self._answers.get(day, {})]
        frames = []
        for day in days or [self.last]:
            rows = labelled(live_rows(self._lake, version, day), self._truth)
            rows = rows[~of_known_cards(rows, self._frauds, self._known_card_days)]
            frames.append(rows.drop(columns=["transaction_id", "customer_id"]))
        return pd.concat([each for each in frames if len(each)] or frames[:1], ignore_index=True)

    def answers_later(self, version: str) -> bool:
        """Whether a version has answered as champion on a day that has not matured."""
        later = reversed(days_between(self.last + timedelta(days=1), self._day))
        return any(version in answers_by_day(self._lake, day, day).get(day, {}) for day in later)

    def served_before(self, version: str) -> str:
        """The other version with most answers on the newest matured day that has any; "" for none."""
        for _, answers in sorted(self._answers.items(), reverse=True):
            others = [(-rows, other) for other, rows in answers.items() if other != version]
            if others:
                return min(others)[1]
        return ""


def answers_by_day(lake: Lake, first: date, last: date) -> dict[date, Counter[str]]:
    """Answers of each day that has any, for each version that was champion then."""
    found: defaultdict[date, Counter[str]] = defaultdict(Counter)
    columns = ["day", "model_version", "variant"]
    for batch in lake.scan(PREDICTIONS, first=first, last=last, columns=columns):
        answers = pa.Table.from_batches([batch.filter(_of_champions(batch))]).drop_null()
        counted = answers.group_by(["day", "model_version"]).aggregate([([], "count_all")])
        for each in counted.to_pylist():
            if each["model_version"]:
                found[each["day"]][each["model_version"]] += each["count_all"]
    return found


def _of_champions(batch: pa.RecordBatch) -> pa.Array:
    return pc.is_in(batch["variant"], pa.array(VARIANTS))
