"""The 14 published features, five ways: ours on Spark, DuckDB twice, Polars, and pandas of a notebook.

In: the handbook's files of days. Out: Parquet with TRANSACTION_ID and COLUMNS. Windows hold the rows up to
the current one in the order of time and transaction id, so of two payments of one second the first does not
count the second; a RANGE frame over the time alone would.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import polars as pl

from jobs.conf.settings import load_settings
from jobs.spark import spark_session
from tests.benchmarks.features_process import answer, timed

WINDOWS = (1, 7, 30)
DELAY = 7
DAY_SECONDS = 86_400
COLUMNS = (
    "TX_DURING_WEEKEND",
    "TX_DURING_NIGHT",
    *(f"CUSTOMER_ID_{name}_{days}DAY_WINDOW" for days in WINDOWS for name in ("NB_TX", "AVG_AMOUNT")),
    *(f"TERMINAL_ID_{name}_{days}DAY_WINDOW" for days in WINDOWS for name in ("NB_TX", "RISK")),
)


def ours(source: Path, target: Path, warm: Path, remote: str) -> dict[str, Any]:
    """Our own window computation in a Spark server that has answered a small question before."""
    from jobs.features.published import published_features

    session = spark_session(load_settings({"SLUICE_HOME": str(target.parent), "SLUICE_SPARK_REMOTE": remote}))

    def work(place: Path, into: Path) -> None:
        rows = session.read.parquet(str(place))
        published_features(rows).write.parquet(str(into), mode="overwrite")

    work(warm, target)
    return timed(lambda: work(source, target))


# The time and the transaction id in one number make the order unique, so a RANGE frame has no peers.
STEP = 2**24
DUCKDB_WINDOWS = ", ".join(
    f"c{days} AS (PARTITION BY CUSTOMER_ID ORDER BY place "
    f"RANGE BETWEEN {(days * DAY_SECONDS - 1) * STEP} + TRANSACTION_ID PRECEDING AND CURRENT ROW), "
    f"t{days} AS (PARTITION BY TERMINAL_ID ORDER BY second RANGE BETWEEN "
    f"{(days + DELAY) * DAY_SECONDS - 1} PRECEDING AND {DELAY * DAY_SECONDS} PRECEDING)"
    for days in WINDOWS
)
DUCKDB_OWN = """
TRANSACTION_ID, (isodow(TX_DATETIME) >= 6)::INT AS TX_DURING_WEEKEND,
(hour(TX_DATETIME) <= 6)::INT AS TX_DURING_NIGHT
"""
DUCKDB_ROWS = f"""
SELECT *, second * {STEP} + TRANSACTION_ID AS place, 1048576.0 + TX_FRAUD AS one_and_fraud,
    4294967296.0 + round(TX_AMOUNT * 100) AS one_and_cents
