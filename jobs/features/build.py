"""Job build_features: the batch features of a day, and of later days that it changes, by Spark.

In: transactions (amounts in minor units, times in UTC) and labels, as far back as the longest window reaches.
Out: one row per active customer in customer_features and per active terminal in terminal_features, partition
`day`, as of day + 1 00:00 UTC. A transaction counts when event_time < as_of; a label when available_at is,
and the latest label of a transaction wins. Means of an empty window are null, a risk of an empty window is 0.
Later days whose recorded inputs (jobs/features/inputs.py) have changed are built again; the receipt names all
days that are to be checked and served. One build at a time.
Errors: the day has no transactions, the Spark server is not reachable.
"""

from __future__ import annotations

import logging
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import date, datetime, timedelta

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F  # noqa: N812 - the name every Spark reader knows
from rich.progress import track

from jobs.conf.contract import contract_of
from jobs.conf.settings import Settings
from jobs.core import DayParams, Receipt, SluiceError, Stopwatch, midnight
from jobs.features.declarations import (
    FEATURE_VERSION,
    Entity,
    Feature,
    longest_window,
    stored_features,
)
from jobs.features.inputs import (
    Record,
    Snapshot,
    drop_record,
    first_input,
    keep_record,
    later_days,
    one_build,
    owe,
    owed,
    read_record,
    snapshot,
)
from jobs.features.tables import FEATURE_TABLES
from jobs.lake.store import Lake, content_digest, lake_of
from jobs.lake.tables import LABELS, TRANSACTIONS, Table
from jobs.spark import spark_session

READS = ("transactions", "labels")
WRITES = ("customer_features", "terminal_features")
LOGGER = logging.getLogger("sluice.features")
LABEL_SCHEMA = "day date, transaction_id bigint, available_at timestamp, is_fraud tinyint"


class Params(DayParams):
    """The day whose features are built."""


def known_labels(labels: DataFrame, as_of: datetime) -> DataFrame:
    """transaction_id, is_fraud: the latest label of each transaction that was available before as_of."""
    latest = F.max(F.struct("available_at", "is_fraud"))
    return (
        labels.filter(F.col("available_at") < F.lit(as_of))
        .groupBy("transaction_id")
        .agg(latest["is_fraud"].alias("is_fraud"))
    )


def customer_features(transactions: DataFrame, as_of: datetime) -> DataFrame:
    """customer_id and its features as of a moment, for customers active in the longest window."""
    active = _before(transactions, as_of, longest_window("customer", 0))
    measures = [_measure(feature, as_of, 0) for feature in stored_features("customer")]
    return active.groupBy("customer_id").agg(*measures)


def terminal_features(
    transactions: DataFrame, labels: DataFrame, as_of: datetime, delay_days: int
) -> DataFrame:
    """terminal_id and its features as of a moment, for terminals active in the longest window."""
    active = _before(transactions, as_of, longest_window("terminal", delay_days))
    # chargebacks of a month are few: sending them all beats shuffling the transactions
    labelled = active.join(F.broadcast(known_labels(labels, as_of)), "transaction_id", "left")
    measures = [_measure(feature, as_of, delay_days) for feature in stored_features("terminal")]
    return labelled.groupBy("terminal_id").agg(*measures)


def _before(transactions: DataFrame, as_of: datetime, days: int) -> DataFrame:
    moment = F.col("event_time")
    return transactions.filter((moment >= F.lit(as_of - timedelta(days=days))) & (moment < F.lit(as_of)))


def _measure(feature: Feature, as_of: datetime, delay_days: int) -> Column:
    """The aggregate of one feature: rows outside its own half-open window add nothing."""
    end = as_of - timedelta(days=delay_days if feature.measure == "risk" else 0)
    start = end - timedelta(days=feature.window_days)
    moment = F.col("event_time")
    inside = (moment >= F.lit(start)) & (moment < F.lit(end))
    if feature.measure == "count":
        value = F.count_if(inside).cast("double")
    elif feature.measure == "amount_mean":
        value = F.avg(F.when(inside, F.col("amount_minor"))) / F.lit(100.0)
    elif feature.measure == "risk":
        fraud = (F.coalesce(F.col("is_fraud"), F.lit(0)) == 1).cast("double")
        value = F.coalesce(F.avg(F.when(inside, fraud)), F.lit(0.0))
    else:
        raise AssertionError(f"{feature.name}: no batch measure {feature.measure}")
    return value.alias(feature.name)


