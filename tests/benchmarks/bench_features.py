"""Features: the published ones and our own beside DuckDB, Polars and pandas; memory; one more day.

Every way reads Parquet and writes Parquet, in a process of its own on the same cores, and has to come to the
same rows, or where comparing them would take longer than the figures to the same sums of every column. Ours
runs in a warm Spark server; what starting that costs is a figure of its own. DuckDB's figure is that of the
fastest SQL that we know for it; the plain windows are shown beside it.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks.__main__ import Case
from tests.benchmarks.features_data import (
    HANDBOOK,
    handbook_days,
    lay_out,
    rows_of,
    with_hot_terminal,
    write_tables,
)
from tests.benchmarks.features_days import large_day_cases, small_day_cases
from tests.benchmarks.features_equal import assert_equal, assert_same_sums, one_row
from tests.benchmarks.features_full import OUTPUTS
from tests.benchmarks.features_process import (
    CORES,
    Found,
    NoFigure,
    Server,
    best_of,
    same_cores,
    spark_server,
)
from tests.benchmarks.features_published import COLUMNS

PEERS = ("duckdb", "duckdb_plain", "polars", "pandas")
FULL_PEERS = ("duckdb", "duckdb_plain", "polars")
LARGE_PEERS = ("duckdb", "polars")
NAMES = {
    "duckdb": "DuckDB",
    "duckdb_plain": "DuckDB with plain windows",
    "polars": "Polars",
    "pandas": "pandas",
}
FASTER_THAN_PANDAS = 5
LONGER = 12  # times, for ten times the rows
SKEWED = 2
LARGEST_MB = 6 * 1024
WARM_DAYS = 3
COMPILING = 3  # runs of ours before Java has compiled what it runs: a server stays up for days
PRINTED = 1e-7  # the digits that the authors' running sums keep


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    days: int | None = None  # of the handbook's transactions; all of them
    copies: int = 10
    times: int = 3  # the best of them counts
    large_times: int = 1  # of the copies
    large_day_times: int = 2
    history_days: tuple[int, int] = (35, 150)
    small_day: int = 2_500
    large_day: int = 100_000


def run(sizes: Sizes | None = None) -> Iterator[list[Case]]:
    """Every figure of features, group by group."""
    sizes = sizes or Sizes()
    same_cores()
    print(f"load average at the start: {os.getloadavg()[0]:.1f} on {CORES} of {os.cpu_count()} cores")
    if handbook_days():
        yield published_cases(sizes)
        yield from full_cases(sizes)
    else:
        yield [absent()]
    short, long = sizes.history_days
    yield small_day_cases(short, long, sizes.small_day, sizes.times)
    yield large_day_cases(long, sizes.large_day, sizes.large_day_times)


def absent() -> Case:
    print(f"skipped: published and full features, there is no data set at {HANDBOOK}")
    return Case("published and full features: no data set", 0.0, None, "s", "the handbook's data", met=False)


@contextmanager
def sources(sizes: Sizes) -> Iterator[tuple[Path, Path, Path]]:
    """A folder to work in, the files that are measured, and a few of them to warm a server with."""
    with tempfile.TemporaryDirectory(prefix="bench_features") as folder:
        home = Path(folder)
        source = lay_out(handbook_days(count=sizes.days), home / "source")
        yield home, source, lay_out(handbook_days(count=WARM_DAYS), home / "few")


def published_cases(sizes: Sizes) -> list[Case]:
    """The 14 published features."""
    with sources(sizes) as (home, source, few):
        peers = {
            way: best_of(sizes.times, "features_published", way, source=source, target=home / way)
            for way in PEERS
        }
        with spark_server(home / "spark") as server:
            ours = best_of(
                sizes.times + COMPILING, "features_published", "ours",
                source=source, target=home / "ours", warm=few, remote=server.remote,
            )  # fmt: skip
            memory = ours.peak_mb + server.peak_mb
        for way in PEERS:
            assert_equal(home / "ours", home / way, ["TRANSACTION_ID"], COLUMNS)
        compared = assert_as_published(home / "ours")
        rows = rows_of(home / "ours")
    what, seconds = f"14 published features of {rows:,} rows", ours.seconds
    pandas = peers["pandas"].seconds / FASTER_THAN_PANDAS
    return [
        against(what, ours, peers["duckdb"], "DuckDB", 1),
        Case(f"{what}, beside pandas", seconds, peers["pandas"].seconds, "s",
             f"ratio <= {1 / FASTER_THAN_PANDAS}", seconds <= pandas),
        against(what, ours, peers["polars"], "Polars: the limit", None),
        against(what, ours, peers["duckdb_plain"], NAMES["duckdb_plain"], None),
        *(memory_case(what, memory, peers[way], NAMES[way]) for way in PEERS if way != "duckdb_plain"),
        Case(f"{what}: rows equal to the authors' own", float(compared), None, "rows", "shown", met=True),
        Case("Spark server until its first answer", server.start_seconds, None, "s", "shown", met=True),
    ]  # fmt: skip


def assert_as_published(ours: Path) -> int:
    """Our features of the days that the book's authors published are theirs; gives the rows compared."""
    compared = 0
    for published in sorted((HANDBOOK / "features_published").glob("*.parquet")):
        worst = ", ".join(f"max(abs(o.{name} - p.{name}) / greatest(abs(p.{name}), 1))" for name in COLUMNS)
        found = one_row(
            f"SELECT count(*), {worst} FROM '{ours}/*.parquet' o JOIN '{published}' p USING (TRANSACTION_ID)"
        )
        if not found[0]:
            continue  # a smaller run has not come to that day
        differing = {
            name: value for name, value in zip(COLUMNS, found[1:], strict=True) if not value <= PRINTED
        }
        assert not differing, f"{published.stem}: {differing}"
        compared += int(found[0])
    return compared


