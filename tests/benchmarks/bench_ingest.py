"""A day landed, validated and published, beside DuckDB and pandas; memory; flat cost; a month as a range."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from jobs.conf.settings import Settings
from jobs.lake.store import lake_of
from jobs.lake.tables import TRANSACTIONS
from jobs.registry import load_job
from tests.benchmarks.__main__ import Case
from tests.benchmarks.ingest_data import DAY, settings_in, write_day, write_history
from tests.benchmarks.ingest_ranges import feature_cases, ingest_cases
from tests.benchmarks.ingest_ways import JOBS, run_way

REFERENCE_DAYS = 28
REACH_DAYS = 35  # to either side of a day: what its validation may open


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    rows: int = 1_000_000
    many_rows: int = 10_000_000
    times: int = 5  # the best of them counts
    small_day: int = 2_500
    history_days: tuple[int, int] = (30, 360)
    month_days: int = 28
    month_rows: int = 10_000  # a day


def run(sizes: Sizes | None = None) -> list[Case]:
    """Every figure of ingesting."""
    sizes = sizes or Sizes()
    print(f"load average at the start: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    with tempfile.TemporaryDirectory(prefix="bench_ingest") as folder:
        home = Path(folder)
        write_day(home / "day" / f"{DAY}.csv", sizes.rows)
        write_history(settings_in(home / "history"), REFERENCE_DAYS)
        cases = [*speed_cases(home, sizes), *memory_cases(home, sizes), *history_cases(home, sizes)]
    return [
        *cases,
        *ingest_cases(sizes.month_days, sizes.month_rows),
        *feature_cases(sizes.month_days, sizes.month_rows),
    ]


def speed_cases(home: Path, sizes: Sizes) -> list[Case]:
    """A large day, three ways."""
    best = {
        way: min((run_way(way, home) for _ in range(sizes.times)), key=lambda found: float(found["seconds"]))
        for way in ("ours", "duckdb", "pandas")
    }
    ours, duck, plain = (best[way] for way in ("ours", "duckdb", "pandas"))
    for peer in (duck, plain):
        assert peer["counts"] == ours["counts"], (peer["counts"], ours["counts"])
        assert peer["published"] == ours["published"], (peer["published"], ours["published"])
    what, seconds = f"{sizes.rows:,} rows landed, validated, published", float(ours["seconds"])
    return [
        Case(f"{what}, beside DuckDB", seconds, duck["seconds"], "s", "ratio <= 4",
             seconds <= 4 * duck["seconds"]),
        Case(f"{what}, beside DuckDB: the further goal", seconds, duck["seconds"], "s", "ratio <= 2",
             seconds <= 2 * duck["seconds"]),
        Case(f"{what}, beside pandas", seconds, plain["seconds"], "s", "ratio <= 1",
             seconds <= plain["seconds"]),
        Case(f"{what}, processor time, beside DuckDB", ours["cpu"], duck["cpu"], "s", "shown", True),
        Case("process start and imports, beside DuckDB's", ours["start"], duck["start"], "s", "shown", True),
    ]  # fmt: skip


def memory_cases(home: Path, sizes: Sizes) -> list[Case]:
    """The greatest memory of all four jobs in one process; the file of the day is replaced by the larger."""
    few = run_way("ours", home)
    write_day(home / "day" / f"{DAY}.csv", sizes.many_rows)
    many = run_way("ours", home)
    shutil.rmtree(home / "day")
    million = float(many["seconds"]) * sizes.rows / sizes.many_rows
    return [
        Case(f"memory at {sizes.many_rows:,} rows, beside {sizes.rows:,}", many["peak_mb"], few["peak_mb"],
             "MB", "ratio <= 1.5", many["peak_mb"] <= 1.5 * few["peak_mb"]),
        Case(f"seconds for {sizes.rows:,} of {sizes.many_rows:,} rows, beside {sizes.rows:,} alone", million,
             few["seconds"], "s", "ratio <= 1.2", million <= 1.2 * few["seconds"]),
    ]  # fmt: skip


def history_cases(home: Path, sizes: Sizes) -> list[Case]:
    """One more small day after a short and after a long history."""
    seconds, files = {}, {}
    for days in sizes.history_days:
        settings = settings_in(home / f"after{days}")
        write_history(settings, days, sizes.small_day)
        write_day(Path(settings.source_uri) / f"{DAY}.csv", sizes.small_day)
        jobs = [load_job(name) for name in JOBS]
        found = []
        for _ in range(sizes.times):
            start = time.perf_counter()
            for job in jobs:
                job.run(job.Params.model_validate({"day": DAY}), settings)
            found.append(time.perf_counter() - start)
        seconds[days], files[days] = min(found), files_in_reach(settings)
    few, many = sizes.history_days
    return [
        Case(f"one more day after {many} days, beside {few}", seconds[many], seconds[few], "s",
             "ratio <= 1.2", seconds[many] <= 1.2 * seconds[few]),
        Case(f"data files in reach of a day after {many} days, beside {few}", files[many], files[few],
             "files", "ratio <= 1.2", files[many] <= 1.2 * files[few]),
    ]  # fmt: skip


def files_in_reach(settings: Settings) -> float:
    """Files of `transactions` that the day's validation may open."""
    days = lake_of(settings).read(TRANSACTIONS, columns=["day"])["day"].unique().to_pylist()
    return float(sum(abs((day - DAY).days) <= REACH_DAYS for day in days))
