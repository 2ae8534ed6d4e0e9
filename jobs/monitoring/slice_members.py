"""Which slices each row is in, so that all slices of a column are counted at once.

In: the reference's rows and the day's, slices of a contract. Out: `Members`: rows that lie in the same slices
share a code. Slices overlap, and there are far fewer codes than rows: a column is counted once by code, and a
slice's counts are the sum over its codes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from jobs.evaluation.slices import SLICES
from jobs.monitoring.statistics import Floats

Places = npt.NDArray[np.int64]
Sizes = tuple[int, int]


class Members(NamedTuple):
    """The slices of the rows of both sides."""

    names: tuple[str, ...]
    inside: Floats  # [slices, codes] 1 where rows of the code lie in the slice
    reference: Places  # [rows] the code of each
    current: Places

    @property
    def codes(self) -> int:
        return int(self.inside.shape[1])


def members_of(
    reference: pd.DataFrame, current: pd.DataFrame, slices: Sequence[str], minimum: int
) -> tuple[Members, dict[str, Sizes]]:
    """The slices with at least `minimum` rows on both sides, and the rows of those without."""
    sides = [np.zeros(len(rows), dtype=np.int64) for rows in (reference, current)]
    names: list[str] = []
    small: dict[str, Sizes] = {}
    for name in slices:
        masks = [SLICES[name](rows).to_numpy(np.bool_) for rows in (reference, current)]
        sizes = int(masks[0].sum()), int(masks[1].sum())
        if min(sizes) < minimum:
            small[name] = sizes
            continue
        for bits, mask in zip(sides, masks, strict=True):
            bits |= mask.astype(np.int64) << len(names)
        names.append(name)
    there = np.bincount(np.concatenate(sides), minlength=1 << len(names)) > 0
    codes = np.cumsum(there) - 1  # of those that any row has
    inside = (np.flatnonzero(there) >> np.arange(len(names))[:, None]) & 1
    return Members(tuple(names), inside.astype(np.float64), codes[sides[0]], codes[sides[1]]), small


def crossed(*codes: tuple[Places, int]) -> Floats:
    """Counts of rows by several codes at once: an axis for each (code of each row, how many codes)."""
    sizes = [size for _, size in codes]
    flat = codes[0][0]
    for each, size in codes[1:]:
        flat = flat * size + each
    return np.bincount(flat, minlength=int(np.prod(sizes))).reshape(sizes).astype(np.float64)
