"""A simulated day as the contract's source would send it: its names, its order, its units.

In: frames with the standard names. Out: the bytes of CSV files.
Errors: SluiceError where the contract describes a source that is not of this shape.
"""

from __future__ import annotations

from datetime import date, timedelta

import numpy as np
import pandas as pd

from jobs.conf.contract import AVAILABLE_AT, STANDARD_COLUMNS, Contract, TransactionFeed
from jobs.core import SluiceError, midnight

LABEL_COLUMNS = ("transaction_id", "reported_at", "is_fraud")


def check_shape(contract: Contract) -> None:
    """Whether the simulator can stand in for this source.

    Raises:
        SluiceError: its files are no CSV, or it has no chargeback feed.
    """
    if contract.transactions.format != "csv" or contract.labels.format != "csv":
        raise SluiceError(f"simulate_source: contract {contract.name} says parquet; only CSV is simulated")
    if contract.labels.origin != "feed":
        raise SluiceError(f"simulate_source: contract {contract.name} has no chargeback feed to simulate")


def transactions_text(transactions: pd.DataFrame, day: date, feed: TransactionFeed) -> pd.DataFrame:
    """The file's values as text, under the standard names; optional columns are left out.

    What the contract calls available is so when the day's file is: at the midnight that ends the day.
    """
    columns: dict[str, object] = {}
    for name in STANDARD_COLUMNS:
        kind, values = feed.columns[name].type, transactions[name]
        columns[name] = _money(values) if kind == "money" else _iso(values) if kind == "timestamp" else values
    if AVAILABLE_AT in feed.columns:
        delivered = pd.Series([pd.Timestamp(midnight(day + timedelta(days=1)))] * len(transactions))
        columns[AVAILABLE_AT] = _iso(delivered)
    return pd.DataFrame(columns).astype(str)


def transactions_bytes(text: pd.DataFrame, feed: TransactionFeed) -> bytes:
    """The file, with the source's names."""
    return _csv(text, {name: feed.columns[name].source for name in text.columns})


def labels_bytes(labels: pd.DataFrame, contract: Contract) -> bytes:
    """The chargeback file; a header alone where nothing was reported."""
    feed = contract.labels
    source = {
        "transaction_id": feed.transaction_id, "reported_at": feed.reported_at, "is_fraud": feed.is_fraud,
    }  # fmt: skip
    names = {name: source[name] for name in LABEL_COLUMNS if source[name]}
    text = labels.assign(reported_at=_iso(labels["reported_at"])) if len(labels) else labels
    return _csv(text[list(names)], names)


def _csv(text: pd.DataFrame, names: dict[str, str]) -> bytes:
    data: bytes = text.rename(columns=names).to_csv(index=False, lineterminator="\n").encode()
    return data


def _money(minor: pd.Series[int]) -> list[str]:
    """Minor units written in the currency's unit."""
    units, cents = np.divmod(minor.to_numpy(), 100)
    return [f"{unit}.{cent:02d}" for unit, cent in zip(units, cents, strict=True)]


def _iso(instants: pd.Series[pd.Timestamp]) -> list[str]:
    """UTC instants as text to the second."""
    seconds = instants.dt.tz_convert(None).to_numpy().astype("datetime64[s]")
    return [f"{text}Z" for text in np.datetime_as_string(seconds)]
