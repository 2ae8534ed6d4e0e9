"""A day's work in pieces that survive the death of the process.

In: a folder, the plan of a day: slices of its time and what the work depends on. Out: one Parquet file per
slice.
work/scores/DAY/     plan.json               what the pieces were made from; another plan throws them away
chunk-00000.parquet …   there only when they are whole A slice is half-open in time and has about as many
rows as asked for (more where one second has more), so that memory is bounded by it; rows of one moment stay
together.
Errors: SluiceError where a transaction lies outside its day.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from datetime import date, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import ValidationError

from jobs.core import SluiceError, StrictModel, midnight
from jobs.files import replacing, write_whole
from jobs.lake.store import Lake
from jobs.lake.tables import TIMESTAMP, TRANSACTIONS

SECONDS = 86_400


class Slice(StrictModel):
    """A part of the day, [start, end), and how many transactions it has."""

    start: datetime
    end: datetime
    rows: int


class Plan(StrictModel):
    """The pieces, and a digest of all that their contents depend on."""

    inputs: str
    slices: tuple[Slice, ...]


def slices_of(lake: Lake, day: date, chunk_rows: int) -> tuple[Slice, ...]:
    """The day's transactions in slices of at most `chunk_rows`, except where one second has more."""
    counts, start = np.zeros(SECONDS, dtype=np.int64), midnight(day)
    for batch in lake.scan(TRANSACTIONS, first=day, last=day, columns=["event_time"]):
        moments = batch["event_time"].cast(pa.int64()).to_numpy() // 1_000_000 - int(start.timestamp())
        if len(moments) and not 0 <= moments.min() <= moments.max() < SECONDS:
            raise SluiceError(
                f"transactions of {day}: one happened on another day; run fraud_ingest for it again"
            )
        counts += np.bincount(moments, minlength=SECONDS)
    found: list[Slice] = []
    begin, rows = 0, 0
    for second in np.flatnonzero(counts):
        if rows and rows + counts[second] > chunk_rows:
            found.append(_slice(start, begin, int(second), rows))
            begin, rows = int(second), 0
        rows += int(counts[second])
    return (*found, _slice(start, begin, SECONDS, rows)) if rows else ()


def _slice(start: datetime, begin: int, end: int, rows: int) -> Slice:
    return Slice(start=start + timedelta(seconds=begin), end=start + timedelta(seconds=end), rows=rows)


def events_of(lake: Lake, day: date, part: Slice, columns: list[str]) -> pd.DataFrame:
    """The transactions of one slice; nothing else of the day is held in memory."""
    low, high = (pa.scalar(moment, TIMESTAMP) for moment in (part.start, part.end))
    with lake.explained(TRANSACTIONS):
        files = lake.delta(TRANSACTIONS).to_pyarrow_dataset(file_pruning_predicate=[("day", "=", str(day))])
        inside = (pc.field("day") == pa.scalar(day)) & (pc.field("event_time") >= low)
        rows = files.to_table(columns=columns, filter=inside & (pc.field("event_time") < high))
    if rows.num_rows != part.rows:
        raise SluiceError(f"transactions of {day}: {part.rows} rows were counted, {rows.num_rows} came back")
    return pd.DataFrame(rows.to_pandas())


class Pieces:
    """The folder of a day's pieces, made for one plan."""

    def __init__(self, folder: Path, plan: Plan, schema: pa.Schema) -> None:
        self.folder, self.plan, self._schema = folder, plan, schema
        if self._kept_plan() != plan:
            shutil.rmtree(folder, ignore_errors=True)
            write_whole(folder / "plan.json", plan.model_dump_json())

    def _kept_plan(self) -> Plan | None:
        try:
            return Plan.model_validate_json((self.folder / "plan.json").read_text())
        except (FileNotFoundError, ValidationError):
            return None

    def missing(self) -> list[int]:
        """Slices that have no whole piece yet."""
        return [number for number in range(len(self.plan.slices)) if not self._is_whole(number)]

    def write(self, number: int, rows: pa.Table) -> None:
        """Keep a piece; it is there only when it is whole."""
        with replacing(self._file(number)) as temporary:
            pq.write_table(rows, temporary)

    def batches(self) -> Iterator[pa.RecordBatch]:
        """All pieces in order, one at a time."""
        for number in range(len(self.plan.slices)):
            yield from pq.read_table(self._file(number), schema=self._schema).to_batches()

    def drop(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def _file(self, number: int) -> Path:
        return self.folder / f"chunk-{number:05}.parquet"

    def _is_whole(self, number: int) -> bool:
        try:
            found: int = pq.read_metadata(self._file(number)).num_rows
        except (FileNotFoundError, pa.ArrowInvalid):
            return False
        return found == self.plan.slices[number].rows
