"""What ingesting is measured on: files of a day, and published days before it."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from jobs.conf.settings import Settings, load_settings
from jobs.lake.store import lake_of
from jobs.lake.tables import TRANSACTIONS

DAY = date(2026, 3, 2)
REFERENCE_ROWS = 10_000  # a day of history


def write_day(path: Path, rows: int) -> None:
    """A day's file: half a percent of the rows broken, some copies; written a million rows at a time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    step = min(rows, 1_000_000)
    for begin in range(0, rows, step):
        frame = day_rows(begin, step)
        frame.to_csv(path, mode="a", header=begin == 0, index=False, lineterminator="\n")


def day_rows(begin: int, count: int) -> pd.DataFrame:
    random = np.random.default_rng([7, begin])
    number = np.arange(begin, begin + count)
    seconds = np.sort(random.integers(0, 86_400, count)).astype("timedelta64[s]")
    moments = np.datetime_as_string(np.datetime64(f"{DAY}T00:00:00") + seconds)
    cents = np.clip(random.lognormal(8.0, 0.8, count), 50, 1_500_000).astype(np.int64)
    amounts = np.char.add(
        np.char.add((cents // 100).astype(str), "."), np.char.zfill((cents % 100).astype(str), 2)
    )
    frame = pd.DataFrame(
        {
            "transaction_id": (number + 10**12).astype(str),
            "event_time": np.char.add(moments, "Z"),
            "customer_id": random.integers(1, 100_000, count).astype(str),
            "terminal_id": random.integers(1, 10_000, count).astype(str),
            "amount": amounts,
        }
    )
    broken = random.choice(np.arange(count // 2, count), count // 200, replace=False)
    worded, negative, absent, outside = np.array_split(broken, 4)
    frame.loc[worded, "amount"] = "twelve"
    frame.loc[negative, "amount"] = "-" + frame.loc[negative, "amount"]
    frame.loc[absent, "customer_id"] = ""
    frame.loc[outside, "event_time"] = f"{DAY - timedelta(days=9)}T10:00:00Z"
    copies = min(100, count // 500)
    frame.loc[count - copies :, "transaction_id"] = frame.loc[: copies - 1, "transaction_id"].to_numpy()
    return frame


def write_history(settings: Settings, days: int, rows: int = REFERENCE_ROWS) -> None:
    """Published days before the day, one commit each as in life."""
    lake, random = lake_of(settings), np.random.default_rng(5)
    for age in range(days, 0, -1):
        day = DAY - timedelta(days=age)
        midnight = datetime(day.year, day.month, day.day, tzinfo=UTC)
        seconds = np.sort(random.integers(0, 86_400, rows))
        moments = pa.array(seconds * 1_000_000 + int(midnight.timestamp() * 1e6), pa.timestamp("us", "UTC"))
        table = pa.table(
            {
                "day": pa.array([day] * rows, pa.date32()),
                "transaction_id": np.arange(rows) + 10**7 * day.toordinal(),
                "event_time": moments,
                "customer_id": random.integers(1, 100_000, rows),
                "terminal_id": random.integers(1, 10_000, rows),
                "amount_minor": np.clip(random.lognormal(8.0, 0.8, rows), 50, 1_500_000).astype(np.int64),
                "available_at": pa.array([midnight + timedelta(days=1)] * rows, pa.timestamp("us", "UTC")),
                "file_day": pa.array([day] * rows, pa.date32()),
            }
        )
        lake.replace(TRANSACTIONS, table, day)


def settings_in(home: Path, source: Path | None = None) -> Settings:
    return load_settings(
        {"SLUICE_HOME": str(home), "SLUICE_SOURCE_URI": str(source or home / "source"),
         "SLUICE_LABELS_URI": str(home / "labels")}
    )  # fmt: skip
