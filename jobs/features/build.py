"""Job build_features: the batch features of one day or a range, and of the days around it that it changes.

In: transactions (amounts in minor units, times in UTC) and labels, as far back as the longest window reaches.
Out: one row per active customer in customer_features and per active terminal in terminal_features, partition
`day`, as of day + 1 00:00 UTC. A transaction counts when event_time < as_of and available_at <= as_of; a
label when available_at < as_of, and the latest label of a transaction wins. Means of an empty window are
null, a risk of an empty window is 0.
Days around it whose recorded inputs (jobs/features/inputs.py) have changed are built again: later ones look
back at it, earlier ones get the rows that came late. All days are one Spark job and one commit per table;
the receipt names those that are to be checked and served. One build at a time.
Errors: a day of the range has no transactions, the Spark server is not reachable.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from functools import reduce

from pydantic import Field, model_validator
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F  # noqa: N812 - the name every Spark reader knows

from jobs.conf.contract import contract_of
from jobs.conf.settings import Settings
from jobs.core import DayParams, Receipt, SluiceError, Stopwatch, days_between
from jobs.features.declarations import FEATURE_VERSION, Entity
from jobs.features.inputs import (
    Record,
    Snapshot,
    begin_record,
    first_input,
    keep_record,
    neighbours,
    one_build,
    owe,
    owed,
    read_record,
    snapshot,
)
from jobs.features.tables import FEATURE_TABLES
from jobs.features.windows import LABEL_SCHEMA, customer_features, terminal_features
from jobs.lake.storage import spark_address
from jobs.lake.store import LOG_KEPT, Lake, Layer, content_digest, lake_of
from jobs.lake.tables import LABELS, TRANSACTIONS, Table
from jobs.spark import spark_session

READS = ("transactions", "labels")
WRITES = ("customer_features", "terminal_features")
LOGGER = logging.getLogger("sluice.features")
FILES = 4  # written at once by a range; a day is one file in any case
NAMED_DAYS = 5  # more than this are counted


class Params(DayParams):
    """The day whose features are built, or the first of a range."""

    last: date | None = Field(
        default=None, description="last day of the range, as YYYY-MM-DD; empty: only `day`"
    )

    @model_validator(mode="after")
    def _last_is_not_before_day(self) -> Params:
        if self.last is not None and self.last < self.day:
            raise ValueError(f"last is {self.last}, before the day {self.day}")
        return self


def feature_rows(features: DataFrame, entity: Entity) -> DataFrame:
    """The features with the midnight that ends their day, in the table's columns."""
    dated = features.withColumn("as_of", F.date_add("day", 1).cast("timestamp"))
    return dated.select(*FEATURE_TABLES[entity].schema.names)


def _read(
    session: SparkSession, lake: Lake, table: Table, version: int, first: date, last: date
) -> DataFrame:
    """Partitions first to last of a version, both included."""
    layers = [_layer(session, table, layer) for layer in lake.layers(table, version)]
    rows = reduce(lambda above, below: above.union(below), layers)
    return rows.filter(F.col(table.partition).between(F.lit(first), F.lit(last)))


def _layer(session: SparkSession, table: Table, layer: Layer) -> DataFrame:
    rows = session.read.format("delta").option("versionAsOf", layer.version).load(spark_address(layer.path))
    if layer.without is not None:
        low, high = (F.lit(edge).cast("date") for edge in layer.without)
        rows = rows.filter(~F.col(table.partition).between(low, high))
    return rows.select(*table.schema.names)


def _write(rows: DataFrame, lake: Lake, table: Table, days: Collection[date]) -> int:
    """Replace the days' partitions in one commit; gives the new table version."""
    named = ", ".join(f"DATE'{day}'" for day in days)
    placed = rows.coalesce(1) if len(days) == 1 else rows.repartition(FILES, table.partition)
    with lake.writing(table):
        (
            placed.write.format("delta")
            .mode("overwrite")
            .partitionBy(table.partition)
            .options(**LOG_KEPT)
            .option("replaceWhere", f"{table.partition} IN ({named})")
            .save(lake.spark_path(table))
        )
        return lake.version(table)


