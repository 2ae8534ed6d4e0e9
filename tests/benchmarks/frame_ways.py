"""A point-in-time frame, four ways: ours on Spark, and Feast's own join in its duckdb, file and spark stores.

In: `events.parquet` and `features.parquet`. Out: Parquet with event_id and the values of each event.
Feast joins on "not younger" where a row has to be older: it is asked for the moment a microsecond before.
"""

from __future__ import annotations

import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType
from feast.data_source import DataSource
from feast.infra.offline_stores.contrib.spark_offline_store.spark_source import SparkSource
from feast.types import Float64, Int64

from jobs.conf.settings import load_settings
from jobs.spark import spark_session
from tests.benchmarks.features_process import CORES, answer, peak_mb, timed
from tests.benchmarks.frame_data import AS_OF, KEY, MOMENT, TTL, VALUES

VIEW = "history"


def ours(source: Path, target: Path, warm: Path, remote: str) -> dict[str, Any]:
    """Our own join in a Spark server that has answered a small question before."""
    from pyspark.sql import functions as F  # noqa: N812 - the name every Spark reader knows

    from jobs.features.as_of import as_of_join

    session = spark_session(load_settings({"SLUICE_HOME": str(target.parent), "SLUICE_SPARK_REMOTE": remote}))

    def work(place: Path) -> None:
        events = session.read.parquet(str(place / "events.parquet"))
        features = session.read.parquet(str(place / "features.parquet"))
        joined = as_of_join(
            events,
            features,
            key=KEY,
            moment=MOMENT,
            as_of=AS_OF,
            values=VALUES,
            published_after=timedelta(0),
            ttl=TTL,
            into="found",
        )
        found = joined.select("*", *(F.col("found")[place].alias(name) for place, name in enumerate(VALUES)))
        found.drop("found").write.parquet(str(target), mode="overwrite")

    work(warm)
    return timed(lambda: work(source))


def by_duckdb(source: Path, target: Path, scratch: Path) -> dict[str, Any]:
    """Feast's duckdb store."""
    return _by_pandas_frame(source, target, scratch, "duckdb")


def by_file(source: Path, target: Path, scratch: Path) -> dict[str, Any]:
    """Feast's file store, which is dask."""
    return _by_pandas_frame(source, target, scratch, "file")


def _by_pandas_frame(source: Path, target: Path, scratch: Path, kind: str) -> dict[str, Any]:
    features = FileSource(name=VIEW, path=str(source / "features.parquet"), timestamp_field=AS_OF)
    store = _store({"type": kind}, features, scratch)
    target.mkdir(parents=True)

    def work() -> None:
        events = pd.read_parquet(source / "events.parquet")
        events["event_timestamp"] = events.pop(MOMENT).dt.as_unit("us") - pd.Timedelta(microseconds=1)
        found: pa.Table = _ask(store, events).to_arrow()
        pq.write_table(found, target / "all.parquet")

    return timed(work)


def by_spark(source: Path, target: Path, warm: Path, scratch: Path) -> dict[str, Any]:
    """Feast's spark store, in a session of this process that has answered a small question before."""
    from pyspark.sql import SparkSession

    builder = SparkSession.builder.master(f"local[{CORES}]").config("spark.sql.session.timeZone", "UTC")
    options = {
        "spark.sql.shuffle.partitions": "4", "spark.ui.enabled": "false", "spark.driver.memory": "4g",
        "spark.driver.host": "127.0.0.1", "spark.driver.bindAddress": "127.0.0.1",
        "spark.sql.warehouse.dir": str(scratch / "warehouse"), "spark.local.dir": str(scratch),
    }  # fmt: skip
    for name, value in options.items():
        builder = builder.config(name, value)
    start = time.perf_counter()
    session = builder.getOrCreate()
    session.range(1).count()
    started = time.perf_counter() - start
    server: int = session.sparkContext._gateway.proc.pid  # spark-submit has become the Java process

    def work(place: Path) -> None:
        features = SparkSource(
            name=VIEW, path=str(place / "features.parquet"), file_format="parquet", timestamp_field=AS_OF
        )
        store = _store({"type": "spark"}, features, scratch)
        events = (
            f"SELECT event_id, {KEY}, {MOMENT} - INTERVAL 1 MICROSECOND AS event_timestamp "
            f"FROM parquet.`{place / 'events.parquet'}`"
        )
        _ask(store, events).to_spark_df().write.parquet(str(target), mode="overwrite")

    work(warm)
    found = timed(lambda: work(source), start_seconds=started)
    return {**found, "peak_mb": found["peak_mb"] + peak_mb(server)}


def _store(offline: dict[str, str], source: DataSource, scratch: Path) -> FeatureStore:
    customer = Entity(name="customer", join_keys=[KEY], value_type=ValueType.INT64)
    fields = [Field(name=KEY, dtype=Int64), *(Field(name=name, dtype=Float64) for name in VALUES)]
    view = FeatureView(name=VIEW, entities=[customer], ttl=TTL, schema=fields, source=source, online=False)
    scratch.mkdir(parents=True, exist_ok=True)
    config = RepoConfig(
        project="bench",
        provider="local",
        registry=str(scratch / "registry.db"),
        offline_store=offline,
        online_store={"type": "sqlite", "path": str(scratch / "online.db")},
        entity_key_serialization_version=3,
        repo_path=scratch,
    )
    store = FeatureStore(config=config)
    store.apply([customer, view])
    return store


def _ask(store: FeatureStore, events: pd.DataFrame | str) -> Any:
    return store.get_historical_features(
        entity_df=events, features=[f"{VIEW}:{name}" for name in VALUES]
    )  # fmt: skip


if __name__ == "__main__":
    answer({"ours": ours, "duckdb": by_duckdb, "file": by_file, "spark": by_spark})
