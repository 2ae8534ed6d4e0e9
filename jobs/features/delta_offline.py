"""Feast's DuckDB offline store over Delta tables that are read by delta-rs.

Feast reads Delta through an extension that DuckDB fetches from the network at run time. Here the installed
delta-rs reads the table, and only the partitions that the asked-for time can touch.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import Any

import ibis  # type: ignore[import-untyped]
import pandas as pd
from feast.data_source import DataSource
from feast.feature_view import FeatureView
from feast.infra.offline_stores.duckdb import DuckDBOfflineStore, DuckDBOfflineStoreConfig
from feast.infra.offline_stores.ibis import (
    get_historical_features_ibis,
    pull_all_from_table_or_query_ibis,
    pull_latest_from_table_or_query_ibis,
)
from feast.infra.offline_stores.offline_store import RetrievalJob
from feast.infra.registry.base_registry import BaseRegistry
from feast.repo_config import RepoConfig

from jobs.core import SluiceError
from jobs.features.built_tables import open_source
from jobs.features.tables import BUILT_TABLES
from jobs.lake.storage import explained
from jobs.lake.store import scanner

TABLES = {table.name: table for table in BUILT_TABLES}


class DeltaDuckDBOfflineStoreConfig(DuckDBOfflineStoreConfig):  # type: ignore[misc]
    """Configuration of the store: versions of tables that are not read at their newest."""

    type: str = "jobs.features.delta_offline.DeltaDuckDBOfflineStore"
    versions: dict[str, int] = {}


class DeltaDuckDBOfflineStore(DuckDBOfflineStore):  # type: ignore[misc]
    """Point-in-time joins in DuckDB, tables read by delta-rs."""

    @staticmethod
    def get_historical_features(
        config: RepoConfig,
        feature_views: list[FeatureView],
        feature_refs: list[str],
        entity_df: pd.DataFrame | str,
        registry: BaseRegistry,
        project: str,
        full_feature_names: bool = False,
        **options: Any,
    ) -> RetrievalJob:
        if isinstance(entity_df, str):
            raise SluiceError("historical features are asked for with a frame of events, not by SQL")
        moments = entity_df["event_timestamp"]
        longest = max((view.ttl or timedelta(0) for view in feature_views), default=timedelta(0))
        return get_historical_features_ibis(
            config=config,
            feature_views=feature_views,
            feature_refs=feature_refs,
            entity_df=entity_df,
            registry=registry,
            project=project,
            full_feature_names=full_feature_names,
            data_source_reader=_reader(config, moments.min() - longest, moments.max()),
            data_source_writer=_no_writer,
            **options,
        )

    @staticmethod
    def pull_latest_from_table_or_query(
        config: RepoConfig,
        data_source: DataSource,
        join_key_columns: list[str],
        feature_name_columns: list[str],
        timestamp_field: str,
        created_timestamp_column: str | None,
        start_date: datetime,
        end_date: datetime,
    ) -> RetrievalJob:
        return pull_latest_from_table_or_query_ibis(
            config=config,
            data_source=data_source,
            join_key_columns=join_key_columns,
            feature_name_columns=feature_name_columns,
            timestamp_field=timestamp_field,
            created_timestamp_column=created_timestamp_column,
            start_date=start_date,
            end_date=end_date,
            data_source_reader=_reader(config, start_date, end_date),
            data_source_writer=_no_writer,
        )

    @staticmethod
    def pull_all_from_table_or_query(
        config: RepoConfig,
        data_source: DataSource,
        join_key_columns: list[str],
        feature_name_columns: list[str],
        timestamp_field: str,
        created_timestamp_column: str | None = None,
        start_date: datetime | None = None,
        end_date: datetime | None = None,
    ) -> RetrievalJob:
        if start_date is None or end_date is None:
            raise SluiceError("features are pulled for an explicit interval")
        return pull_all_from_table_or_query_ibis(
            config=config,
            data_source=data_source,
            join_key_columns=join_key_columns,
            feature_name_columns=feature_name_columns,
            timestamp_field=timestamp_field,
            created_timestamp_column=created_timestamp_column,
            start_date=start_date,
            end_date=end_date,
            data_source_reader=_reader(config, start_date, end_date),
            data_source_writer=_no_writer,
        )


def _reader(config: RepoConfig, start: datetime, end: datetime) -> Callable[[DataSource, str], ibis.Table]:
    """Reads the partitions whose as_of may lie in [start, end]; a day's as_of is the midnight after it."""
    first, last = _utc_day(start) - timedelta(days=1), _utc_day(end)

    def read(source: DataSource, _repository: str) -> ibis.Table:
        declared, table = TABLES[source.name], open_source(config, source)
        with explained(f"table {source.name}", source.path):
            rows = scanner(table, declared, first, last, declared.schema.names).to_table()
        # DuckDB casts a zoned time in the session's zone, which is the machine's unless told.
        backend = ibis.get_backend()
        backend.raw_sql("SET TimeZone = 'UTC'")
        return ibis.memtable(rows)

    return read


def _utc_day(moment: datetime) -> date:
    zoned = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return zoned.astimezone(UTC).date()


def _no_writer(*_arguments: object) -> None:
    raise SluiceError("feature tables are written by build_features alone")
