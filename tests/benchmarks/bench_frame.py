"""A point-in-time training frame: our join on Spark beside Feast's own in its duckdb, file and spark stores.

Every way reads the same Parquet and writes Parquet, in a process of its own on the same cores, and is checked
row by row against DuckDB's ASOF JOIN. Feast's file store leaves out events that no row serves, so it has no
time to be held against; sessions are started before the clock is. What a training calls, with all of its
features and from the job's own frame to the job's own frame, is a figure of its own.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.benchmarks.__main__ import Case
from tests.benchmarks.bench_features import COMPILING
from tests.benchmarks.features_equal import assert_equal
from tests.benchmarks.features_process import CORES, Found, Server, best_of, same_cores, spark_server
from tests.benchmarks.frame_data import VALUES, kinds_of_events, write_frame, wrong_rows
from tests.benchmarks.frame_training import JOINED, History, write_history

FASTER_THAN_SPARK = 10
FEW = (2_000, 10_000)  # events and rows that a Spark server is warmed with


@dataclass(frozen=True)
class Sizes:
    """How much is measured: events and feature rows."""

    small: tuple[int, int] = (200_000, 1_000_000)
    large: tuple[int, int] = (2_000_000, 10_000_000)
    times: int = 3  # of ours and of the store that it is held against: the best of them counts
    large_times: int = 2
    training: History = field(default_factory=History)


def run(sizes: Sizes | None = None) -> Iterator[list[Case]]:
    """Every figure of the frame, size by size."""
    sizes = sizes or Sizes()
    same_cores()
    print(f"load average at the start: {os.getloadavg()[0]:.1f} on {CORES} of {os.cpu_count()} cores")
    with tempfile.TemporaryDirectory(prefix="bench_frame") as folder:
        home = Path(folder)
        few = write_frame(home / "few", *FEW)
        with spark_server(home / "server") as server:
            stores = {"duckdb": sizes.times, "file": 1, "spark": 2}
            yield small_cases(
                Measured(home / "small", sizes.small, few, server, sizes.times + COMPILING, stores), server
            )
            stores = {"duckdb": sizes.large_times}
            large = Measured(home / "large", sizes.large, few, server, sizes.large_times, stores)
            yield [*large.correct_cases(), large.beside_duckdb(), *large.memory_cases()]
            yield training_cases(home / "training", sizes.training, server)


def small_cases(small: Measured, server: Server) -> list[Case]:
    """The size at which every store of Feast's is measured."""
    ours, spark = small.found["ours"], small.found["spark"]
    return [
        *small.correct_cases(),
        small.beside_duckdb(),
        Case(f"{small.what}, beside Feast's spark store", ours.seconds, spark.seconds, "s",
             f"ratio <= {1 / FASTER_THAN_SPARK}", FASTER_THAN_SPARK * ours.seconds <= spark.seconds),
        Case(f"{small.what}, beside Feast's file store", ours.seconds, small.found["file"].seconds, "s",
             "shown", met=True),
        *small.memory_cases(),
        Case("Spark server until its first answer, beside the session of Feast's spark store",
             server.start_seconds, float(spark.facts["start_seconds"]), "s", "shown", met=True),
    ]  # fmt: skip


def training_cases(home: Path, history: History, server: Server) -> list[Case]:
    """The call that a training makes, beside Feast's own over the same tables."""
    write_history(home, history)
    by_us, by_feast = home / "answer_of_ours", home / "answer_of_feast"  # Feast's own files lie in home/feast
    ours = best_of(2, "frame_training", "ours", scratch=home, target=by_us, remote=server.remote)
    feast = best_of(1, "frame_training", "feast", scratch=home, target=by_feast, remote="")
    assert_equal(by_us, by_feast, ["transaction_id"], JOINED)
    what = f"a training's {history.events:,} events with {len(JOINED)} stored features"
    return [
        Case(f"{what}, beside Feast's call", ours.seconds, feast.seconds, "s", "shown", met=True),
        Case(f"{what}: memory of the job, without the Spark server, beside Feast's", ours.peak_mb,
             feast.peak_mb, "MB", "shown", met=True),
    ]  # fmt: skip


class Measured:
    """All ways over one size."""

    def __init__(
        self, home: Path, size: tuple[int, int], few: Path, server: Server, times: int, stores: dict[str, int]
    ) -> None:
        self.what = f"{size[0]:,} events, {size[1]:,} rows of {len(VALUES)} features"
        source = write_frame(home / "data", *size)
        kinds = kinds_of_events(source)
        assert all(kinds.values()), f"the data lack a kind of events: {kinds}"
        print(f"{self.what}: {kinds}")
        found = best_of(
            times, "frame_ways", "ours", source=source, target=home / "ours", warm=few, remote=server.remote
        )
        ours = Found(found.seconds, found.cpu, found.peak_mb + server.peak_mb, found.facts)
        self.found: dict[str, Found] = {"ours": ours}
        for store, runs in stores.items():
            more = {"warm": few} if store == "spark" else {}
            self.found[store] = best_of(
                runs, "frame_ways", store,
                source=source, target=home / store, scratch=home / f"{store}_store", **more,
            )  # fmt: skip
        self.wrong = {way: wrong_rows(source, home / way) for way in self.found}

    def correct_cases(self) -> list[Case]:
        """Events that a way answers wrongly, twice or not at all."""
        own = sum(self.wrong["ours"].values())
        print("\n".join(f"{self.what}, {way}: {wrong}" for way, wrong in self.wrong.items()))
        return [
            Case(f"{self.what}: wrong rows, beside Feast's {store} store", float(own),
                 float(sum(wrong.values())), "rows", "0", own == 0)
            for store, wrong in self.wrong.items() if store != "ours"
        ]  # fmt: skip

    def beside_duckdb(self) -> Case:
        ours, peer = self.found["ours"].seconds, self.found["duckdb"].seconds
        return Case(f"{self.what}, beside Feast's duckdb store", ours, peer, "s", "ratio <= 1", ours <= peer)

    def memory_cases(self) -> list[Case]:
        ours = self.found["ours"].peak_mb
        return [
            Case(f"{self.what}: memory, beside Feast's {store} store", ours, peer.peak_mb, "MB", "shown",
                 met=True)
            for store, peer in self.found.items() if store != "ours"
        ]  # fmt: skip
