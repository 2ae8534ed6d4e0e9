"""What is staged against what production has: rows, keys, values and distributions. Frames in, figures out.

In: the rows of one partition on both sides, one partition at a time. Out: `PartitionDifference` for each
partition, `Shift` for each column whose distribution may not move, and the checks of one table.
A key is added or removed where only one side has it, changed where both have it with other values.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from jobs.backfill.recipes import HOUR, Rewritten
from jobs.conf.policy import Backfill, Drift
from jobs.core import Check, Outcome, StrictModel
from jobs.lake.store import content_digest
from jobs.lake.tables import Table
from jobs.monitoring.statistics import population_stability_index

Floats = npt.NDArray[np.float64]
HISTOGRAM_BINS = 24


class PartitionDifference(StrictModel):
    """One partition before and after."""

    partition: str
    rows_before: int
    rows_after: int
    added: int
    removed: int
    changed: int
    repeated: int  # surplus rows of one key among those staged
    digest_before: str  # empty where production has no rows of it
    digest_after: str

    @property
    def equal(self) -> bool:
        return self.digest_before == self.digest_after


class Shift(StrictModel):
    """One column's distribution over all days that production has, before and after."""

    column: str
    psi: float | None  # None: too few rows, or none, to say anything
    before: tuple[int, ...]  # counts in equal bins of [low, high]
    after: tuple[int, ...]
    low: float
    high: float


class TableDifference(StrictModel):
    """One table before and after."""

    table: str
    decides: bool
    partitions: tuple[PartitionDifference, ...]
    shifts: tuple[Shift, ...]


@dataclass
class Columns:
    """Values of the columns whose distribution is compared, collected partition by partition."""

    names: tuple[str, ...]
    before: dict[str, list[Floats]] = field(default_factory=dict)
    after: dict[str, list[Floats]] = field(default_factory=dict)

    def collect(self, before: pa.Table, after: pa.Table) -> None:
        """Add both sides of one partition; a day that production lacks has nothing to be compared with."""
        if not len(before):
            return
        for name in self.names:
            self.before.setdefault(name, []).append(values_of(before, name))
            self.after.setdefault(name, []).append(values_of(after, name))

    def shifts(self, limits: Backfill, drift: Drift) -> tuple[Shift, ...]:
        """The distributions of every column."""
        return tuple(
            shift_of(name, _joined(self.before, name), _joined(self.after, name), limits, drift)
            for name in self.names
        )


def _joined(parts: dict[str, list[Floats]], name: str) -> Floats:
    return np.concatenate([np.empty(0), *parts.get(name, [])])


def values_of(rows: pa.Table, name: str) -> Floats:
    """A column as numbers; `hour of X` is the UTC hour of an instant."""
    column = pc.hour(rows[name.removeprefix(HOUR)]) if name.startswith(HOUR) else rows[name]
    return np.asarray(column.cast(pa.float64()).to_numpy(zero_copy_only=False), dtype=np.float64)


def shift_of(name: str, before: Floats, after: Floats, limits: Backfill, drift: Drift) -> Shift:
    """PSI and histograms of one column."""
    both = np.concatenate([before, after])
    present = both[np.isfinite(both)]
    low, high = (float(present.min()), float(present.max())) if len(present) else (0.0, 0.0)
    edges = np.linspace(low, high if high > low else low + 1.0, HISTOGRAM_BINS + 1)
    psi: float | None = None
    if len(before) == len(after) and np.array_equal(np.sort(before), np.sort(after), equal_nan=True):
        psi = 0.0 if len(before) else None
    elif min(len(before), len(after)) >= limits.minimum_rows:
        psi = population_stability_index(before, after, drift.bins, drift.bin_floor)
    counts = [np.histogram(side[np.isfinite(side)], edges)[0] for side in (before, after)]
    return Shift(
        column=name,
        psi=psi if psi is not None and np.isfinite(psi) else None,
        before=tuple(int(count) for count in counts[0]),
        after=tuple(int(count) for count in counts[1]),
        low=low,
        high=float(edges[-1]),
    )


