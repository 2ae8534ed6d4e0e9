"""The full feature set by Polars, from the declarations: running sums and a binary search for the edges.

Sums are whole numbers of minor units, so a running sum over everything is exact. Nothing comes late in these
data, so the rule about what was available is left out here: ours keeps it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl

from jobs.features.declarations import VELOCITY, Entity, Feature, longest_window, stored_features
from tests.benchmarks.features_data import DELAY_DAYS, LABELS, TRANSACTIONS
from tests.benchmarks.features_process import timed

ENTITIES: tuple[Entity, ...] = ("customer", "terminal")
MICROSECONDS = 1_000_000
MARGIN = 60 * 86_400 * MICROSECONDS  # between one entity and the next: more than any window
NEVER = -(2**62)
SINGLE, OF_ONE = ("seconds_since_last", "is_new"), ("amount_before", "seconds_before")


def write_features(source: Path, target: Path) -> dict[str, Any]:
    """All three outputs, from Parquet to Parquet."""

    def work() -> None:
        for entity in ENTITIES:
            write(batch(source, entity), target / entity)
        write(velocity(source), target / "velocity")

    return timed(work)


def write(rows: pl.DataFrame, folder: Path) -> None:
    folder.mkdir(parents=True)
    rows.write_parquet(folder / "all.parquet", compression="snappy")


def batch(source: Path, entity: Entity) -> pl.DataFrame:
    """day, the key and the batch features of each entity that is active at the end of a day."""
    key, features = f"{entity}_id", stored_features(entity)
    rows = pl.scan_parquet(f"{source / TRANSACTIONS}/*.parquet")
    minor = pl.col("amount_minor")
    sums = {"n": pl.len().cast(pl.Int64), "s": minor.sum(), "q": (minor * minor).sum()}
    if any(feature.measure == "risk" for feature in features):
        labels = pl.scan_parquet(f"{source / LABELS}/*.parquet").select("transaction_id", "is_fraud")
        rows = rows.join(labels, on="transaction_id", how="left")
        sums["f"] = pl.col("is_fraud").count().cast(pl.Int64)
    daily = rows.group_by(key, "day").agg(**sums).collect()
    days = daily.select(pl.col("day").unique().sort())
    grid = daily.select(pl.col(key).unique().sort()).join(days, how="cross")
    grid = grid.join(daily, on=[key, "day"], how="left", maintain_order="left").fill_null(0)
    del daily
    totals = {name: pl.concat([pl.Series([0]), grid[name].cum_sum()]) for name in sums}
    place = pl.int_range(len(grid), eager=True)
    age = place % len(days)  # days of the grid before this one

    def total(name: str, feature: Feature) -> pl.Expr:
        youngest = DELAY_DAYS if feature.delayed else 0
        return pl.lit(edge(name, youngest) - edge(name, youngest + feature.days))

    def edge(name: str, back: int) -> pl.Series:
        start = place - age  # the key's first place
        return totals[name].gather(pl.select(pl.max_horizontal(place + 1 - back, start)).to_series())

    active = edge("n", 0) > edge("n", longest_window(entity, DELAY_DAYS))
    columns = [
        _measure(feature, {name: total(name, feature) for name in sums}).alias(feature.name)
        for feature in features
    ]
    return grid.select("day", key, *columns).filter(active)


def velocity(source: Path) -> pl.DataFrame:
    """day, transaction_id and the velocity features of each event."""
    events = pl.read_parquet(
        f"{source / TRANSACTIONS}/*.parquet",
        columns=["day", "transaction_id", "event_time", "customer_id", "terminal_id", "amount_minor"],
    ).sort("transaction_id")
    events = events.with_columns(t=pl.col("event_time").dt.epoch("us")).drop("event_time")
    events = events.with_columns(pl.col("t") - pl.col("t").min())
    found = events.select("day", "transaction_id")
    for keys in (["customer_id"], ["terminal_id"], ["customer_id", "terminal_id"]):
        entity = "pair" if len(keys) > 1 else keys[0].removesuffix("_id")
        found = found.hstack(_entity(events, keys, [each for each in VELOCITY if each.entity == entity]))
    return found.select("day", "transaction_id", *(feature.name for feature in VELOCITY))


def _entity(events: pl.DataFrame, keys: list[str], features: list[Feature]) -> pl.DataFrame:
    """The features of one entity in the order of `events`."""
    listed = [each for each in features if each.place]
    ordered = events.select(
        *keys, "t", "amount_minor", row=pl.int_range(pl.len(), dtype=pl.UInt32)
    ).sort(*keys, "t", *(["amount_minor"] if listed else []))  # fmt: skip
    columns: dict[str, pl.Series] = {}
    sums = [each for each in features if each.measure not in (*SINGLE, *OF_ONE)]
    if sums:
        columns |= _windows(ordered, keys[0], sums)
    before = _time_before(ordered, keys)
    for feature in features:
        length = int(feature.window.total_seconds()) * MICROSECONDS
        since = ordered["t"] - before
        if feature.measure == "seconds_since_last":
            held = pl.when(pl.lit(since) <= length).then(pl.lit(since) / 1e6)
            columns[feature.name] = pl.select(held).to_series()
        elif feature.measure == "is_new":
            columns[feature.name] = (since > length).cast(pl.Float64)
    columns |= {feature.name: _of_one(ordered, keys[0], feature) for feature in listed}
    return pl.DataFrame({**columns, "row": ordered["row"]}).sort("row").drop("row")


def _time_before(ordered: pl.DataFrame, keys: list[str]) -> pl.Series:
    """The time of the last row of the same keys that is strictly earlier."""
    new_key = pl.any_horizontal(pl.col(key) != pl.col(key).shift(1) for key in keys).fill_null(True)
    later = pl.col("t") != pl.col("t").shift(1)
    found = pl.when(new_key).then(pl.lit(NEVER)).when(later).then(pl.col("t").shift(1))
    return ordered.select(found.forward_fill()).to_series()


def _of_one(ordered: pl.DataFrame, key: str, feature: Feature) -> pl.Series:
    """Time or amount of one of the last events, those of the same instant left out."""
    row = pl.int_range(pl.len())
    first = pl.any_horizontal(pl.col(name) != pl.col(name).shift(1) for name in (key, "t")).fill_null(True)
    place = pl.when(first).then(row).forward_fill() - feature.place
    then = {name: pl.col(name).gather(place.clip(0)) for name in (key, "t", "amount_minor")}
    since = pl.col("t") - then["t"]
    length = int(feature.window.total_seconds()) * MICROSECONDS
    said = then["amount_minor"] / 100 if feature.measure == "amount_before" else since / 1e6
    inside = (place >= 0) & (then[key] == pl.col(key)) & (since <= length)
    return ordered.select(pl.when(inside).then(said)).to_series()


def _windows(ordered: pl.DataFrame, key: str, features: list[Feature]) -> dict[str, pl.Series]:
    stride = (ordered["t"].max() or 0) + MARGIN  # type: ignore[operator]
    places = ordered[key] * stride + ordered["t"]
    minor = ordered["amount_minor"]
    ones = pl.int_range(len(ordered) + 1, eager=True)
    sums = {"n": ones} | {
        name: pl.concat([pl.Series([0]), values.cum_sum()])
        for name, values in (("s", minor), ("q", minor * minor))
    }
    last = places.search_sorted(places, side="left")
    columns: dict[str, pl.Series] = {}
    for label in dict.fromkeys(feature.label for feature in features):
        together = [feature for feature in features if feature.label == label]
        length = int(together[0].window.total_seconds()) * MICROSECONDS
        first = places.search_sorted(places - length, side="left")
        totals = {name: pl.lit(values.gather(last) - values.gather(first)) for name, values in sums.items()}
        for feature in together:
            columns[feature.name] = pl.select(_measure(feature, totals)).to_series()
    return columns


def _measure(feature: Feature, totals: dict[str, pl.Expr]) -> pl.Expr:
    whole = {name: total.cast(pl.Float64) for name, total in totals.items()}
    n, s, q = whole["n"], whole["s"], whole["q"]
    if feature.measure == "count":
        return n
    if feature.measure == "amount_sum":
        return s / 100
    if feature.measure == "amount_mean":
        return pl.when(n > 0).then(s / n / 100)
    if feature.measure == "amount_deviation":
        spread = (n * q - s * s).clip(lower_bound=0)
        return pl.when(n > 1).then((spread / (n * (n - 1))).sqrt() / 100)
    if feature.measure == "risk":
        return pl.when(n > 0).then(whole["f"] / n).otherwise(0.0)
    raise AssertionError(f"{feature.name}: no sums give {feature.measure}")
