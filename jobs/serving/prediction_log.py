"""The prediction log: every answer and every shadow score once, without ever holding up a request.

In: `Prediction`s from the request path. Out: rows of the table `predictions`, partitioned by the event's day.
A row waits in memory for some 100 ms until a thread has written it to the spool (jobs/serving/spool.py), from
where another thread appends it to the lake, a segment at a time, each `append_seconds` or when a segment is
full. Each segment lands once, however often its process or that which takes it over is killed: the table
keeps the name of each in the commit with its rows.
A killed process loses what came in the last LOST_SECONDS, usually far less. A lake that is down lets rows
wait on disk, up to the spool's limit; a disk that is full lets them wait in memory, up to MEMORY_BYTES.
Above either, rows are dropped and counted, and requests go on. A graceful stop writes what waits.
A dead process's segment that cannot be read, or that the lake has refused REFUSALS times while it took
others, is set aside for a person and holds up none behind it.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from jobs.conf.policy import PredictionLogLimits
from jobs.lake.store import Lake, Once
from jobs.lake.tables import PREDICTIONS
from jobs.serving.log_rows import Prediction, encode_usable
from jobs.serving.log_upgrade import current_columns, upgrade
from jobs.serving.spool import REFUSED, UNREADABLE, Segment, SegmentUnreadable, Spool, SpoolFull, abandoned

__all__ = ["Prediction", "PredictionLog", "spool_of"]

LOGGER = logging.getLogger("sluice.serving")
SPOOL_SECONDS = 0.1  # more rows at once cost less processor time each
LOST_SECONDS = 0.5  # answers of a killed process that may be lost; 0.1 s, on a machine that is not busy
MEMORY_BYTES = 64 << 20  # rows that wait for the spool's disk
ROW_BYTES = 5 << 10  # of a row in memory, with a hundred features and the longest error
SEGMENT_BYTES = 8 << 20  # some eight thousand rows: what one append holds in memory
CHUNK = 128  # rows that are encoded before requests get their turn
APPEND_NICENESS = 10  # a tenth of a core where requests want all of it: four times what appends need
ADOPT_SECONDS = 10.0  # between two looks for what dead processes have left
REFUSALS = 5  # of one segment, each while the lake took another one
REFUSED_AT_ONCE = 2  # segments: a lake that refuses so many may be down, and is asked for no more
STOP_SECONDS = 15.0


def spool_of(home: Path) -> Path:
    """Where the rows of an installation's scoring processes wait."""
    return home / "serving" / "spool"


