"""The point-in-time join, by Spark: each event with the newest row of its entity that was there before it.

In: events and rows of features, two frames that share a key. Out: the events, each once, with their own
columns and one more, the array of `values`. A row serves an event when as_of + published_after < moment and
moment - 1 microsecond <= as_of + ttl; the newest counts. Of rows of one key and one as_of the one with the
greatest values counts, by their declared order. An event without a row, or whose row has expired, has no
array: null.

One sort of both frames together by key and time: the work grows with the rows, not with rows times events.
An array and not a column for each value: Spark does not compile what handles more than a hundred columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F  # noqa: N812 - the name every Spark reader knows

from jobs.features.sums import microseconds

EVENT, ROW = 0, 1  # at one instant the event comes first: the row was not known before it


def as_of_join(
    events: DataFrame,
    features: DataFrame,
    *,
    key: str,
    moment: str,
    as_of: str,
    values: Sequence[str],
    published_after: timedelta,
    ttl: timedelta,
    into: str,
) -> DataFrame:
    """The events with the values that were known before each of them.

    Args:
        events: any columns, among them `key` and `moment` (a timestamp).
        features: `key`, `as_of` (a timestamp) and `values`; other columns are left alone.
        key: the entity's column, in both frames.
        moment: when the event happened.
        as_of: up to when a row of features looks.
        values: the columns to bring along, all of one type.
        published_after: how long after its as_of a row is known.
        ttl: how long after its as_of a row serves.
        into: the name of the array.
    """
    held = F.struct(F.unix_micros(as_of).alias("as_of"), F.array(*values).alias("values"))
    asking = events.select(
        F.col(key).alias("key"),
        F.unix_micros(moment).alias("at"),
        F.lit(EVENT).alias("kind"),
        F.struct("*").alias("event"),
    )
    answering = features.select(
        F.col(key).alias("key"),
        (F.unix_micros(as_of) + microseconds(published_after)).alias("at"),
        F.lit(ROW).alias("kind"),
        held.alias("row"),
    )
    both = asking.unionByName(answering, allowMissingColumns=True)
    before = (
        Window.partitionBy("key")
        .orderBy("at", "kind", "row")
        .rowsBetween(Window.unboundedPreceding, Window.currentRow)
    )
    answered = both.withColumn("found", F.last("row", ignorenulls=True).over(before)).filter(
        F.col("kind") == EVENT
    )
    fresh = F.col("at") - 1 <= F.col("found.as_of") + microseconds(ttl)
    return answered.select("event.*", F.when(fresh, F.col("found.values")).alias(into))
