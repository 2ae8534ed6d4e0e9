"""A day's features brought online, beside Feast's own engine and stores: rows a second, peak memory."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.features.redis_client import connect
from tests.benchmarks.__main__ import Case
from tests.benchmarks.materialize_ways import FEATURES, run_way, write_tables
from tests.redis_server import serve_redis


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    rows: int = 1_000_000
    peer_rows: int = 1_000_000  # fewer where Feast's own would take too long or too much memory
    times: int = 2  # ours: the best of them counts
    peer_times: int = 1  # Feast's own takes minutes


def run(sizes: Sizes | None = None) -> Iterator[list[Case]]:
    """Every figure of materializing, store by store."""
    sizes = sizes or Sizes()
    print(f"load average at the start: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    with tempfile.TemporaryDirectory(prefix="bench_materialize") as folder:
        home = Path(folder)
        for rows in {sizes.rows, sizes.peer_rows}:
            write_tables(home / str(rows), rows)
        with serve_redis(home / "redis") as server:
            for store, address in (("sqlite", ""), ("redis", server.url)):
                yield cases_of(store, address, home, sizes)


def cases_of(store: str, address: str, home: Path, sizes: Sizes) -> list[Case]:
    """One store, both ways."""
    ours = best("ours", store, address, home / str(sizes.rows), sizes.times)
    peer = best("feast", store, address, home / str(sizes.peer_rows), sizes.peer_times)
    same = ours
    if sizes.peer_rows != sizes.rows:
        same = best("ours", store, address, home / str(sizes.peer_rows), 1)
    assert same["digest"] == peer["digest"], "the values that were read back differ"
    what = f"{sizes.rows:,} rows of {FEATURES} features into {'SQLite' if store == 'sqlite' else 'Redis'}"
    if sizes.peer_rows != sizes.rows:
        what += f" (Feast's own: {sizes.peer_rows:,} rows)"
    above = [found["peak_mb"] - found["start_mb"] for found in (ours, peer)]
    return [
        Case(f"{what}, beside Feast's own", ours["rate"], peer["rate"], "rows/s", "ratio >= 1",
             ours["rate"] >= peer["rate"]),
        Case(f"{what}: peak memory of the process", ours["peak_mb"], peer["peak_mb"], "MB", "ratio <= 0.5",
             ours["peak_mb"] <= 0.5 * peer["peak_mb"]),
        Case(f"{what}: peak memory beyond Feast's import", *above, "MB", "ratio <= 0.5",
             above[0] <= 0.5 * above[1]),
        Case(f"{what}: processor time", ours["cpu"], peer["cpu"], "s", "shown", True),
    ]  # fmt: skip


def best(way: str, store: str, address: str, home: Path, times: int) -> dict[str, Any]:
    """The quickest of some runs, each into an empty store."""
    found = []
    for _ in range(times):
        if address:
            connect(address).flushall()
        found.append(run_way(way, store, home, address))
    return min(found, key=lambda one: float(one["seconds"]))
