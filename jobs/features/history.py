"""Point-in-time features of past events: Feast's definitions, joined by Spark.

In: events with transaction_id, event_time (UTC), customer_id, terminal_id, amount_minor and whatever else.
Out: the same rows in the same order with the columns of MODEL_FEATURES. A row of features serves an
event when it was published before it and is within its ttl; where none does, the features are NaN and the
missing flag is 1.
Which tables, keys, times and ttl count is what Feast's views say; Feast's own offline stores drop, double or
shuffle rows (docs/features.md), so they do not make the join.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, timedelta

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from feast import FeatureView
from pyspark.sql import DataFrame, SparkSession

from jobs.conf.settings import Settings
from jobs.core import SluiceError
from jobs.features.as_of import as_of_join
from jobs.features.built_tables import not_built
from jobs.features.declarations import MODEL_FEATURES
from jobs.features.definitions import feature_views, publication
from jobs.features.request import assemble_frame
from jobs.features.spark_tables import read_table
from jobs.features.tables import BUILT_TABLES
from jobs.lake.at import unreadable
from jobs.lake.store import Lake, lake_of
from jobs.lake.tables import TIMESTAMP, Table
from jobs.spark import spark_session

CHUNK = 250_000  # events that come back at once: bounds the memory of the Spark server and of the job
NEEDED = ("transaction_id", "event_time", "customer_id", "terminal_id", "amount_minor")
KEYS = ("transaction_id", "customer_id", "terminal_id")
TABLES = {table.name: table for table in BUILT_TABLES}


def historical_features(
    events: pd.DataFrame, settings: Settings, versions: Mapping[str, int] | None = None
) -> pd.DataFrame:
    """The events with their model inputs as they could have been known at each event.

    The feature tables are read at the named versions, at their newest where none are given.

    Raises:
        SluiceError: a needed column is missing, or the feature tables do not exist.
    """
    missing = [name for name in NEEDED if name not in events.columns]
    if missing:
        raise SluiceError(f"historical features: the events have no column {missing[0]}")
    joined = _joined(events, settings, versions)
    inputs = events[["event_time", "amount_minor"]].reset_index(drop=True)
    features = assemble_frame(pd.concat([inputs, joined], axis=1)).set_index(events.index)
    kept = events.drop(columns=[name for name in MODEL_FEATURES if name in events.columns])
    return pd.concat([kept, features], axis=1)


def point_in_time(
    session: SparkSession,
    events: DataFrame,
    lake: Lake,
    versions: Mapping[str, int],
    days: tuple[date, date],
    settings: Settings,
) -> DataFrame:
    """Spark events with an array of each view's features, in its name; `days` are the events' first and last.

    Raises:
        SluiceError: a feature table does not exist.
    """
    for view in feature_views(settings):
        table = TABLES[view.batch_source.name]
        version = _readable(lake, table, versions.get(table.name, -1))
        # a row is known at the end of its day at the latest
        first = days[0] - view.ttl - timedelta(days=1)
        events = _with_view(events, read_table(session, lake, table, version, first, days[1]), view)
    return events


def _readable(lake: Lake, table: Table, version: int) -> int:
    """The version, which is there: Spark's own word for a missing one fills a page."""
    if version < 0:
        raise not_built(table.name, lake.path(table))
    try:
        stored = {field.name for field in lake.delta(table, version).schema().fields}
    except SluiceError as error:
        raise unreadable(table.name, version, error) from None
    missing = [name for name in table.schema.names if name not in stored]
    if missing:
        raise SluiceError(
            f"the table {table.name} has no column {missing[0]} yet, it was built when features were "
            "declared otherwise; run `sluice build_features --day FIRST --last LAST` over the days needed"
        )
    return version


def _with_view(events: DataFrame, rows: DataFrame, view: FeatureView) -> DataFrame:
    (key,) = view.join_keys
    return as_of_join(
        events,
        rows,
        key=key,
        moment="event_time",
        as_of=view.batch_source.timestamp_field,
        values=[field.name for field in view.features],
        published_after=publication(view),
        ttl=view.ttl,
        into=view.name,
    )


def _joined(events: pd.DataFrame, settings: Settings, versions: Mapping[str, int] | None) -> pd.DataFrame:
    """One row of the stored features per event, in the events' order."""
    names = [field.name for view in feature_views(settings) for field in view.features]
    found = np.empty((len(events), len(names)))
    lake = lake_of(settings)
    versions = versions or {table.name: lake.version(table) for table in BUILT_TABLES}
    # in order of time, so that each part touches few partitions
    moments = pd.to_datetime(events["event_time"], utc=True).dt.as_unit("us").astype("int64")
    order = np.argsort(moments.to_numpy(), kind="stable")
    for start in range(0, len(events), CHUNK):
        places = order[start : start + CHUNK]
        found[places] = _joined_part(events.iloc[places], lake, versions, settings)
    return pd.DataFrame(found, columns=names)


def _joined_part(
    events: pd.DataFrame, lake: Lake, versions: Mapping[str, int], settings: Settings
) -> np.ndarray:
    moments = pd.to_datetime(events["event_time"], utc=True).dt.as_unit("us")
    columns = {"place": np.arange(len(events)), "event_time": pa.array(moments, TIMESTAMP)}
    columns |= {key: events[key].to_numpy(dtype=np.int64) for key in KEYS}
    session = spark_session(settings)
    answer = point_in_time(
        session,
        session.createDataFrame(pa.table(columns)),
        lake,
        versions,
        (moments.min().date(), moments.max().date()),
        settings,
    )
    views = feature_views(settings)
    found = answer.select("place", *(view.name for view in views)).toArrow()
    place = found["place"].to_numpy()
    order = np.argsort(place)
    if not np.array_equal(place[order], columns["place"]):
        raise SluiceError(
            f"historical features: {len(events)} events went in, {found.num_rows} rows came back"
        )
    return np.hstack([_values(found[view.name], len(view.features))[order] for view in views])


def _values(arrays: pa.ChunkedArray, width: int) -> np.ndarray:
    """Float64 [arrays, width], NaN where there is no value or no array."""
    values = np.full((len(arrays), width), np.nan)
    there = arrays.is_valid().to_numpy()
    values[there] = pc.list_flatten(arrays).to_numpy().reshape(-1, width)
    return values
