"""Batch features as of the ends of any number of days, in one pass: frames in, frames out, by Spark.

In: transactions (event_time, available_at, customer_id, terminal_id, amount_minor) and labels (day,
transaction_id, available_at, is_fraud), times in UTC. Out: one row for each day asked for and each entity
that is active in its longest window as of the midnight that ends the day (as_of).
Windows begin and end at midnights, so whole days decide. A transaction of day `happened` is used from day
`seen` on, the first one whose as_of is not before available_at; at the end of day D its age is D - happened
days, and a window of w days holds the ages 0 to w - 1. A label is used where available_at < as_of; the latest
one of a transaction wins, and of two of one instant the fraud.
Amounts are summed as integers, so a figure does not depend on which days are asked for together.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import date

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F  # noqa: N812 - the name every Spark reader knows

from jobs.features.declarations import Entity, Feature, longest_window, stored_features

LABEL_SCHEMA = "day date, transaction_id bigint, available_at timestamp, is_fraud tinyint"


def customer_features(transactions: DataFrame, days: Collection[date]) -> DataFrame:
    """day, customer_id and its features, for customers active in the longest window."""
    return _features(_daily(transactions, "customer_id"), "customer", days, 0)


def terminal_features(
    transactions: DataFrame, labels: DataFrame, days: Collection[date], delay_days: int
) -> DataFrame:
    """day, terminal_id and its features, for terminals active in the longest window."""
    # chargebacks of a month are few: sending them all beats shuffling the transactions
    labelled = _dated(transactions).join(F.broadcast(known_frauds(labels)), "transaction_id")
    frauds = (
        labelled.withColumn("seen", F.greatest("seen", "known_from"))
        .groupBy("terminal_id", "happened", "seen", "known_until")
        .agg(F.count("*").alias("frauds"))
    )
    daily = _daily(transactions, "terminal_id").unionByName(frauds, allowMissingColumns=True)
    return _features(daily, "terminal", days, delay_days)


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


def _dated(transactions: DataFrame) -> DataFrame:
    """The transactions with the day of the event and the first day whose features may use them."""
    happened = F.to_date("event_time")
    # what is available at as_of itself still counts
    available = F.to_date(F.col("available_at") - F.expr("INTERVAL 1 MICROSECOND"))
    return transactions.withColumns({"happened": happened, "seen": F.greatest(happened, available)})


def _daily(transactions: DataFrame, key: str) -> DataFrame:
    """Count and amount of each key by day: what the windows are summed from."""
    return (
        _dated(transactions)
        .groupBy(key, "happened", "seen")
        .agg(F.count("*").alias("count"), F.sum("amount_minor").alias("amount_minor"))
    )


def _features(daily: DataFrame, entity: Entity, days: Collection[date], delay_days: int) -> DataFrame:
    """The windows of an entity as of the end of each day."""
    spread = _on_days(daily, days, longest_window(entity, delay_days))
    measures = [_measure(feature, delay_days) for feature in stored_features(entity)]
    return spread.groupBy("day", f"{entity}_id").agg(*measures)


def _on_days(daily: DataFrame, days: Collection[date], longest: int) -> DataFrame:
    """Each daily figure once for each of the days that may count it, with its age in days then."""
    last = F.least(F.date_add("happened", longest - 1), F.lit(max(days)))
    if "known_until" in daily.columns:
        last = F.least(last, F.date_sub("known_until", 1))
    ranged = daily.select("*", F.greatest("seen", F.lit(min(days))).alias("first"), last.alias("last"))
    spread = ranged.filter("first <= last").withColumn("day", F.explode(F.sequence("first", "last")))
    if len(days) <= (max(days) - min(days)).days:  # days in between that nobody asked for
        spread = spread.filter(F.col("day").isin(*days))
    return spread.withColumn("age", F.datediff("day", "happened"))


def _measure(feature: Feature, delay_days: int) -> Column:
    """The aggregate of one feature: figures outside its own half-open window add nothing."""
    youngest = delay_days if feature.measure == "risk" else 0
    inside = F.col("age").between(youngest, youngest + feature.window_days - 1)

    def total(name: str) -> Column:
        return F.sum(F.when(inside, F.col(name)))

    if feature.measure == "count":
        value = F.coalesce(total("count"), F.lit(0)).cast("double")
    elif feature.measure == "amount_mean":
        value = total("amount_minor").cast("double") / total("count") / F.lit(100.0)
    elif feature.measure == "risk":
        frauds = F.coalesce(total("frauds"), F.lit(0)).cast("double")
        value = F.coalesce(frauds / total("count"), F.lit(0.0))
    else:
        raise AssertionError(f"{feature.name}: no batch measure {feature.measure}")
    return value.alias(feature.name)
