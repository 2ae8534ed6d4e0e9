"""Batch features as of the ends of any number of days, in one pass: frames in, frames out, by Spark.

In: transactions (event_time, available_at, customer_id, terminal_id, amount_minor) and labels (day,
transaction_id, available_at, is_fraud), times in UTC. Out: one row for each day asked for and each entity
that is active in its longest window as of the midnight that ends the day (as_of).
Windows begin and end at midnights, so whole days decide. A transaction of day `happened` is used from day
`seen` on, the first one whose as_of is not before available_at; at the end of day D its age is D - happened
days, and a window of w days holds the ages 0 to w - 1. A label is used where available_at < as_of; the latest
one of a transaction wins, and of two of one instant the fraud.

A day's figures enter each window on one day and leave it on another, so the windows of all days are running
sums over these moves: the work follows the rows and not the length of the windows. Sums are whole numbers:
what enters leaves exactly, and a figure does not depend on which days are asked for together.
Days are numbers from the first one asked for on: the code that Spark generates is then the same for every
day, and it compiles it once.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import date
from typing import NamedTuple

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F  # noqa: N812 - the name every Spark reader knows

from jobs.features.declarations import Entity, Feature, longest_window, stored_features
from jobs.features.sums import FIGURES, measured, squared, total

LABEL_SCHEMA = "day date, transaction_id bigint, available_at timestamp, is_fraud tinyint"


class Span(NamedTuple):
    """The ages in days that a window holds: `youngest` and the `length - 1` after it."""

    youngest: int
    length: int

    def column(self, figure: str) -> str:
        return f"{figure}_{self.youngest}_{self.length}"


def customer_features(transactions: DataFrame, days: Collection[date]) -> DataFrame:
    """day, customer_id and its features, for customers active in the longest window."""
    return _features(_figures(transactions, "customer_id", min(days)), "customer", days, 0)


def terminal_features(
    transactions: DataFrame, labels: DataFrame, days: Collection[date], delay_days: int
) -> DataFrame:
    """day, terminal_id and its features, for terminals active in the longest window."""
    first = min(days)
    # chargebacks of a month are few, and Spark sends them all; those of a long range it does not
    labelled = _dated(transactions, first).join(known_frauds(labels), "transaction_id")
    frauds = labelled.select(
        "terminal_id",
        "happened",
        F.greatest(F.col("seen"), _number("known_from", first)).alias("seen"),
        _number("known_until", first).alias("known_until"),
        F.lit(1).alias("frauds"),
    )
    figures = _figures(transactions, "terminal_id", first).unionByName(frauds, allowMissingColumns=True)
    return _features(figures, "terminal", days, delay_days)


def known_frauds(labels: DataFrame) -> DataFrame:
    """transaction_id, known_from, known_until: the days [from, until) whose latest known label says fraud.

    A label that is corrected on the day on which it became known counts on no day.
    """
    # a label of a later delivery is not there before it, whatever instant it names
    known = F.greatest("day", F.to_date("available_at"))
    later = (
        Window.partitionBy("transaction_id")
        .orderBy("available_at", "is_fraud")
        .rowsBetween(1, Window.unboundedFollowing)
    )
    dated = labels.select("transaction_id", "available_at", "is_fraud", known.alias("known_from"))
    spans = dated.withColumn("known_until", F.min("known_from").over(later))
    held = F.col("known_until").isNull() | (F.col("known_from") < F.col("known_until"))
    return spans.filter((F.col("is_fraud") == 1) & held).select("transaction_id", "known_from", "known_until")


def first_day_seen() -> Column:
    """The first day whose features may use a transaction; what is available at as_of itself still counts."""
    available = F.to_date(F.col("available_at") - F.expr("INTERVAL 1 MICROSECOND"))
    return F.greatest(F.to_date("event_time"), available)


def _number(day: Column | str, first: date) -> Column:
    """The number of a day; that of the first one is 0."""
    return F.datediff(day, F.lit(first))


def _dated(transactions: DataFrame, first: date) -> DataFrame:
    happened, seen = _number(F.to_date("event_time"), first), _number(first_day_seen(), first)
    return transactions.withColumns({"happened": happened, "seen": seen})


def _figures(transactions: DataFrame, key: str, first: date) -> DataFrame:
    """What each transaction adds to the windows of its key."""
    return _dated(transactions, first).select(
        key,
        "happened",
        "seen",
        F.lit(1).alias("count"),
        F.col("amount_minor").alias("amount"),
        squared("amount_minor").alias("squares"),
    )


def _features(figures: DataFrame, entity: Entity, days: Collection[date], delay_days: int) -> DataFrame:
    """The windows of an entity as of the end of each day."""
    key = f"{entity}_id"
    spans = {feature: _span(feature, delay_days) for feature in stored_features(entity)}
    active = Span(0, longest_window(entity, delay_days))
    wanted = {(span, name) for feature, span in spans.items() for name in FIGURES[feature.measure]}
    sums = sorted({*wanted, (active, "count")})
    first, last = min(days), (max(days) - min(days)).days
    changes = _changes(figures, key, sums, last)
    running = _running(changes, key, [span.column(name) for span, name in sums], last)
    held = running.filter(F.col(active.column("count")) > 0)
    spread = held.withColumn("number", F.explode(F.sequence("number", "until")))
    if len(days) <= last:  # days in between that nobody asked for
        spread = spread.filter(F.col("number").isin(*((day - first).days for day in days)))
    measures = [
        measured(feature.measure, *(F.col(span.column(name)) for name in FIGURES[feature.measure])).alias(
            feature.name
        )
        for feature, span in spans.items()
    ]
    return spread.select(F.date_add(F.lit(first), F.col("number")).alias("day"), key, *measures)


def _span(feature: Feature, delay_days: int) -> Span:
    return Span(delay_days if feature.delayed else 0, feature.days)


def _changes(figures: DataFrame, key: str, sums: list[tuple[Span, str]], last: int) -> DataFrame:
    """key, a day's number and by how much each sum changes on it; what changed before 0 counts on it."""
    grouping = ["happened", "seen"]
    if any(name == "frauds" for _, name in sums):
        grouping.append("known_until")
    names = sorted({name for _, name in sums})
    # one shuffle, by the key: all that follows stays in its partitions
    daily = figures.repartition(key).groupBy(key, *grouping).agg(*(total(name).alias(name) for name in names))
    spans = sorted({span for span, _ in sums})
    youngest = sorted({span.youngest for span in spans})
    enters = {age: F.greatest(F.col("seen"), F.col("happened") + age) for age in youngest}
    leaves = {}
    for span in spans:
        end = F.col("happened") + (span.youngest + span.length)
        if "known_until" in grouping:
            end = F.least(end, F.col("known_until"))
        # what is over before it is seen comes and goes on one day
        leaves[span] = F.greatest(end, enters[span.youngest])
    moves = [*enters.values(), *leaves.values()]
    entering = {age: place for place, age in enumerate(enters)}
    leaving = {span: len(enters) + place for place, span in enumerate(leaves)}
    moved = (
        daily.select("*", F.posexplode(F.array(*moves)).alias("move", "moved_on"))
        .filter(F.col("moved_on") <= last)
        .withColumn("number", F.greatest(F.col("moved_on"), F.lit(0)))
    )
    move = F.col("move")
    signed = [
        total(
            F.when(move == entering[span.youngest], F.col(name)).when(move == leaving[span], -F.col(name))
        ).alias(span.column(name))
        for span, name in sums
    ]
    return moved.groupBy(key, "number").agg(*signed)


def _running(changes: DataFrame, key: str, columns: list[str], last: int) -> DataFrame:
    """The sums as of each day on which one changes, and `until`, the last day on which they stay so."""
    # a count without a row is 0; an amount is null only where it is beyond 64 bits
    counted = [name for name in columns if name.startswith(("count_", "frauds_"))]
    if last == 0:
        return changes.fillna(0, counted).withColumn("until", F.lit(last))
    in_time = Window.partitionBy(key).orderBy("number")
    so_far = in_time.rowsBetween(Window.unboundedPreceding, Window.currentRow)
    return changes.select(
        key,
        "number",
        F.coalesce(F.lead("number").over(in_time) - 1, F.lit(last)).alias("until"),
        *(total(name).over(so_far).alias(name) for name in columns),
    ).fillna(0, counted)