class PredictionLog:
    """A bounded queue, a spool behind it and the lake behind that."""

    def __init__(self, lake: Lake, spool: Path, limits: PredictionLogLimits) -> None:
        self._lake = lake
        self._root = spool
        self._spool = Spool(spool, limits.spool_mb << 20)
        self._append_seconds = limits.append_seconds
        self._capacity = MEMORY_BYTES // ROW_BYTES
        self._memory: list[Prediction] = []
        self._lock = threading.Lock()  # of the memory and the counters: held for microseconds
        self._spooling = threading.Lock()
        self._appending = threading.Lock()
        self._stop = threading.Event()
        self._spooled = threading.Event()  # the spool's thread has ended
        self._full = threading.Event()  # a segment is full
        self._threads: list[threading.Thread] = []
        self._adopted = float("-inf")
        self._upgraded = False
        self._landed = 0  # segments that the lake took
        self._refusals: Counter[str] = Counter()  # of dead processes' segments
        self.queued = 0
        self.written = 0
        self.dropped = 0
        self.recovered = 0
        self.set_aside = 0
        self.last_error = ""

    def put(self, prediction: Prediction) -> None:
        """Hand over one row; never waits for a disk or the lake, never raises."""
        with self._lock:
            self.queued += 1
            if len(self._memory) < self._capacity:
                self._memory.append(prediction)
            else:
                self.dropped += 1

    def counters(self) -> dict[str, int | str]:
        """Since the start: queued = written + waiting + dropped; recovered rows are other processes'."""
        with self._lock:
            return {
                "queued": self.queued,
                "written": self.written,
                "waiting": self.queued - self.written - self.dropped,
                "dropped": self.dropped,
                "recovered": self.recovered,
                "set_aside": self.set_aside,
                "spool_bytes": self._spool.used,
                "last_error": self.last_error,
            }

    def start(self) -> None:
        for name, work in (("prediction-spool", self._work_spool), ("prediction-log", self._work_lake)):
            thread = threading.Thread(target=work, name=name, daemon=True)
            thread.start()
            self._threads.append(thread)

    def stop(self, timeout: float = STOP_SECONDS) -> None:
        """Write what waits, to the lake or else to the spool, where the next start finds it."""
        self._stop.set()
        self._full.set()
        deadline = time.monotonic() + timeout
        for thread in self._threads:
            thread.join(max(deadline - time.monotonic(), 0.0))
        waiting = self.counters()["waiting"]
        if waiting:
            LOGGER.error("prediction log: %s rows wait in %s for the next start", waiting, self._root)

    def flush(self) -> bool:
        """Write all that waits now; False where the disk or the lake refused it."""
        return self.spool_waiting() and self.append_spooled()

    def spool_waiting(self) -> bool:
        """Move the rows in memory to the spool; False where they have to wait."""
        with self._spooling:
            while True:
                with self._lock:
                    batch = self._memory[:CHUNK]
                if not batch:
                    return True
                if not self._write(batch):
                    return False
                with self._lock:
                    del self._memory[: len(batch)]
                time.sleep(0)  # a request that waits for the interpreter gets it now

    def append_spooled(self) -> bool:
        """Append this process's segments, the open one too, and then those of dead ones; False on failure."""
        with self._appending:
            before = self._landed
            done = self._append_closed()
            if done:  # a lake that refuses makes no small segments
                with self._spooling:
                    self._spool.rotate()
                done = self._append_closed() and self._adopt(before)
            with self._spooling:
                self._spool.measure()
            return done

    def _write(self, batch: list[Prediction]) -> bool:
        """Rows into the open segment, or dropped for good; False where the disk has no room now."""
        rows, unusable = encode_usable(batch)
        try:
            if rows is not None:
                self._spool.write(rows)
        except SpoolFull as error:
            unusable = len(batch)
            self._trouble(str(error))
        except OSError as error:
            self._trouble(f"the spool in {self._root} cannot be written: {error.strerror or error}")
            return False
        if unusable:
            with self._lock:
                self.dropped += unusable
            LOGGER.warning("prediction log: %d rows are dropped", unusable)
        if self._spool.size >= SEGMENT_BYTES:
            self._spool.rotate()
            self._full.set()
        return True

    def _append_closed(self) -> bool:
        with self._spooling:
            waiting = self._spool.closed()
        return all(self._append(segment, own=True) for segment in waiting)

    def _append(self, segment: Segment, *, own: bool) -> bool:
        """One segment into the lake, and its file away; False where the lake refused it."""
        try:
            rows, torn = segment.read()
            if torn:
                LOGGER.warning("prediction log: the last %d bytes of %s are torn", torn, segment.path)
            new = False
            if rows is not None:
                self._prepare()
                name = Once(segment.writer, segment.number)
                new = self._lake.append(PREDICTIONS, current_columns(rows), name)
                self._landed += 1
            segment.path.unlink()
        except SegmentUnreadable as error:
            LOGGER.warning("prediction log: %s; it is set aside", error)
            return self._put_aside(segment, UNREADABLE)
        except Exception as error:  # whatever the lake's trouble, requests go on
            self._trouble(str(error))
            return False
        count = rows.num_rows if rows is not None else 0
        with self._lock:
            self.written += count if own else 0
            self.recovered += count if new and not own else 0
            self.last_error = ""
        return True

    def _put_aside(self, segment: Segment, why: str) -> bool:
        try:
            segment.set_aside(why)
        except OSError as error:
            self._trouble(str(error))
            return False
        with self._lock:
            self.set_aside += 1
        return True

    def _prepare(self) -> None:
        """Once a process: a table of an older version takes the columns of this one."""
        if not self._upgraded:
            upgrade(self._lake)
            self._upgraded = True

    def _adopt(self, landed_before: int) -> bool:
        """Append what dead processes have left; False where the lake refused some of it."""
        if time.monotonic() - self._adopted < ADOPT_SECONDS:
            return True
        refused: list[str] = []
        try:
            for folder in abandoned(self._root):
                # in their order: of each writer the table takes none before the last one that it has
                stuck = next((each for each in folder.segments() if not self._take_over(each)), None)
                refused += [str(stuck.path)] if stuck else []
                if len(refused) == REFUSED_AT_ONCE or self._stop.is_set():
                    break
        except OSError as error:
            self._trouble(str(error))
            return False
        if self._landed > landed_before:  # so it is not the lake that is down
            self._refusals.update(refused)
        if not refused:
            self._adopted = time.monotonic()
        return not refused

    def _take_over(self, segment: Segment) -> bool:
        """Append it, or set it aside where it was refused too often; False where it stays."""
        name = str(segment.path)
        if not self._append(segment, own=False):
            if self._refusals[name] < REFUSALS:
                return False
            LOGGER.error(
                "prediction log: the lake takes others and refuses %s of %s always, it is set aside: %s",
                segment.path.name, segment.writer, self.last_error,
            )  # fmt: skip
            if not self._put_aside(segment, REFUSED):
                return False
        self._refusals.pop(name, None)
        return True

    def _trouble(self, text: str) -> None:
        with self._lock:
            known, self.last_error = self.last_error, text[:200]
        if not known:
            LOGGER.warning("prediction log: %s", text)

    def _guarded(self, step: Callable[[], bool]) -> bool:
        """One step of a thread that nothing may end."""
        try:
            return step()
        except Exception as error:
            LOGGER.exception("prediction log: unexpected")
            self._trouble(f"unexpected: {error}")
            return False

    def _work_spool(self) -> None:
        while not self._stop.wait(SPOOL_SECONDS):
            self._guarded(self.spool_waiting)
        self._guarded(self.spool_waiting)
        self._spooled.set()

    def _work_lake(self) -> None:
        # of this thread and those that the lake's library starts from it: requests go first
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), APPEND_NICENESS)
        while not self._stop.is_set():
            self._full.wait(self._append_seconds)
            self._full.clear()
            self._guarded(self.append_spooled)
        self._spooled.wait(STOP_SECONDS)
        for _ in range(3):
            if self._guarded(self.append_spooled):
                break
        with self._spooling:
            self._spool.close()
