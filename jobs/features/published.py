"""The 14 features that the Fraud Detection Handbook published, by the same running sums as our own.

In: transactions as the handbook has them (TRANSACTION_ID, TX_DATETIME, CUSTOMER_ID, TERMINAL_ID, TX_AMOUNT in
major units, TX_FRAUD). Out: TRANSACTION_ID and the 14 columns, for every row.
Source: Le Borgne, Siblini, Lebichot, Bontempi, Reproducible Machine Learning for Credit Card Fraud Detection,
2022, chapter 3. Its windows include the current transaction, (t - w, t], and of the rows of one instant those
up to the current one; a terminal's end `delay` earlier: (t - delay - w, t - delay]. For comparison with
published figures only: a served model must not see the transaction that it judges in the history.
"""

from __future__ import annotations

from datetime import timedelta

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F  # noqa: N812 - the name every Spark reader knows

from jobs.features.declarations import NIGHT_ENDS, SATURDAY
from jobs.features.sums import everything_until, measured, microseconds

WINDOW_DAYS = (1, 7, 30)
DELAY = timedelta(days=7)


def published_features(transactions: DataFrame, delay: timedelta = DELAY) -> DataFrame:
    """TRANSACTION_ID and the published features."""
    rows = transactions.select(
        F.col("TRANSACTION_ID").alias("transaction_id"),
        F.col("TX_DATETIME").alias("moment"),
        F.unix_micros(F.col("TX_DATETIME").cast("timestamp")).alias("at"),
        F.col("CUSTOMER_ID").alias("customer_id"),
        F.col("TERMINAL_ID").alias("terminal_id"),
        F.round(F.col("TX_AMOUNT") * 100).cast("bigint").alias("amount"),
        F.col("TX_FRAUD").cast("bigint").alias("frauds"),
    )
    windows = {days: timedelta(days=days) for days in WINDOW_DAYS}
    columns: dict[str, Column] = {}
    for key, what, measure, figures, end in (
        ("customer_id", "AVG_AMOUNT", "amount_mean", ("count", "amount"), timedelta(0)),
        ("terminal_id", "RISK", "risk", ("count", "frauds"), delay),
    ):
        rows = _sums(rows, key, figures, [end, *(end + window for window in windows.values())])
        for days, window in windows.items():
            count, total = (_between(key, figure, end, window) for figure in figures)
            columns[f"{key.upper()}_NB_TX_{days}DAY_WINDOW"] = measured("count", count)
            columns[f"{key.upper()}_{what}_{days}DAY_WINDOW"] = measured(measure, count, total)
    weekend = F.weekday("moment") >= SATURDAY
    night = F.hour("moment") <= NIGHT_ENDS
    return rows.select(
        F.col("transaction_id").alias("TRANSACTION_ID"),
        weekend.cast("int").alias("TX_DURING_WEEKEND"),
        night.cast("int").alias("TX_DURING_NIGHT"),
        *(column.alias(name) for name, column in columns.items()),
    )


def _sums(rows: DataFrame, key: str, figures: tuple[str, ...], distances: list[timedelta]) -> DataFrame:
    """Running sums up to each distance, ascending: 0 sorts by more than the others need."""
    for distance in distances:
        rows = rows.withColumns(
            {
                _name(key, figure, distance): F.sum(F.lit(1) if figure == "count" else F.col(figure)).over(
                    everything_until([key], microseconds(distance), current_included=True)
                )
                for figure in figures
            }
        )
    return rows


def _name(key: str, figure: str, distance: timedelta) -> str:
    return f"{key}_{figure}_{microseconds(distance)}"


def _between(key: str, figure: str, end: timedelta, window: timedelta) -> Column:
    """The sum of a window of some length that ends so long before the row."""
    near, far = (F.coalesce(_name(key, figure, each), F.lit(0)) for each in (end, end + window))
    return near - far