def difference(table: Table, partition: str, before: pa.Table, after: pa.Table) -> PartitionDifference:
    """One partition before and after."""
    digests = [content_digest(rows) if len(rows) else "" for rows in (before, after)]
    first, second = _rows_by_key(table, before), _rows_by_key(table, after)
    repeated = int(second.index.duplicated().sum())
    first, second = (side[~side.index.duplicated()] for side in (first, second))
    common = first.index.intersection(second.index)
    changed = 0 if digests[0] == digests[1] else int((first[common] != second[common]).sum())
    return PartitionDifference(
        partition=partition,
        rows_before=len(before),
        rows_after=len(after),
        added=len(second) - len(common),
        removed=len(first) - len(common),
        changed=changed,
        repeated=repeated,
        digest_before=digests[0],
        digest_after=digests[1],
    )


def _rows_by_key(table: Table, rows: pa.Table) -> pd.Series[int]:
    """The hash of each row, by the hash of its key."""
    frame = rows.select(sorted(rows.column_names)).to_pandas(date_as_object=False)
    keys = pd.util.hash_pandas_object(frame[list(table.key)], index=False)
    hashes: pd.Series[int] = pd.util.hash_pandas_object(frame, index=False)
    hashes.index = pd.Index(keys.to_numpy())
    return hashes


def checks_of(found: TableDifference, limits: Backfill) -> list[Check]:
    """Every check of one table."""
    name = found.table
    repeated = sum(part.repeated for part in found.partitions)
    checks = [_limit(integrity_name(name), repeated, 0, "surplus rows of one key are staged")]
    if not found.decides:
        return checks
    worst = max(found.partitions, key=_rows_share, default=None)
    if worst is not None:
        detail = f"{worst.partition}: {worst.rows_before} rows become {worst.rows_after}"
        checks.append(_limit(f"{name}: rows", _rows_share(worst), limits.rows_change_max, detail))
    for label, share, limit in (
        ("keys", _keys_share, limits.keys_change_max),
        ("values", _values_share, limits.values_change_max),
    ):
        worst = max(found.partitions, key=share, default=None)
        if worst is not None:
            detail = (
                f"{worst.partition}: {worst.added} added, {worst.removed} removed, {worst.changed} changed"
            )
            checks.append(_limit(f"{name}: {label}", share(worst), limit, detail))
    return [*checks, *_shift_checks(found, limits)]


def _shift_checks(found: TableDifference, limits: Backfill) -> Iterable[Check]:
    for shift in found.shifts:
        name = f"{found.table}: {shift.column}"
        if shift.psi is None:
            detail = f"{name}: fewer than {limits.minimum_rows} rows to compare its distribution"
            yield Check(name=name, outcome=Outcome.INCONCLUSIVE, threshold=limits.psi_max, detail=detail)
        else:
            yield _limit(name, shift.psi, limits.psi_max, "population stability index")


def integrity_name(table: str) -> str:
    """The name of the check that nobody can accept away."""
    return f"{table}: repeated keys"


def _rows_share(part: PartitionDifference) -> float:
    """Change of rows over production's; a day that production lacks takes nothing away."""
    if not part.rows_before:
        return 0.0
    return abs(part.rows_after - part.rows_before) / part.rows_before


def _keys_share(part: PartitionDifference) -> float:
    return (part.added + part.removed) / part.rows_before if part.rows_before else 0.0


def _values_share(part: PartitionDifference) -> float:
    return part.changed / part.rows_before if part.rows_before else 0.0


def _limit(name: str, value: float, threshold: float, detail: str) -> Check:
    passed = value <= threshold
    return Check(
        name=name,
        outcome=Outcome.PASS if passed else Outcome.FAIL,
        value=float(value),
        threshold=float(threshold),
        detail="" if passed else f"{name}: {value:.4g}, allowed {threshold:g} ({detail})",
    )


def columns_of(item: Rewritten) -> Columns:
    """An empty collection for a table."""
    return Columns(item.distributions)
