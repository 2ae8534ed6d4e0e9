"""Feast's compute engine of this project: a view's rows of an interval, from its Delta table into the store.

In: a view whose source is a Delta table with a partition per day; an interval that includes both ends. Out:
the rows in the online store, where the newest of an entity wins. They are streamed, the oldest day first, a
batch at a time: memory does not grow with the day. With `spark_remote` set, Spark's executors write them
instead (Redis alone) and the driver gets their number.
Errors: SluiceError where the table cannot be read or the store cannot be written.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, date, datetime, time, timedelta
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import DeltaTable
from feast.feature_view import FeatureView
from feast.infra.common.materialization_job import MaterializationJobStatus, MaterializationTask
from feast.infra.compute_engines.base import ComputeEngine
from feast.infra.compute_engines.local.job import LocalMaterializationJob
from feast.infra.registry.base_registry import BaseRegistry
from feast.repo_config import FeastConfigBaseModel, RepoConfig

from jobs.conf.settings import Settings
from jobs.core import SluiceError
from jobs.features import redis_rows
from jobs.features.built_tables import open_source
from jobs.features.packed import TIME, Layout, layout_of
from jobs.features.packed_store import PackedOnlineStore
from jobs.lake.storage import explained, spark_address

if TYPE_CHECKING:
    from pyarrow.dataset import ParquetFileFragment
    from pyspark.sql import DataFrame

DAY = "day"  # the partition column of every feature table
BATCH = 131_072  # rows in memory at a time; they are sorted, and more of them touch fewer pages of SQLite
BUFFER = 1 << 20  # bytes of a column that are read ahead
LOGGER = logging.getLogger("sluice.features")


class ArrowComputeEngineConfig(FeastConfigBaseModel):  # type: ignore[misc]
    """Configuration of the engine: the Spark Connect server whose executors write, empty for this process."""

    type: Literal["jobs.features.engine.ArrowComputeEngine"] = "jobs.features.engine.ArrowComputeEngine"
    spark_remote: str = ""


class ArrowComputeEngine(ComputeEngine):  # type: ignore[misc]
    """Materializes by Arrow batches."""

    def __init__(self, *, type: str = "", spark_remote: str = "", **parts: Any) -> None:  # noqa: A002 - Feast's
        super().__init__(**parts)
        self._spark_remote = spark_remote

    def update(self, *_arguments: Any, **_named: Any) -> None:
        """There is nothing to prepare."""

    def teardown_infra(self, *_arguments: Any, **_named: Any) -> None:
        """There is nothing to remove."""

    def _materialize_one(
        self, registry: BaseRegistry, task: MaterializationTask, **_options: Any
    ) -> LocalMaterializationJob:
        view, config = task.feature_view, self.repo_config
        # Feast's dates may come without a zone and are UTC then
        start, end = (
            moment if moment.tzinfo else moment.replace(tzinfo=UTC)
            for moment in (task.start_time, task.end_time)
        )
        if self._spark_remote:
            written = _through_spark(self._spark_remote, config, view, start, end)
        else:
            written = _through_arrow(self.online_store, config, view, start, end)
        LOGGER.info("%s: %d rows written online", view.name, written)
        return LocalMaterializationJob(f"{view.name} {start} {end}", MaterializationJobStatus.SUCCEEDED)


def write_from_spark(rows: DataFrame, view: FeatureView, settings: Settings) -> int:
    """Store the rows of a Spark frame from its executors; gives how many were stored.

    Args:
        rows: the view's key, its time and its features, and whatever else.
        view: what they are rows of.
        settings: an installation whose online store is Redis.

    Raises:
        SluiceError: its online store is a file, which executors do not share.
    """
    from jobs.features.store import repo_config

    if settings.online_store != "redis":
        raise SluiceError(
            "Spark's executors can write online rows to Redis alone; set SLUICE_ONLINE_STORE=redis, or "
            "SLUICE_MATERIALIZE_ON=job"
        )
    return redis_rows.write_by_executors(rows, layout_of(repo_config(settings), view), settings.redis_url)


def batches(
    table: DeltaTable, columns: Sequence[str], first: date, last: date, moment: str = "as_of"
) -> Iterator[pa.RecordBatch]:
    """Some columns of the partitions first to last, the oldest first, a batch of rows at a time.

    A column that a file has not got is null. `moment` comes in microseconds and UTC.
    """
    for fragment in _files(table, first, last):
        yield from _batches_of(fragment, columns, moment)


def _files(table: DeltaTable, first: date, last: date) -> list[ParquetFileFragment]:
    from pyarrow.dataset import get_partition_keys

    bounds = [(DAY, ">=", str(first)), (DAY, "<=", str(last))]
    found = table.to_pyarrow_dataset(file_pruning_predicate=bounds).get_fragments()
    return sorted(found, key=lambda file: str(get_partition_keys(file.partition_expression)[DAY]))


def _batches_of(
    fragment: ParquetFileFragment, columns: Sequence[str], moment: str
) -> Iterator[pa.RecordBatch]:
    """By pages: a scanner would hold a whole group of rows, which is often the whole day."""
    from pyarrow.parquet import ParquetFile

    with fragment.filesystem.open_input_file(fragment.path) as handle:
        file = ParquetFile(handle, buffer_size=BUFFER, pre_buffer=False)
        there = [name for name in columns if name in file.schema_arrow.names]
        for batch in file.iter_batches(BATCH, columns=there, use_threads=False):
            yield pa.record_batch(
                [
                    pa.nulls(batch.num_rows, pa.float64())
                    if name not in there
                    else batch[name].cast(TIME)
                    if name == moment
                    else batch[name]
                    for name in columns
                ],
                list(columns),
            )


def _through_arrow(
    store: PackedOnlineStore, config: RepoConfig, view: FeatureView, start: datetime, end: datetime
) -> int:
    layout, table = layout_of(config, view), open_source(config, view.batch_source)
    first, last = _days(start, end)
    written = 0
    with explained(f"table {view.batch_source.name}", view.batch_source.path):
        rows = sum(file.count_rows() for file in _files(table, first, last)) if sys.stderr.isatty() else 0
        for batch in _shown(batches(table, layout.columns, first, last, layout.moment), view.name, rows):
            written += store.write_arrow(config, view, _within(batch, layout, start, end))
    return written


def _within(batch: pa.RecordBatch, layout: Layout, start: datetime, end: datetime) -> pa.RecordBatch:
    low, high = (pa.scalar(edge, TIME) for edge in (start, end))
    moments = batch[layout.moment]
    return batch.filter(pc.and_(pc.greater_equal(moments, low), pc.less_equal(moments, high)))


def _through_spark(remote: str, config: RepoConfig, view: FeatureView, start: datetime, end: datetime) -> int:
    """The same rows, read by Spark and written where they are read."""
    from pyspark.sql import functions as F  # noqa: N812 - the name every Spark reader knows

    from jobs.features.redis_online import address
    from jobs.spark import spark_session

    layout, source = layout_of(config, view), view.batch_source
    first, last = _days(start, end)
    rows = (
        spark_session(Settings.model_validate({"spark_remote": remote}))
        .read.format("delta")
        .option("versionAsOf", open_source(config, source).version())
        .load(spark_address(source.path))
        .filter(F.col(DAY).between(F.lit(first), F.lit(last)))
        .filter(F.col(layout.moment).between(F.lit(start), F.lit(end)))
    )
    return redis_rows.write_by_executors(rows, layout, address(config))


def _days(start: datetime, end: datetime) -> tuple[date, date]:
    """The partitions of the interval: the as_of of a day lie after its midnight, up to the next one."""
    first, last = (_next_midnight(edge.astimezone(UTC)) - timedelta(days=1) for edge in (start, end))
    return first, last


def _next_midnight(moment: datetime) -> date:
    """The day that begins at the moment or next after it."""
    return moment.date() + timedelta(days=moment.time() != time.min)


def _shown(found: Iterable[pa.RecordBatch], what: str, rows: int) -> Iterator[pa.RecordBatch]:
    """The batches, with a bar on a terminal."""
    if not rows:
        yield from found
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(f"{what} online", total=rows)
        for batch in found:
            yield batch
            bar.advance(task, batch.num_rows)
