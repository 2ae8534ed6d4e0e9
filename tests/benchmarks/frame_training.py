"""The call with which a training joins events to stored features, beside Feast's own on the same tables.

Made-up rows: every entity has one a day, every event its own velocity features, so that nothing ties. Ours
goes through Spark, Feast's through its DuckDB store with our reader of Delta.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import write_deltalake

from jobs.conf.settings import Settings, load_settings
from jobs.core import midnight
from jobs.features.declarations import STORED_FEATURES, VELOCITY_FEATURES
from jobs.features.tables import BUILT_TABLES, FEATURE_TABLES, TRANSACTION_VELOCITY
from jobs.lake.store import conform, lake_of
from jobs.lake.tables import Table
from tests.benchmarks.features_process import answer, timed

JOINED = (*STORED_FEATURES, *VELOCITY_FEATURES)
FIRST = date(2026, 1, 1)
DAY = 86_400_000_000  # microseconds
FEW = 500  # events that a Spark server is warmed with


@dataclass(frozen=True)
class History:
    """How much there is of everything."""

    days: int = 20
    events: int = 200_000
    customers: int = 5_000
    terminals: int = 10_000


def write_history(home: Path, history: History) -> None:
    """The three feature tables of some days, and `events.parquet`."""
    home.mkdir(parents=True)
    random, settings = np.random.default_rng(11), settings_of(home)
    start, numbers = _microseconds(FIRST), np.sort(random.integers(0, history.days, history.events))
    # by then a day's rows are published, however that is reckoned
    moments = start + numbers * DAY + random.integers(DAY // 4, DAY, history.events)
    keys = np.arange(history.events)
    events = pd.DataFrame(
        {
            "transaction_id": keys,
            "event_time": pd.to_datetime(moments, unit="us", utc=True),
            "customer_id": random.integers(1, history.customers + 1, history.events),
            "terminal_id": random.integers(1, history.terminals + 1, history.events),
            "amount_minor": random.integers(50, 1_500_000, history.events),
        }
    )
    events.to_parquet(home / "events.parquet")
    _append(settings, TRANSACTION_VELOCITY, numbers, keys, moments - 1, random)
    for entity, count in (("customer", history.customers), ("terminal", history.terminals)):
        each = np.repeat(np.arange(-1, history.days), count)
        as_of = (each + 1) * DAY + start
        ids = np.tile(np.arange(1, count + 1), history.days + 1)
        _append(settings, FEATURE_TABLES[entity], each, ids, as_of, random)  # type: ignore[index]


def _append(
    settings: Settings, table: Table, days: np.ndarray, keys: np.ndarray, as_of: np.ndarray, random: Any
) -> None:
    """Rows of the days with these numbers, the features made up."""
    dates = np.datetime64(FIRST) + days.astype("timedelta64[D]")
    columns: dict[str, Any] = {
        "day": pa.array(dates),
        table.key[0]: keys,
        "as_of": pa.array(as_of, pa.int64()).cast(pa.timestamp("us", "UTC")),
    }
    for name in table.schema.names[len(columns) :]:
        columns[name] = random.random(len(keys))
    write_deltalake(lake_of(settings).made(table), conform(table, pa.table(columns)), mode="append")


def settings_of(home: Path, remote: str = "") -> Settings:
    spark = {"SLUICE_SPARK_REMOTE": remote} if remote else {}
    return load_settings({"SLUICE_HOME": str(home), **spark})


def ours(scratch: Path, target: Path, remote: str) -> dict[str, Any]:
    """The job's own call, in a Spark server that has answered a small question before."""
    from jobs.features.history import historical_features

    settings, events = settings_of(scratch, remote), pd.read_parquet(scratch / "events.parquet")
    versions = {table.name: lake_of(settings).version(table) for table in BUILT_TABLES}
    historical_features(events.head(FEW), settings, versions)
    found: list[pd.DataFrame] = []
    figures = timed(lambda: found.append(historical_features(events, settings, versions)))
    return _kept(found[0], target, figures)


def by_feast(scratch: Path, target: Path, remote: str) -> dict[str, Any]:
    """Feast's call with the feature service, in this process: it takes no Spark server."""
    from jobs.features.definitions import SERVICE, TICK
    from jobs.features.store import feature_store

    assert not remote
    store, events = feature_store(settings_of(scratch)), pd.read_parquet(scratch / "events.parquet")
    service = store.get_feature_service(SERVICE)

    def ask(asked: pd.DataFrame) -> pd.DataFrame:
        entities = asked[["transaction_id", "customer_id", "terminal_id"]].assign(
            event_timestamp=asked["event_time"].dt.as_unit("us") - TICK
        )
        answered: pd.DataFrame = store.get_historical_features(entity_df=entities, features=service).to_df()
        return answered

    ask(events.head(FEW))
    found: list[pd.DataFrame] = []
    figures = timed(lambda: found.append(ask(events)))
    return _kept(found[0], target, figures)


def _kept(found: pd.DataFrame, target: Path, figures: dict[str, Any]) -> dict[str, Any]:
    """Write what was found, for the comparison; after the clock and the memory were read."""
    target.mkdir(parents=True)
    rows = pa.Table.from_pandas(found[["transaction_id", *JOINED]], preserve_index=False)
    pq.write_table(rows, target / "all.parquet")
    return figures


def _microseconds(day: date) -> int:
    return int(midnight(day).timestamp()) * 1_000_000


if __name__ == "__main__":
    answer({"ours": ours, "feast": by_feast})