FROM (SELECT *, epoch_ms(TX_DATETIME) // 1000 AS second FROM '{{source}}/*.parquet')
"""
DUCKDB_PLAIN = (
    f"SELECT {DUCKDB_OWN}, "
    + ", ".join(
        f"count(*) OVER c{days} AS CUSTOMER_ID_NB_TX_{days}DAY_WINDOW, "
        f"avg(TX_AMOUNT) OVER c{days} AS CUSTOMER_ID_AVG_AMOUNT_{days}DAY_WINDOW, "
        f"count(*) OVER t{days} AS TERMINAL_ID_NB_TX_{days}DAY_WINDOW, "
        f"coalesce(avg(TX_FRAUD) OVER t{days}, 0) AS TERMINAL_ID_RISK_{days}DAY_WINDOW"
        for days in WINDOWS
    )
    + f" FROM ({DUCKDB_ROWS}) WINDOW {DUCKDB_WINDOWS}"
)
# DuckDB looks up the edges of a frame once for each aggregate: count and sum in one number halve that.
DUCKDB_PACKED = (
    "WITH summed AS (SELECT TRANSACTION_ID, TX_DATETIME, "
    + ", ".join(
        f"sum(one_and_cents) OVER c{days} AS c{days}, coalesce(sum(one_and_fraud) OVER t{days}, 0) AS t{days}"
        for days in WINDOWS
    )
    + f" FROM ({DUCKDB_ROWS}) WINDOW {DUCKDB_WINDOWS}), counted AS (SELECT *, "
    + ", ".join(
        f"floor(c{days} / 4294967296.0) AS cn{days}, floor(t{days} / 1048576.0) AS tn{days}"
        for days in WINDOWS
    )
    + f" FROM summed) SELECT {DUCKDB_OWN}, "
    + ", ".join(
        f"cn{days} AS CUSTOMER_ID_NB_TX_{days}DAY_WINDOW, "
        f"(c{days} - cn{days} * 4294967296.0) / cn{days} / 100 AS CUSTOMER_ID_AVG_AMOUNT_{days}DAY_WINDOW, "
        f"tn{days} AS TERMINAL_ID_NB_TX_{days}DAY_WINDOW, "
        f"CASE WHEN tn{days} > 0 THEN (t{days} - tn{days} * 1048576.0) / tn{days} ELSE 0 END "
        f"AS TERMINAL_ID_RISK_{days}DAY_WINDOW"
        for days in WINDOWS
    )
    + " FROM counted"
)


def by_duckdb(source: Path, target: Path, query: str = DUCKDB_PACKED) -> dict[str, Any]:
    """Windows in SQL, one sum for each frame."""
    target.mkdir(parents=True)

    def work() -> None:
        connection = duckdb.connect()
        connection.execute("SET preserve_insertion_order = false")
        connection.execute(f"COPY ({query.format(source=source)}) TO '{target}/all.parquet'")

    return timed(work)


def by_duckdb_plain(source: Path, target: Path) -> dict[str, Any]:
    """Windows in SQL as anybody would write them."""
    return by_duckdb(source, target, DUCKDB_PLAIN)


def by_polars(source: Path, target: Path) -> dict[str, Any]:
    """Running sums in the order of each entity, and a binary search for the edges of each window."""
    target.mkdir(parents=True)

    def work() -> None:
        rows = pl.read_parquet(
            f"{source}/*.parquet", columns=["TRANSACTION_ID", "TX_DATETIME", "CUSTOMER_ID", "TERMINAL_ID",
                                            "TX_AMOUNT", "TX_FRAUD"]
        ).sort("TRANSACTION_ID")  # fmt: skip
        when = pl.col("TX_DATETIME")
        clock = rows.select(
            "TRANSACTION_ID",
            TX_DURING_WEEKEND=(when.dt.weekday() >= 6).cast(pl.Int32),
            TX_DURING_NIGHT=(when.dt.hour() <= 6).cast(pl.Int32),
        )
        with ThreadPoolExecutor(2) as pool:
            parts = list(pool.map(lambda key: _polars_entity(rows, key), ("CUSTOMER_ID", "TERMINAL_ID")))
        clock.hstack([column for part in parts for column in part.get_columns()]).write_parquet(
            target / "all.parquet", compression="snappy"
        )

    return timed(work)


def _polars_entity(rows: pl.DataFrame, key: str) -> pl.DataFrame:
    """The windows of one entity in the order of `rows`, which are sorted by transaction."""
    second = pl.col("TX_DATETIME").dt.epoch("s")
    place = pl.col(key).cast(pl.Int64) * 2**32 + second
    cents = (pl.col("TX_AMOUNT") * 100).round()  # whole numbers: a running sum of them is exact
    value = (cents if key == "CUSTOMER_ID" else pl.col("TX_FRAUD")).cast(pl.Int64)
    ordered = rows.select(
        place=place, value=value, row=pl.int_range(pl.len(), dtype=pl.UInt32)
    ).sort("place", maintain_order=True)  # fmt: skip
    sums = pl.concat([pl.Series([0]), ordered["value"].cum_sum()])
    places = ordered["place"]

    def before(seconds: int) -> pl.Series:
        return places.search_sorted(places - seconds, side="right")

    columns: dict[str, pl.Series] = {}
    last = pl.int_range(1, len(ordered) + 1, eager=True, dtype=pl.UInt32)
    delay = 0 if key == "CUSTOMER_ID" else DELAY * DAY_SECONDS
    if delay:
        last = before(delay)
    for days in WINDOWS:
        first = before(delay + days * DAY_SECONDS)
        count = (last - first).cast(pl.Float64)
        total = (sums.gather(last) - sums.gather(first)).cast(pl.Float64)
        mean = total / count if delay else total / count / 100
        name = "RISK" if delay else "AVG_AMOUNT"
        columns[f"{key}_NB_TX_{days}DAY_WINDOW"] = count
        columns[f"{key}_{name}_{days}DAY_WINDOW"] = mean.fill_nan(0.0)
    found = pl.DataFrame({**columns, "row": ordered["row"]})
    return found.sort("row").drop("row")


def by_pandas(source: Path, target: Path) -> dict[str, Any]:
    """groupby and rolling, the delayed windows as the difference of two."""
    target.mkdir(parents=True)

    def work() -> None:
        rows = pd.read_parquet(source).sort_values(["TX_DATETIME", "TRANSACTION_ID"])
        rows["TX_DURING_WEEKEND"] = (rows["TX_DATETIME"].dt.weekday >= 5).astype("int32")
        rows["TX_DURING_NIGHT"] = (rows["TX_DATETIME"].dt.hour <= 6).astype("int32")
        rows = _pandas_sums(rows, "CUSTOMER_ID", "TX_AMOUNT", 0, "AVG_AMOUNT")
        rows = _pandas_sums(rows, "TERMINAL_ID", "TX_FRAUD", DELAY, "RISK")
        rows[["TRANSACTION_ID", *COLUMNS]].to_parquet(target / "all.parquet", index=False)

    return timed(work)


def _pandas_sums(rows: pd.DataFrame, key: str, value: str, delay: int, name: str) -> pd.DataFrame:
    rows = rows.sort_values([key, "TX_DATETIME", "TRANSACTION_ID"])
    grouped = rows.set_index("TX_DATETIME").groupby(key)[value]

    def figures(days: int) -> tuple[np.ndarray, np.ndarray]:
        window = grouped.rolling(f"{days}D")
        return window.count().to_numpy(), window.sum().to_numpy()

    late_count, late_sum = figures(delay) if delay else (0.0, 0.0)
    for days in WINDOWS:
        count, total = figures(delay + days)
        count, total = count - late_count, total - late_sum
        rows[f"{key}_NB_TX_{days}DAY_WINDOW"] = count
        rows[f"{key}_{name}_{days}DAY_WINDOW"] = np.divide(
            total, count, out=np.zeros_like(total), where=count > 0
        )
    return rows


if __name__ == "__main__":
    answer(
        {
            "ours": ours,
            "duckdb": by_duckdb,
            "duckdb_plain": by_duckdb_plain,
            "polars": by_polars,
            "pandas": by_pandas,
        }
    )
