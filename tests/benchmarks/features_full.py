"""The full feature set, three ways: what our job builds on Spark, and the same by DuckDB and by Polars.

In: `transactions` and `labels` in our tables' columns. Out: `customer`, `terminal` (a row for each day and
active entity) and `velocity` (a row for each event).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jobs.conf.settings import load_settings
from jobs.features.declarations import VELOCITY_FEATURES, stored_features
from jobs.spark import spark_session
from tests.benchmarks import features_full_duckdb, features_full_polars
from tests.benchmarks.features_data import DELAY_DAYS, LABELS, TRANSACTIONS, day_span
from tests.benchmarks.features_process import answer, timed

OUTPUTS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {  # keys and columns
    "customer": (("day", "customer_id"), tuple(feature.name for feature in stored_features("customer"))),
    "terminal": (("day", "terminal_id"), tuple(feature.name for feature in stored_features("terminal"))),
    "velocity": (("transaction_id",), VELOCITY_FEATURES),
}


def ours(source: Path, target: Path, warm: Path, remote: str) -> dict[str, Any]:
    """Our own frames in a Spark server that has answered a small question before."""
    from jobs.features.velocity import velocity_features
    from jobs.features.windows import customer_features, terminal_features

    session = spark_session(load_settings({"SLUICE_HOME": str(target.parent), "SLUICE_SPARK_REMOTE": remote}))

    def work(place: Path) -> None:
        days = day_span(place)
        transactions = session.read.parquet(str(place / TRANSACTIONS))
        labels = session.read.parquet(str(place / LABELS))
        frames = {
            "customer": customer_features(transactions, days),
            "terminal": terminal_features(transactions, labels, days, DELAY_DAYS),
            "velocity": velocity_features(transactions, days),
        }
        for name, rows in frames.items():
            rows.write.parquet(str(target / name), mode="overwrite")

    work(warm)
    return timed(lambda: work(source))


def by_duckdb(source: Path, target: Path) -> dict[str, Any]:
    return features_full_duckdb.write_features(source, target)


def by_duckdb_plain(source: Path, target: Path) -> dict[str, Any]:
    return features_full_duckdb.write_features(source, target, plain=True)


def by_polars(source: Path, target: Path) -> dict[str, Any]:
    return features_full_polars.write_features(source, target)


if __name__ == "__main__":
    answer({"ours": ours, "duckdb": by_duckdb, "duckdb_plain": by_duckdb_plain, "polars": by_polars})
