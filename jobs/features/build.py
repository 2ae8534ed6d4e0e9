"""Job build_features: the features of one day or a range, and of the days around it that it changes.

In: transactions (amounts in minor units, times in UTC) and labels, as far back as the longest window reaches.
Out: one row per active customer in customer_features and per active terminal in terminal_features, partition
`day`, as of day + 1 00:00 UTC. A transaction counts when event_time < as_of and available_at <= as_of; a
label when available_at < as_of, and the latest label of a transaction wins. One row per transaction of the
day in transaction_velocity, as of the microsecond before it (jobs/features/velocity.py).
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
from jobs.features.spark_tables import read_table
from jobs.features.tables import BUILT_TABLES, FEATURE_TABLES, TRANSACTION_VELOCITY
from jobs.features.velocity import velocity_features
from jobs.features.windows import LABEL_SCHEMA, customer_features, terminal_features
from jobs.lake.evolve import evolve
from jobs.lake.store import LOG_KEPT, ContentDigest, Lake, conform, lake_of
from jobs.lake.tables import LABELS, TRANSACTIONS, Table
from jobs.spark import spark_session

READS = ("transactions", "labels")
WRITES = ("customer_features", "terminal_features", "transaction_velocity")
LOGGER = logging.getLogger("sluice.features")
FILES = 4  # written at once by Spark; a day is one file in any case
# Up to so many rows come back to the job, which writes them itself: Spark's part in a small Delta commit
# takes longer than computing the day. More are written where they were computed.
RETURNED_ROWS = 2_000_000
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


def velocity_rows(features: DataFrame) -> DataFrame:
    """The features with the microsecond before their event, in the table's columns."""
    before = F.col("event_time") - F.expr("INTERVAL 1 MICROSECOND")
    return features.withColumn("as_of", before).select(*TRANSACTION_VELOCITY.schema.names)


def _write(rows: DataFrame, lake: Lake, table: Table, days: Collection[date], most: int) -> int:
    """Replace the days' partitions in one commit, of `most` rows or fewer; gives the new table version."""
    if most <= RETURNED_ROWS:
        named = ", ".join(f"'{day}'" for day in days)
        found = conform(table, rows.toArrow()).sort_by([(name, "ascending") for name in table.key])
        return lake.replace_where(table, found, f"{table.partition} IN ({named})", ",".join(map(str, days)))
    named = ", ".join(f"DATE'{day}'" for day in days)
    placed = rows.repartition(1) if len(days) == 1 else rows.repartition(FILES, table.partition)
    with lake.writing(table):
        with lake.explained(table):
            evolve(lake.made(table), table)
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
    """Build the feature tables of some days from a snapshot; gives the versions that were written."""
    first, last = first_input(min(days), found.delay_days), max(days)
    transactions = read_table(session, lake, TRANSACTIONS, found.versions["transactions"], first, last)
    if found.versions["labels"] >= 0:
        labels = read_table(session, lake, LABELS, found.versions["labels"], first, last)
    else:
        labels = session.createDataFrame([], LABEL_SCHEMA)
    terminals = terminal_features(transactions, labels, days, found.delay_days)
    frames: dict[Table, DataFrame] = {
        FEATURE_TABLES["customer"]: feature_rows(customer_features(transactions, days), "customer"),
        FEATURE_TABLES["terminal"]: feature_rows(terminals, "terminal"),
        TRANSACTION_VELOCITY: velocity_rows(velocity_features(transactions, days)),
    }

    def write(table: Table) -> tuple[str, int]:
        return table.name, _write(frames[table], lake, table, days, found.rows * len(days))

    with ThreadPoolExecutor(len(frames)) as pool:
        return dict(pool.map(write, frames))


def run(params: Params, settings: Settings) -> Receipt:
    """Build the feature tables of the days, and of the days around them whose inputs have changed."""
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
    written = {table.name: _digest(lake, table, asked) for table in BUILT_TABLES}
    return Receipt(
        job="build_features",
        table=" ".join(WRITES),
        partition=str(asked[0]) if len(asked) == 1 else f"{asked[0]}..{asked[-1]}",
        version=lake.version(FEATURE_TABLES["customer"]),
        rows=sum(digest.rows for digest in written.values()),
        digest="".join(digest.hexdigest()[:16] for digest in written.values()),
        seconds=watch.seconds,
        facts={
            "feature_version": FEATURE_VERSION,
            "days": [str(built) for built in days],
            "rows": {name: digest.rows for name, digest in written.items()},
        },
    )


def _digest(lake: Lake, table: Table, days: list[date]) -> ContentDigest:
    """Digest and count of what a range wrote, a batch at a time."""
    digest = ContentDigest()
    for batch in lake.scan(table, first=days[0], last=days[-1], columns=table.schema.names):
        digest.add(batch)
    return digest
