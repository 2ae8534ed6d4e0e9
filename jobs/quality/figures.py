"""The figures of a day that the rules about the day judge: volume, freshness, distribution.

In: what was read of the file, and what is published. Out: name -> figure, None where it is unknown. It is
unknown only while there is too little history; with history a file without a usable value has a shift beyond
all bounds. The shift is PSI over quantile bins of the reference with open ends (monitoring.statistics), less
what chance alone explains: the expectation of PSI without a shift plus three of its standard deviations
(Yurdakul and Naranjo, 2020: about chi-square, scaled by the sizes).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import date, timedelta
from statistics import median
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from jobs.conf.policy import Drift, Quality
from jobs.core import midnight
from jobs.lake.store import Lake
from jobs.lake.tables import TRANSACTIONS
from jobs.monitoring.statistics import expected_psi, population_stability_index

Floats = NDArray[np.float64]
SAMPLE_ROWS = 200_000  # of the file
REFERENCE_ROWS = 20_000  # of each published day
READ_ROWS = 2_000_000  # published rows that are held at once, about
STANDARD_DEVIATIONS = 3.0
ROWS_PER_BIN = 20
NO_VALUES = 1e9  # stands for an infinite shift: no file has one so large


class Sample(NamedTuple):
    """Amounts in minor units and hours of the day, of some rows."""

    amount_minor: Floats
    hour: Floats


class Sampler:
    """Every so-manieth good row of the file's own day, and the newest instant of all good rows."""

    def __init__(self, day: date, rows: int) -> None:
        self._day = day
        self._every = max(1, math.ceil(rows / SAMPLE_ROWS))
        self._parts: list[Sample] = []
        self._newest: int | None = None

    def add(self, good: pa.RecordBatch) -> None:
        """Take what is needed of some good rows."""
        if not len(good):
            return
        # late rows count: a file that has nothing else is an older day's, and not fresh
        newest = int(pc.max(good["event_time"].cast(pa.int64())).as_py())
        self._newest = newest if self._newest is None else max(newest, self._newest)
        own = good.filter(pc.equal(good["day"], pa.scalar(self._day)))
        self._parts.append(sample_of(own["amount_minor"], own["event_time"], self._every))

    def sample(self) -> Sample:
        return joined(self._parts)

    def newest_event_age_hours(self) -> float | None:
        """Hours from the newest event to the end of the day; None without a row."""
        if self._newest is None:
            return None
        end = midnight(self._day + timedelta(days=1)).timestamp()
        return (end - self._newest / 1e6) / 3600.0


def sample_of(amounts: pa.Array, instants: pa.Array, every: int) -> Sample:
    """Every so-manieth row."""
    moments = instants.cast(pa.int64()).to_numpy(zero_copy_only=False)[::every]
    return Sample(
        amounts.to_numpy(zero_copy_only=False)[::every].astype(np.float64),
        (moments % 86_400_000_000 // 3_600_000_000).astype(np.float64),
    )


def joined(parts: list[Sample]) -> Sample:
    empty = np.empty(0, dtype=np.float64)
    if not parts:
        return Sample(empty, empty)
    return Sample(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def spans(first: date, last: date, rows_per_day: int) -> Iterator[tuple[date, date]]:
    """[first, last] in pieces of a week at most, fewer days where days are large."""
    length = max(1, min(7, READ_ROWS // max(1, rows_per_day)))
    while first <= last:
        end = min(last, first + timedelta(days=length - 1))
        yield first, end
        first = end + timedelta(days=1)


def reference_of(lake: Lake, day: date, days: int, rows_per_day: int) -> tuple[Sample, int]:
    """A sample of the published rows of the days before, and how many days' files have brought rows."""
    parts: list[Sample] = []
    found: set[date] = set()
    columns = ["day", "file_day", "amount_minor", "event_time"]
    for first, last in spans(day - timedelta(days=days), day - timedelta(days=1), rows_per_day):
        rows = lake.read(TRANSACTIONS, first=first, last=last, columns=columns)
        if not len(rows):
            continue
        present = rows["day"].unique().to_pylist()
        found.update(delivered_days(rows))
        every = max(1, math.ceil(len(rows) / len(present) / REFERENCE_ROWS))
        parts.append(sample_of(rows["amount_minor"], rows["event_time"], every))
    return joined(parts), len(found)


def delivered_days(rows: pa.Table) -> list[date]:
    """Days whose own file has brought rows: a few late ones are not the day. Needs day and file_day."""
    own = rows.filter(pc.equal(rows["day"], rows["file_day"]))
    days: list[date] = own["day"].unique().to_pylist()
    return days


def shift(reference: Floats, current: Floats, drift: Drift) -> float:
    """PSI beyond chance; 0 where chance explains all of it. Few rows get few bins: an empty one says much."""
    bins = max(2, min(drift.bins, len(current) // ROWS_PER_BIN))
    psi = population_stability_index(reference, current, bins, drift.bin_floor)
    if math.isnan(psi):
        return NO_VALUES
    chance = expected_psi(bins, len(reference), len(current))
    deviation = chance * math.sqrt(2.0 / (bins - 1))
    return max(0.0, psi - chance - STANDARD_DEVIATIONS * deviation)


def distribution_figures(
    sample: Sample, reference: Sample, reference_days: int, quality: Quality, drift: Drift
) -> dict[str, float | None]:
    """How far amounts and hours lie from the four weeks before; None while there is too little history."""
    enough = (
        reference_days >= quality.distribution_days_min
        and len(reference.hour) >= quality.distribution_rows_min
    )
    return {
        f"{name}_psi": shift(getattr(reference, name), getattr(sample, name), drift) if enough else None
        for name in Sample._fields
    }


def volume_figures(
    rows: int, same_weekdays: list[int], usual: int, quality: Quality
) -> dict[str, float | None]:
    """Rows over the median of the same weekdays; over the contract's figure while there are none."""
    base = float(median(same_weekdays)) if same_weekdays else float(usual)
    share = rows / base if base else None
    known = len(same_weekdays) >= quality.volume_weeks_min
    return {"volume_share": share, "known_volume_share": share if known else None}
