"""Whatever happens to the processes and the lake: each row that reached the spool lands exactly once."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pyarrow as pa
from hypothesis import example, given, settings
from hypothesis import strategies as st

from jobs.conf.settings import Settings, load_settings
from jobs.core import SluiceError
from jobs.lake.store import Lake, Once
from jobs.lake.tables import Table
from jobs.serving.prediction_log import PredictionLog
from tests.prediction_log_support import killed, landed, log_of, put, segments

REPLICAS = 2
MOVES = ["put", "put", "spool", "flush", "flush", "crash", "crash in a record", "down", "answer lost", "up"]


class TroubledLake(Lake):
    """A real lake that may refuse an append, or make it and say that it failed."""

    trouble = "up"

    def append(self, table: Table, rows: pa.Table, once: Once | None = None) -> bool:
        if self.trouble == "down":
            raise SluiceError("the lake is down")
        new = super().append(table, rows, once)
        if self.trouble == "answer lost":
            raise SluiceError("the answer to the commit was lost")
        return new


class World:
    """Replicas over one spool and one lake; `owed` are the rows that must land."""

    def __init__(self, home: Settings) -> None:
        self.home = home
        self.lake = TroubledLake(home.lake)
        self.logs = [log_of(home, self.lake) for _ in range(REPLICAS)]
        self.owed: set[int] = set()
        self.count = 0

    def move(self, name: str, replica: int) -> None:
        log = self.logs[replica]
        match name:
            case "put":
                rows = range(self.count, self.count + 3)
                put(log, *rows)
                self.owed.update(rows)
                self.count += 3
            case "spool":
                assert log.spool_waiting()
            case "flush":
                done = log.flush()
                assert done or self.lake.trouble != "up"
                assert not done or log.counters()["waiting"] == 0
            case "crash" | "crash in a record":
                self.crash(log, torn=name == "crash in a record")
                self.logs[replica] = log_of(self.home, self.lake)
            case trouble:
                self.lake.trouble = trouble

    def crash(self, log: PredictionLog, *, torn: bool) -> None:
        self.owed -= {row.transaction_id for row in log._memory}
        half = log._spool._open
        if torn and half is not None:
            half.write(b"\x40\x00\x00\x00half a record")
        killed(log)


@example([("put", 0), ("down", 0), ("flush", 0), ("put", 0)])
@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(MOVES), st.integers(0, REPLICAS - 1)), max_size=14))
def test_each_row_lands_once(moves: list[tuple[str, int]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        world = World(load_settings({"SLUICE_HOME": str(Path(folder) / "home")}))
        for name, replica in moves:
            world.move(name, replica)
        world.lake.trouble = "up"
        for log in [*world.logs, log_of(world.home)]:
            assert log.flush()
        assert landed(world.home) == sorted(world.owed)
        assert segments(world.home) == []