def full_cases(sizes: Sizes) -> Iterator[list[Case]]:
    """Everything that our job builds, for the rows as they are and for many copies of them."""
    with sources(sizes) as (home, source, few):
        warm = write_tables(few, home / "warm")
        write_tables(source, home / "once" / "data")
        with_hot_terminal(home / "once" / "data", home / "hot" / "data")
        peers = _peers(home / "once", FULL_PEERS, sizes.times)
        with spark_server(home / "spark") as server:
            once = _ours(home / "once", warm, server, sizes.times + COMPILING)
            skewed = _ours(home / "hot", warm, server, sizes.times)
        _assert_equal(home / "once", peers, every_row=True)
        yield _full_figures(home / "once", once, peers)
        _assert_equal(home / "hot", _peers(home / "hot", ("duckdb",), 1), every_row=False)
        yield [
            Case("all features with a fifth of the rows at one terminal, beside spread",
                 skewed.seconds, once.seconds, "s", f"ratio <= {SKEWED}",
                 skewed.seconds <= SKEWED * once.seconds)
        ]  # fmt: skip
        write_tables(source, home / "many" / "data", sizes.copies)
        peers = _peers(home / "many", LARGE_PEERS, sizes.large_times)
        with spark_server(home / "spark") as server:
            _ours(home / "once", warm, server, COMPILING)  # a server stays up for days: no size meets it cold
            many = _ours(home / "many", warm, server, sizes.large_times)
        _assert_equal(home / "many", peers, every_row=False)
        yield [
            *_full_figures(home / "many", many, peers),
            Case(f"all features of {sizes.copies} times the rows, beside once", many.seconds, once.seconds,
                 "s", f"ratio <= {LONGER}", many.seconds <= LONGER * once.seconds),
        ]  # fmt: skip


def _ours(place: Path, warm: Path, server: Server, times: int) -> Found:
    """Our job's frames, with the memory that the server has needed by then."""
    found = best_of(
        times, "features_full", "ours",
        source=place / "data", target=place / "ours", warm=warm, remote=server.remote,
    )  # fmt: skip
    return Found(found.seconds, found.cpu, found.peak_mb + server.peak_mb, found.facts)


def _peers(place: Path, ways: tuple[str, ...], times: int) -> dict[str, Found]:
    found = {}
    for way in ways:
        try:
            found[way] = best_of(times, "features_full", way, source=place / "data", target=place / way)
        except NoFigure as error:  # a peer that needs more memory than there is
            if way == "duckdb":
                raise
            print(f"{place.name}: no figure of {NAMES[way]}: {error}")
    return found


def _assert_equal(place: Path, peers: dict[str, Found], *, every_row: bool) -> None:
    """Ours is what DuckDB has in every row, where that is asked for, and what every peer has in its sums."""
    for way in peers:
        compare = assert_equal if every_row and way == "duckdb" else assert_same_sums
        for output, (keys, columns) in OUTPUTS.items():
            compare(place / "ours" / output, place / way / output, keys, columns)


def _full_figures(place: Path, ours: Found, found: dict[str, Found]) -> list[Case]:
    what = f"all features of {rows_of(place / 'data' / 'transactions'):,} rows"
    return [
        against(what, ours, found["duckdb"], "DuckDB", 1),
        *(against(what, ours, found[way], NAMES[way], None) for way in found if way != "duckdb"),
        Case(f"{what}: memory, beside DuckDB", ours.peak_mb, found["duckdb"].peak_mb, "MB",
             f"<= {LARGEST_MB}", ours.peak_mb <= LARGEST_MB),
        *(memory_case(what, ours.peak_mb, found[way], NAMES[way]) for way in found if way == "polars"),
    ]  # fmt: skip


def against(what: str, ours: Found, peer: Found, name: str, limit: float | None) -> Case:
    """Our seconds beside a peer's; without a limit they are only shown."""
    met = limit is None or ours.seconds <= limit * peer.seconds
    goal = "shown" if limit is None else f"ratio <= {limit:g}"
    return Case(f"{what}, beside {name}", ours.seconds, peer.seconds, "s", goal, met)


def memory_case(what: str, ours: float, peer: Found, name: str) -> Case:
    return Case(f"{what}: memory, beside {name}", ours, peer.peak_mb, "MB", "shown", met=True)