def build_days(session: SparkSession, lake: Lake, days: Collection[date], found: Snapshot) -> dict[str, int]:
    """Build both feature tables of some days from a snapshot; gives the versions that were written."""
    first, last = first_input(min(days), found.delay_days), max(days)
    transactions = _read(session, lake, TRANSACTIONS, found.versions["transactions"], first, last)
    if found.versions["labels"] >= 0:
        labels = _read(session, lake, LABELS, found.versions["labels"], first, last)
    else:
        labels = session.createDataFrame([], LABEL_SCHEMA)
    frames: dict[Entity, DataFrame] = {
        "customer": customer_features(transactions, days),
        "terminal": terminal_features(transactions, labels, days, found.delay_days),
    }

    def write(entity: Entity) -> tuple[str, int]:
        table = FEATURE_TABLES[entity]
        return table.name, _write(feature_rows(frames[entity], entity), lake, table, days)

    with ThreadPoolExecutor(len(frames)) as pool:
        return dict(pool.map(write, frames))


def run(params: Params, settings: Settings) -> Receipt:
    """Build both feature tables of the days, and of the days around them whose inputs have changed."""
    watch = Stopwatch()
    lake, contract = lake_of(settings), contract_of(settings)
    first, last = params.day, params.last or params.day
    delay_days = contract.labels.delay_days
    with one_build(settings):
        asked = days_between(first, last)
        late_days = contract.transactions.late_days
        # a backfill rewrites the days that it was planned for and no others
        around = [] if settings.staging else neighbours(lake, first, last, delay_days, late_days)
        begin = min([first, *around])
        found = snapshot(lake, first_input(begin, delay_days), max([last, *around]), delay_days)
        _require(asked, found)
        changed = [other for other in around if _changed(settings, other, found)]
        # built again by a run that failed before it had served them: theirs is left to do
        waiting = {other for other in around if owed(settings, other)}
        for other in changed:
            owe(settings, other)
        _build_all(sorted([*asked, *changed]), changed, lake, found, settings)
        return _receipt(lake, asked, sorted({*asked, *changed, *waiting}), watch)


def _require(days: list[date], found: Snapshot) -> None:
    """Every day must have its transactions: late rows of a day are not the day."""
    missing = [day for day in days if day not in found.delivered]
    if missing:
        named = ", ".join(map(str, missing[:NAMED_DAYS]))
        more = f" and of {len(missing) - NAMED_DAYS} more days" if len(missing) > NAMED_DAYS else ""
        raise SluiceError(
            f"features of {days[0]}{f' to {days[-1]}' if len(days) > 1 else ''}: the table transactions has "
            f"no file of {named}{more}; run `sluice publish_transactions --day {missing[0]}` (DAG "
            "fraud_ingest) first, or a backfill with the later files that have brought all of its rows"
        )


def _changed(settings: Settings, day: date, found: Snapshot) -> bool:
    record = read_record(settings, day)
    return record is None or record.inputs != found.inputs(day)


def _build_all(days: list[date], owing: list[date], lake: Lake, found: Snapshot, settings: Settings) -> None:
    for day in days:
        begin_record(settings, day)
    versions = found.versions | build_days(spark_session(settings), lake, days, found)
    for day in owing:
        owe(settings, day)  # once more: a run that was serving it may have settled what was owed before
    for day in days:
        keep_record(settings, day, Record(inputs=found.inputs(day), versions=versions))
    LOGGER.info("features of %d days built, %s to %s", len(days), days[0], days[-1])


def _receipt(lake: Lake, asked: list[date], days: list[date], watch: Stopwatch) -> Receipt:
    written = {
        entity: lake.read(table, first=asked[0], last=asked[-1]) for entity, table in FEATURE_TABLES.items()
    }
    return Receipt(
        job="build_features",
        table=" ".join(WRITES),
        partition=str(asked[0]) if len(asked) == 1 else f"{asked[0]}..{asked[-1]}",
        version=lake.version(FEATURE_TABLES["customer"]),
        rows=sum(rows.num_rows for rows in written.values()),
        digest="".join(content_digest(rows)[:16] for rows in written.values()),
        seconds=watch.seconds,
        facts={
            "feature_version": FEATURE_VERSION,
            "days": [str(built) for built in days],
            **{f"{entity}_rows": rows.num_rows for entity, rows in written.items()},
        },
    )
