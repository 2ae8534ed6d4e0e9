"""Which labels count: matured days, the label of an instant, and whether every chargeback file has come.

In: labels (transaction_id, available_at, is_fraud), the ledgers of landed and merged files.
Out: frames, days. A day without chargebacks has no rows in `labels`: only `merged_labels` tells it from a
day that is missing.
A model is judged without the rows of cards that were known to be compromised: such a card is blocked or being
replaced, and to find its next fraud is no merit. So does the Fraud Detection Handbook (Le Borgne, Siblini,
Lebichot and Bontempi, 2022, chapter 5) with frauds since the start of its one week of training.
"""

from __future__ import annotations

from datetime import date, timedelta

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from jobs.conf.contract import LabelFeed
from jobs.lake.store import Lake
from jobs.lake.tables import LANDED_FILES, MERGED_LABELS

NAMED_DAYS = 5  # more than this are counted


def matured_days(day: date, maturity_days: int, window_days: int) -> tuple[date, date]:
    """First and last day of the window of matured days as of the end of `day`, both included."""
    last = day - timedelta(days=maturity_days)
    return last - timedelta(days=window_days - 1), last


def latest_labels(labels: pd.DataFrame, as_of: pd.Timestamp) -> pd.DataFrame:
    """One row per transaction: the latest word that was available before `as_of`.

    Two rows of one instant contradict each other: the fraud counts, a correction comes with a later time.
    """
    known = labels[pd.to_datetime(labels["available_at"], utc=True) < as_of]
    ordered = known.sort_values(["available_at", "is_fraud"])
    return ordered.drop_duplicates("transaction_id", keep="last")


def first_word_of_fraud(labels: pd.DataFrame, as_of: pd.Timestamp) -> pd.Series:
    """By transaction, when it first became known as a fraud, of those that are one as of an instant."""
    latest = latest_labels(labels, as_of)
    frauds = labels[
        (labels["is_fraud"] == 1)
        & labels["transaction_id"].isin(latest.loc[latest["is_fraud"] == 1, "transaction_id"])
    ]
    return frauds.groupby("transaction_id")["available_at"].min().rename("known_at")


def missing_label_days(lake: Lake, first: date, day: date, feed: LabelFeed) -> list[date]:
    """Days whose chargebacks are needed for transactions from `first` on, and are not merged.

    Needed is each day until the last matured transactions' chargebacks are due; from `first` on if the feed
    had begun by then, else from when the first chargebacks are due. A file that was landed again counts
    once that version is merged.
    """
    landed = _digests(lake.read(LANDED_FILES, last=day, columns=["day", "feed", "sequence", "digest"]))
    merged = _digests(lake.read(MERGED_LABELS, last=day))
    due = first + timedelta(days=feed.delay_days)
    begin = max(first, min([due, *landed]))
    end = day - timedelta(days=feed.maturity_days - feed.delay_days)
    needed = [begin + timedelta(days=offset) for offset in range((end - begin).days + 1)]
    return [each for each in needed if each not in landed or landed[each] != merged.get(each)]


def named_days(days: list[date]) -> str:
    """The days in words."""
    named = ", ".join(map(str, days[:NAMED_DAYS]))
    return named if len(days) <= NAMED_DAYS else f"{named} and {len(days) - NAMED_DAYS} more days"


def of_known_cards(rows: pd.DataFrame, frauds: pd.DataFrame, days: int) -> pd.Series:
    """Whether a fraud of the row's card became known in the `days` before the row's day.

    Args:
        rows: customer_id, day.
        frauds: customer_id, known_at (UTC), of every fraud that may count.
    """
    known = frauds[["customer_id", "known_at"]].dropna().sort_values("known_at")
    asked = pd.DataFrame({"customer_id": rows["customer_id"], "known_at": _instants(rows["day"])})
    known["known_at"] = _instants(known["known_at"])
    asked["place"] = range(len(asked))
    found = pd.merge_asof(
        asked.sort_values("known_at"),
        known.assign(found=True),
        on="known_at",
        by="customer_id",
        tolerance=pd.Timedelta(days=days),
    )
    return pd.Series(found.sort_values("place")["found"].notna().to_numpy(), index=rows.index)


def _instants(days: pd.Series) -> pd.Series:
    """Dates or instants as instants of one kind, which a join needs."""
    # a cache saves most of the work on dates, which are objects, and of instants makes objects first
    return pd.to_datetime(days, utc=True, cache=days.dtype == object).astype("datetime64[us, UTC]")


def _digests(rows: pa.Table) -> dict[date, str]:
    """Digest of the newest chargeback file of each day."""
    if "feed" in rows.column_names:
        rows = rows.filter(pc.equal(rows["feed"], "labels")).sort_by("sequence")
    return dict(zip(rows["day"].to_pylist(), rows["digest"].to_pylist(), strict=True))