def feature_rows(features: DataFrame, entity: Entity, day: date) -> DataFrame:
    """The features with their day and moment, in the table's columns."""
    as_of = midnight(day + timedelta(days=1))
    dated = features.withColumn("day", F.lit(day)).withColumn("as_of", F.lit(as_of))
    return dated.select(*FEATURE_TABLES[entity].schema.names)


def _read(
    session: SparkSession, lake: Lake, table: Table, version: int, first: date, last: date
) -> DataFrame:
    """Partitions first to last of a version, both included."""
    rows = session.read.format("delta").option("versionAsOf", version).load(lake.spark_path(table))
    return rows.filter(F.col(table.partition).between(F.lit(first), F.lit(last)))


def _write(rows: DataFrame, lake: Lake, table: Table, day: date) -> int:
    """Replace the day's partition in one commit; gives the new table version."""
    with lake.writing(table):
        (
            rows.coalesce(1)
            .write.format("delta")
            .mode("overwrite")
            .partitionBy(table.partition)
            .option("replaceWhere", f"{table.partition} = DATE'{day}'")
            .save(lake.spark_path(table))
        )
        return lake.version(table)


def build_day(session: SparkSession, lake: Lake, day: date, found: Snapshot) -> dict[str, int]:
    """Build both feature tables of one day from a snapshot; gives the versions that were written."""
    as_of = midnight(day + timedelta(days=1))
    first = first_input(day, found.delay_days)
    transactions = _read(session, lake, TRANSACTIONS, found.versions["transactions"], first, day)
    if found.versions["labels"] >= 0:
        labels = _read(session, lake, LABELS, found.versions["labels"], first, day)
    else:
        labels = session.createDataFrame([], LABEL_SCHEMA)
    frames: dict[Entity, DataFrame] = {
        "customer": customer_features(transactions, as_of),
        "terminal": terminal_features(transactions, labels, as_of, found.delay_days),
    }

    def write(entity: Entity) -> tuple[str, int]:
        table = FEATURE_TABLES[entity]
        return table.name, _write(feature_rows(frames[entity], entity, day), lake, table, day)

    with ThreadPoolExecutor(len(frames)) as pool:
        return dict(pool.map(write, frames))


def run(params: Params, settings: Settings) -> Receipt:
    """Build both feature tables of a day, and of the later days whose inputs have changed."""
    watch = Stopwatch()
    lake = lake_of(settings)
    day = params.day
    delay_days = contract_of(settings).labels.delay_days
    with one_build(settings):
        later = later_days(lake, day, delay_days)
        found = snapshot(lake, first_input(day, delay_days), max([day, *later]), delay_days)
        if day not in found.digests.get("transactions", {}):
            raise SluiceError(
                f"features of {day}: the table transactions has no rows of this day; run "
                f"`sluice publish_transactions --day {day}` (DAG fraud_ingest) first"
            )
        changed = [other for other in later if _changed(settings, other, found)]
        # built again by a run that failed before it had served them: theirs is left to do
        waiting = {other for other in later if owed(settings, other)}
        for other in changed:
            owe(settings, other)
        _build_all([day, *changed], lake, found, settings)
        days = [day, *sorted(waiting.union(changed))]
        return _receipt(lake, day, days, watch)


def _changed(settings: Settings, day: date, found: Snapshot) -> bool:
    record = read_record(settings, day)
    return record is None or record.inputs != found.inputs(day)


def _build_all(days: list[date], lake: Lake, found: Snapshot, settings: Settings) -> None:
    session = spark_session(settings)
    quiet = len(days) == 1 or not sys.stdout.isatty()
    for number, day in enumerate(track(days, "building features", transient=True, disable=quiet), start=1):
        drop_record(settings, day)
        versions = found.versions | build_day(session, lake, day, found)
        keep_record(settings, day, Record(inputs=found.inputs(day), versions=versions))
        LOGGER.info("features of %s built, %d of %d", day, number, len(days))


def _receipt(lake: Lake, day: date, days: list[date], watch: Stopwatch) -> Receipt:
    written = {entity: lake.read(table, first=day, last=day) for entity, table in FEATURE_TABLES.items()}
    return Receipt(
        job="build_features",
        table=" ".join(WRITES),
        partition=str(day),
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
