"""Velocity features of past events: what the scoring service saw at each event, by Spark.

In: transactions (day, transaction_id, event_time, available_at, customer_id, terminal_id, amount_minor) of
the days asked for and of HISTORY_DAYS before the first. Out: one row for each event of the days.
A window is [t - w, t), to the microsecond: the event itself and others of its instant are not in it. What a
file brought after its day was not seen in time: such an event has features and is in nobody's window.

A window's sums are the difference of two running sums, up to its two ends: the work does not grow with the
number of rows in a window, so a terminal with a fifth of all rows costs what its rows cost.
The last transactions one by one are a list of the newest few strictly before the event, kept while rows come
in order of time.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from datetime import date, timedelta

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F  # noqa: N812 - the name every Spark reader knows

from jobs.features.declarations import SEQUENCE_LENGTH, VELOCITY, VELOCITY_FEATURES, Feature
from jobs.features.sums import FIGURES, everything_until, measured, microseconds, squared, total
from jobs.features.windows import first_day_seen

KEYS = {"customer": ["customer_id"], "terminal": ["terminal_id"], "pair": ["customer_id", "terminal_id"]}
DAY = timedelta(days=1)
# windows of sums look back so far; what only asks for the last event before looks back further
SUM_DAYS = max(-(-feature.window // DAY) for feature in VELOCITY if feature.measure in FIGURES)
HISTORY_DAYS = max(-(-feature.window // DAY) for feature in VELOCITY)


def velocity_features(transactions: DataFrame, days: Collection[date]) -> DataFrame:
    """day, transaction_id, event_time and VELOCITY_FEATURES of every event of the days."""
    first, last = min(days), max(days)
    # of a long range all history goes through the windows: looking it up apart would cost more
    whole = (last - first).days >= HISTORY_DAYS
    recent_from = first - timedelta(days=HISTORY_DAYS if whole else SUM_DAYS)
    within = F.col("day").between(F.lit(first - timedelta(days=HISTORY_DAYS)), F.lit(last))
    # told apart here, so that no code behind the first shuffle depends on the day: Spark compiles it once
    asked = F.col("day").isin(*days) if len(days) <= (last - first).days else F.col("day") >= F.lit(first)
    rows = transactions.filter(within).select(
        "day",
        asked.alias("asked"),
        "transaction_id",
        "customer_id",
        "terminal_id",
        F.unix_micros("event_time").alias("at"),
        # late rows are events, and count nowhere
        (first_day_seen() == F.to_date("event_time")).alias("in_time"),
        F.col("amount_minor").alias("amount"),
        squared("amount_minor").alias("squares"),
    )
    older = None if whole else rows.filter((F.col("day") < F.lit(recent_from)) & F.col("in_time"))
    found = rows.filter(F.col("day") >= F.lit(recent_from)).drop("day")
    # pairs before terminals: they lie together where the customers do
    for entity in ("customer", "pair"):
        found = _with_features(found, older, entity)
    # apart from the customer's sums: one method for both would be too long for Java to compile
    one_by_one = {feature.name: _of_one(feature) for feature in VELOCITY if feature.place}
    found = _with_features(found.withColumns(one_by_one).drop("list"), older, "terminal")
    moment = F.timestamp_micros("at")
    return found.filter("asked").select(
        F.to_date(moment).alias("day"), "transaction_id", moment.alias("event_time"), *VELOCITY_FEATURES
    )


def _with_features(rows: DataFrame, older: DataFrame | None, entity: str) -> DataFrame:
    keys = KEYS[entity]
    declared = [feature for feature in VELOCITY if feature.entity == entity]
    sums = [feature for feature in declared if feature.measure in FIGURES]
    listed = [feature for feature in declared if feature.place]
    last = [feature for feature in declared if feature.measure not in FIGURES and not feature.place]
    edges = dict(_edges(keys, sums))
    if listed:
        edges["list"] = _newest().over(everything_until(keys, 0))
    if last:
        edges["last"] = F.max(F.when(F.col("in_time"), F.col("at"))).over(everything_until(keys, 0))
    rows = rows.withColumns(edges)
    if older is not None and any(feature.window > SUM_DAYS * DAY for feature in last):
        before = older.groupBy(*keys).agg(
            F.max("at").alias("last_older"), *([_newest().alias("list_older")] if listed else [])
        )
        rows = rows.join(before, keys, "left").withColumn("last", F.coalesce("last", "last_older"))
        if listed:
            rows = rows.withColumn("list", _one_list("list", "list_older"))
    features = {feature.name: _windowed(feature) for feature in sums}
    features |= {feature.name: _since(feature) for feature in last}
    done = [name for name in edges if name != "list"]
    return rows.withColumns(features).drop("last_older", "list_older", *done)


def _newest() -> Column:
    """(time, amount) of the newest rows in time, newest first; of one instant the larger amount is newer."""
    entry = F.when(F.col("in_time"), F.struct("at", "amount"))
    return F.max_by(entry, entry, SEQUENCE_LENGTH)


def _one_list(newer: str, older: str) -> Column:
    """Two lists as one; either may be missing."""
    return F.concat(*(F.coalesce(name, F.array()) for name in (newer, older)))


def _edges(keys: list[str], features: list[Feature]) -> Iterator[tuple[str, Column]]:
    """The running sums just before the event and just before each of its windows."""
    counted = F.col("in_time")
    values = {"count": F.lit(1), "amount": F.col("amount"), "squares": F.col("squares")}
    figures = sorted({"count", *(figure for feature in features for figure in FIGURES[feature.measure])})
    for distance in sorted({0, *(microseconds(feature.window) for feature in features)} if features else ()):
        for figure in figures:
            running = total(F.when(counted, values[figure])).over(everything_until(keys, distance))
            yield f"{figure}_before_{distance}", running


def _windowed(feature: Feature) -> Column:
    """A measure of the sums between two edges."""
    begin = microseconds(feature.window)
    sums = [_before(figure, 0) - _before(figure, begin) for figure in FIGURES[feature.measure]]
    return measured(feature.measure, *sums)


def _before(figure: str, distance: int) -> Column:
    """A running sum; without a row it is 0, and beyond 64 bits it is null."""
    return F.when(F.col(f"count_before_{distance}") > 0, F.col(f"{figure}_before_{distance}")).otherwise(0)


def _since(feature: Feature) -> Column:
    """What the last event before says, where it lies in the window."""
    elapsed = F.col("at") - F.col("last")
    inside = F.when(elapsed <= microseconds(feature.window), elapsed)
    if feature.measure == "is_new":
        return inside.isNull().cast("double")
    return inside.cast("double") / F.lit(1e6)


def _of_one(feature: Feature) -> Column:
    """What one of the last transactions says, where it lies in the window."""
    before = F.get("list", F.lit(feature.place - 1))
    elapsed = F.col("at") - before["at"]
    said = before["amount"] / F.lit(100.0) if feature.measure == "amount_before" else elapsed / F.lit(1e6)
    return F.when(elapsed <= microseconds(feature.window), said)
