"""The prediction log as a promotion reads it: one version of the table, a part of it in memory at a time.

In: the lake, instants, a step. Out: frames with COLUMNS, and where in a long step to cut it into such frames.
Times are wall time (`served_at`): the events' own days say nothing about when a model answered.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from datetime import datetime, timedelta
from itertools import pairwise
from math import inf

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from jobs.lake.store import Lake
from jobs.lake.tables import LABELS, PREDICTIONS
from jobs.promotion.look import joined
from jobs.promotion.state import SHADOW_STEP

COLUMNS = ["request_id", "transaction_id", "customer_id", "model_version", "variant", "step", "score",
           "decision", "rule", "error", "latency_ms", "event_time", "served_at"]  # fmt: skip
SHADOW = "shadow"
FEW_BATCHES = {"batch_size": 65_536, "batch_readahead": 2, "fragment_readahead": 4}  # that wait in memory

Counts = npt.NDArray[np.int64]


class StepLog:
    """Rows of promotions, as the log was when this was made.

    Without what is shadowed beside a canary: it would grow between two planned looks.
    """

    def __init__(self, lake: Lake) -> None:
        self._lake = lake
        self._log = None
        if lake.exists(PREDICTIONS):
            with lake.explained(PREDICTIONS):
                self._log = lake.delta(PREDICTIONS).to_pyarrow_dataset()

    def batches(
        self,
        begin: datetime,
        end: datetime | None = None,
        step: str = "",
        columns: list[str] = COLUMNS,
        hours: Collection[int] | None = None,
    ) -> Iterator[pd.DataFrame]:
        """What was served in [begin, end), in some order; `step` and `hours` leave out the other ones.

        Args:
            hours: of the day (UTC), of the payments.
        """
        if self._log is None:
            return
        served_at, kind = pc.field("served_at"), pa.timestamp("us", tz="UTC")
        # the files' own minima and maxima of served_at keep the log's other files closed
        wanted = (served_at >= pa.scalar(begin, kind)) & (pc.field("step") != "")
        wanted &= (pc.field("step") == SHADOW_STEP) | (pc.field("variant") != SHADOW)
        if end is not None:
            wanted &= served_at < pa.scalar(end, kind)
        if step:
            wanted &= pc.field("step") == step
        if hours is not None:
            wanted &= pc.hour(pc.field("event_time")).isin(sorted(hours))
        with self._lake.explained(PREDICTIONS):
            for batch in self._log.to_batches(columns=columns, filter=wanted, **FEW_BATCHES):
                if batch.num_rows:
                    yield batch.to_pandas()

    def between(self, begin: datetime, end: datetime | None = None, step: str = "") -> pd.DataFrame:
        """What was served in [begin, end) as one frame."""
        empty = PREDICTIONS.schema.empty_table().select(COLUMNS).to_pandas()
        return joined(empty, *self.batches(begin, end, step))

    def by_second(self, step: str, begin: datetime, now: datetime, version: str) -> tuple[Counts, Counts]:
        """A step's rows in each second from `begin` on, and how many of them are the version's own answers.

        Own are its shadow scores in the shadow step, and its answers in the others. A row from after now, by
        a clock that is ahead, counts as one of now.
        """
        last = max(int((now - begin).total_seconds()), 0)
        everything, own = np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
        for rows in self.batches(begin, None, step, ["served_at", "model_version", "variant"]):
            passed = (rows["served_at"] - begin).dt.total_seconds().clip(upper=last)
            seconds = passed.to_numpy().astype(np.int64)
            mine = rows["model_version"].eq(version) & (rows["variant"].eq(SHADOW) == (step == SHADOW_STEP))
            everything, own = _added(everything, seconds), _added(own, seconds[mine.to_numpy()])
        return everything, own


def _added(counts: Counts, seconds: Counts) -> Counts:
    """Counts by second, with one more for each of these."""
    more = np.bincount(seconds, minlength=len(counts))
    more[: len(counts)] += counts
    return more


def windows(by_second: Counts, at_most: int) -> list[tuple[float, float]]:
    """Spans of seconds [from, to) with at most so many rows each, or of one second; the last is open."""
    cuts, held = [0.0], 0
    for second in np.flatnonzero(by_second):
        held += int(by_second[second])
        if held > at_most and second > cuts[-1]:
            cuts.append(float(second))
            held = int(by_second[second])
    return list(pairwise([*cuts, inf]))


def known_frauds(lake: Lake, transactions: pd.Series) -> set[int]:
    """Those of the transactions that somebody has disputed by now; a later correction counts."""
    if transactions.empty or not lake.exists(LABELS):
        return set()
    asked = pa.array(transactions.unique(), pa.int64())
    with lake.explained(LABELS):
        labels = lake.delta(LABELS).to_pyarrow_dataset()
        found = labels.to_table(
            columns=["transaction_id", "available_at", "is_fraud"],
            filter=pc.field("transaction_id").isin(asked),
        ).to_pandas()
    latest = found.sort_values("available_at", kind="stable").drop_duplicates("transaction_id", keep="last")
    return {int(number) for number in latest.loc[latest["is_fraud"].eq(1), "transaction_id"]}


def after(begin: datetime, seconds: float) -> datetime | None:
    """The instant so many seconds later; None for never."""
    return None if seconds == inf else begin + timedelta(seconds=seconds)
