"""The full feature set by DuckDB, from the declarations: as fast as its SQL has been made to go.

Batch: sums by day on a grid of all entities and days, running sums, and differences to earlier days.
Velocity: one windowed sum for each frame, with count, sum and sum of squares in one 128-bit number: the
edges of a frame are looked up once and not three times. `plain` says count, sum and sum as anybody would.
Nothing comes late in these data, so the rule about what was available is left out here: ours keeps it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb

from jobs.features.declarations import VELOCITY, Entity, Feature, longest_window, stored_features
from tests.benchmarks.features_data import DELAY_DAYS, LABELS, TRANSACTIONS
from tests.benchmarks.features_process import timed

ENTITIES: tuple[Entity, ...] = ("customer", "terminal")
MICROSECONDS = 1_000_000
SUM_BITS, SQUARE_BITS = 40, 60
PACKED = f"((1::HUGEINT << {SUM_BITS + SQUARE_BITS}) + (amount_minor::HUGEINT << {SQUARE_BITS}) + square)"
MEASURES = {
    "count": "{n}",
    "amount_sum": "{s} / 100",
    "amount_mean": "CASE WHEN {n} > 0 THEN {s} / {n} / 100 END",
    "amount_deviation": "CASE WHEN {n} > 1 THEN "
    "sqrt(greatest({n} * {q} - {s} * {s}, 0) / ({n} * ({n} - 1))) / 100 END",
    "risk": "CASE WHEN {n} > 0 THEN {f} / {n} ELSE 0 END",
    "seconds_since_last": "(t - {last}) / 1e6",
    "is_new": "({before} = 0)::DOUBLE",
}


def write_features(source: Path, target: Path, *, plain: bool = False) -> dict[str, Any]:
    """All three outputs, from Parquet to Parquet."""

    def work() -> None:
        connection = duckdb.connect()
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute("SET preserve_insertion_order = false")
        for entity in ENTITIES:
            copy(connection, batch_query(source, entity), target / entity)
        copy(connection, velocity_query(source, plain=plain), target / "velocity")

    return timed(work)


def copy(connection: duckdb.DuckDBPyConnection, query: str, folder: Path) -> None:
    folder.mkdir(parents=True)
    connection.execute(f"COPY ({query}) TO '{folder}/all.parquet' (FORMAT parquet)")


def batch_query(source: Path, entity: Entity) -> str:
    """day, the key and the batch features of each entity that is active at the end of a day."""
    key, features = f"{entity}_id", stored_features(entity)
    fraud = any(feature.measure == "risk" for feature in features)
    sums = ["n", "s", "q", "f"] if fraud else ["n", "s", "q"]
    active = longest_window(entity, DELAY_DAYS)
    edges = sorted({0, active} | {edge for feature in features for edge in _edges(feature)})
    earlier = [f"lag({name}, {edge}, 0.0) OVER history AS {name}{edge}" for name in sums for edge in edges]
    rows = f"FROM '{source / TRANSACTIONS}/*.parquet' AS transactions"
    if fraud:
        rows += f" LEFT JOIN '{source / LABELS}/*.parquet' AS labels USING (transaction_id)"
    return f"""
    WITH daily AS (
        SELECT {key}, transactions.day, count(*)::DOUBLE AS n, sum(amount_minor)::DOUBLE AS s,
            sum(amount_minor::DOUBLE * amount_minor) AS q
            {", count(is_fraud)::DOUBLE AS f" if fraud else ""}
        {rows} GROUP BY ALL
    ), grid AS (
        SELECT {key}, day, {", ".join(f"coalesce({name}, 0) AS {name}" for name in sums)}
        FROM (SELECT DISTINCT {key} FROM daily) CROSS JOIN (SELECT DISTINCT day FROM daily)
        LEFT JOIN daily USING ({key}, day)
    ), running AS (
        SELECT {key}, day,
            {", ".join(f"sum({name}) OVER so_far AS {name}" for name in sums)}
        FROM grid WINDOW so_far AS (PARTITION BY {key} ORDER BY day ROWS UNBOUNDED PRECEDING)
    ), edges AS (
        SELECT {key}, day,
            {", ".join(earlier)}
        FROM running WINDOW history AS (PARTITION BY {key} ORDER BY day)
    )
    SELECT day, {key}, {", ".join(_batch(feature) for feature in features)}
    FROM edges WHERE n0 > n{active}
    """


def _edges(feature: Feature) -> tuple[int, int]:
    """How many days before as_of a batch window ends and begins."""
    youngest = DELAY_DAYS if feature.delayed else 0
    return youngest, youngest + feature.days


def _batch(feature: Feature) -> str:
    end, begin = _edges(feature)
    totals = {name: f"({name}{end} - {name}{begin})" for name in "nsqf"}
    return f"{MEASURES[feature.measure].format(**totals)} AS {feature.name}"


def velocity_query(source: Path, *, plain: bool = False) -> str:
    """day, transaction_id and the velocity features of each event."""
    windows = {(feature.entity, feature.label): feature for feature in VELOCITY if _is_sum(feature)}
    single = [feature for feature in VELOCITY if not _is_sum(feature)]
    return f"""
    WITH events AS (
        SELECT day, transaction_id, customer_id, terminal_id, epoch_us(event_time) AS t, amount_minor,
            amount_minor * amount_minor AS square
        FROM '{source / TRANSACTIONS}/*.parquet'
    ), framed AS (
        SELECT day, transaction_id, t,
            {", ".join(_sums(feature, plain=plain) for feature in windows.values())},
            {", ".join(_single(feature) for feature in single)}
        FROM events
    ), summed AS (
        SELECT *, {", ".join(_unpacked(feature, plain=plain) for feature in windows.values())} FROM framed
    )
    SELECT day, transaction_id, {", ".join(_velocity(feature) for feature in VELOCITY)} FROM summed
    """


def _is_sum(feature: Feature) -> bool:
    return feature.measure not in ("seconds_since_last", "is_new")


def _place(feature: Feature) -> str:
    return f"{feature.entity}_{feature.label}"


def _frame(feature: Feature) -> str:
    keys = "customer_id, terminal_id" if feature.entity == "pair" else f"{feature.entity}_id"
    length = int(feature.window.total_seconds()) * MICROSECONDS
    return f"(PARTITION BY {keys} ORDER BY t RANGE BETWEEN {length} PRECEDING AND 1 PRECEDING)"


def _sums(feature: Feature, *, plain: bool) -> str:
    frame, place = _frame(feature), _place(feature)
    if not plain:
        return f"coalesce(sum({PACKED}) OVER {frame}, 0) AS packed_{place}"
    return (
        f"count(*) OVER {frame} AS n0_{place}, sum(amount_minor::DOUBLE) OVER {frame} AS s0_{place}, "
        f"sum(square::DOUBLE) OVER {frame} AS q0_{place}"
    )


def _single(feature: Feature) -> str:
    what = "count(*)" if feature.measure == "is_new" else "last_value(t)"
    return f"{what} OVER {_frame(feature)} AS one_{_place(feature)}"


def _unpacked(feature: Feature, *, plain: bool) -> str:
    place = _place(feature)
    if plain:
        return ", ".join(f"coalesce({name}0_{place}, 0)::DOUBLE AS {name}_{place}" for name in "nsq")
    packed = f"packed_{place}"
    return (
        f"({packed} >> {SUM_BITS + SQUARE_BITS})::DOUBLE AS n_{place}, "
        f"(({packed} >> {SQUARE_BITS}) & {2**SUM_BITS - 1})::DOUBLE AS s_{place}, "
        f"({packed} & {2**SQUARE_BITS - 1})::DOUBLE AS q_{place}"
    )


def _velocity(feature: Feature) -> str:
    place = _place(feature)
    names = {"last": f"one_{place}", "before": f"one_{place}", **{name: f"{name}_{place}" for name in "nsq"}}
    return f"{MEASURES[feature.measure].format(**names)} AS {feature.name}"
