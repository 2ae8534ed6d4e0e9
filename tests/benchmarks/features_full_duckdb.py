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
SINGLE = ("seconds_since_last", "is_new")
MEASURES = {
    "count": "{n}",
    "amount_sum": "{s} / 100",
    "amount_mean": "CASE WHEN {n} > 0 THEN {s} / {n} / 100 END",
    "amount_deviation": "CASE WHEN {n} > 1 THEN "
    "sqrt(greatest({n} * {q} - {s} * {s}, 0) / ({n} * ({n} - 1))) / 100 END",
    "risk": "CASE WHEN {n} > 0 THEN {f} / {n} ELSE 0 END",
    "seconds_since_last": "(t - {last}) / 1e6",
    "is_new": "({before} = 0)::DOUBLE",
    "amount_before": "CASE WHEN t - {t_then} <= {length} THEN {amount_then} / 100 END",
    "seconds_before": "CASE WHEN t - {t_then} <= {length} THEN (t - {t_then}) / 1e6 END",
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
    single = [feature for feature in VELOCITY if feature.measure in SINGLE]
    listed = {(feature.entity, feature.place): feature for feature in VELOCITY if feature.place}
    return f"""
    WITH events AS (
        SELECT day, transaction_id, customer_id, terminal_id, epoch_us(event_time) AS t, amount_minor,
            amount_minor * amount_minor AS square,
            {", ".join(_tie(entity) for entity in dict.fromkeys(entity for entity, _ in listed))}
        FROM '{source / TRANSACTIONS}/*.parquet'
    ), framed AS (
        SELECT day, transaction_id, t,
            {", ".join(_sums(feature, plain=plain) for feature in windows.values())},
            {", ".join(_single(feature) for feature in single)},
            {", ".join(_then(feature) for feature in listed.values())}
        FROM events
    ), summed AS (
        SELECT *, {", ".join(_unpacked(feature, plain=plain) for feature in windows.values())} FROM framed
    )
    SELECT day, transaction_id, {", ".join(_velocity(feature) for feature in VELOCITY)} FROM summed
    """


def _is_sum(feature: Feature) -> bool:
    return feature.measure not in SINGLE and not feature.place


def _tie(entity: str) -> str:
    """How many of the same instant are before the event in the order of time and amount."""
    keys = f"PARTITION BY {entity}_id ORDER BY epoch_us(event_time)"
    return f"row_number() OVER ({keys}, amount_minor) - rank() OVER ({keys}) AS {entity}_tie"


def _then(feature: Feature) -> str:
    """Time and amount of one of the last events, those of the same instant left out."""
    order, back = f"{feature.entity}_id ORDER BY t, amount_minor", f"{feature.place} + {feature.entity}_tie"
    return ", ".join(
        f"lag({name}, {back}) OVER (PARTITION BY {order}) AS {name}_{_place(feature)}"
        for name in ("t", "amount_minor")
    )


def _place(feature: Feature) -> str:
    return f"{feature.entity}_{feature.place or feature.label}"


def _frame(feature: Feature) -> str:
    keys = "customer_id, terminal_id" if feature.entity == "pair" else f"{feature.entity}_id"
    return f"(PARTITION BY {keys} ORDER BY t RANGE BETWEEN {_length(feature)} PRECEDING AND 1 PRECEDING)"


def _length(feature: Feature) -> int:
    return int(feature.window.total_seconds()) * MICROSECONDS


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
    names |= {"t_then": f"t_{place}", "amount_then": f"amount_minor_{place}"}
    return f"{MEASURES[feature.measure].format(length=_length(feature), **names)} AS {feature.name}"
