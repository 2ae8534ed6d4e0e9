"""Exact Shapley values of boosted trees, for one row, with numpy alone.

In: the trees as arrays, in the bundle's file trees.npz, and a float32 row with NaN for gaps. Out: one
contribution per feature in log-odds; with the base they sum to the row's margin. They are the path-dependent
TreeSHAP values (Lundberg et al. 2020) that XGBoost gives with pred_contribs.

A leaf of value v whose path splits on the features 1..d is a product game: a known feature contributes 1 or
0, whether the row takes the path's side, and an unknown one the share z of the training weight that does. The
Shapley value is the integral of the multilinear extension (Owen 1972):
    phi_j = v (o_j - z_j) * integral over t in [0, 1] of the product over k != j of (t o_k + (1 - t) z_k)
The integrand is a polynomial of degree d - 1, so Gauss-Legendre with d / 2 points is exact. All leaves are
handled at once; a shorter path is padded with features of o = z = 1, which change nothing.
Errors: SluiceError where the file is not what it should be.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from jobs.core import SluiceError

TREES = "trees.npz"
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Trees:
    """Every leaf's path, padded to the longest.

    Conditions are the distinct splits of all trees, [c]; a side is a split and one of its directions. Paths
    have one entry per leaf and distinct feature, [leaves, depth]: `first` is the entry's first side, sides of
    one feature lie one after the other in `sides`, [leaves, depth, repeats], with -1 where there is none.
    """

    feature: npt.NDArray[np.int64]  # of each split
    threshold: npt.NDArray[np.float32]  # a row below it goes left
    gaps_left: npt.NDArray[np.bool_]  # where a gap goes
    path_feature: npt.NDArray[np.int64]  # [leaves, depth]; `columns` where the path is shorter
    path_share: Floats  # z, [leaves, depth]
    sides: npt.NDArray[np.int64]  # [leaves, depth, repeats]: 2 * split + direction, or the side always taken
    value: Floats  # [leaves]
    base_score: float  # margin before the first tree
    columns: int

    @classmethod
    def load(cls, path: Path) -> Trees:
        """The trees of a bundle.

        Raises:
            SluiceError: the file is damaged or holds something else.
        """
        try:
            with np.load(path, allow_pickle=False) as stored:
                return paths_of({name: stored[name] for name in stored.files})
        except (OSError, ValueError, KeyError, IndexError, BadZipFile) as error:
            raise SluiceError(f"bundle {path}: no trees that could be explained: {error}") from None

    def contributions(self, row: npt.NDArray[np.float32]) -> tuple[Floats, float]:
        """(contribution of each feature [columns], base) of the margin of a row [columns]."""
        ones = self._taken(row)
        known, share = ones.T, self.path_share.T  # [depth, leaves], each row contiguous
        gained = np.zeros_like(share)
        points, weights = np.polynomial.legendre.leggauss((len(share) + 1) // 2)
        for point, weight in zip((points + 1) / 2, weights / 2, strict=True):
            factors = share + point * (known - share)
            before = np.empty_like(factors)
            before[0] = 1.0
            np.cumprod(factors[:-1], axis=0, out=before[1:])
            after = np.ones_like(factors[0])
            for place in range(len(factors) - 1, -1, -1):
                gained[place] += weight * before[place] * after
                after *= factors[place]
        gained *= (known - share) * self.value
        found: Floats = np.zeros(self.columns + 1)
        np.add.at(found, self.path_feature.T.ravel(), gained.ravel())
        base = self.base_score + float(self.value @ self.path_share.prod(axis=1))
        return found[:-1], base

    def _taken(self, row: npt.NDArray[np.float32]) -> Floats:
        """o of each path's entries, [leaves, depth]."""
        values = row[self.feature]
        left = np.where(np.isnan(values), self.gaps_left, values < self.threshold)
        taken = np.empty(2 * len(left) + 1, dtype=np.bool_)
        taken[0:-1:2], taken[1:-1:2], taken[-1] = left, ~left, True
        ones: Floats = np.all(taken[self.sides], axis=2).astype(np.float64)
        return ones


def paths_of(stored: dict[str, Any]) -> Trees:
    """The paths of trees that are stored node by node.

    Args:
        stored: of all trees, one after the other: `left` and `right` (the child's place among all nodes, -1
            in a leaf), `feature`, `threshold` (the value in a leaf), `gaps_left`, `weight` (of the training
            rows that came by); `roots`, `base_score` and `columns`.
    """
    left, right = stored["left"], stored["right"]
    feature, threshold, weight = stored["feature"], stored["threshold"], stored["weight"].astype(np.float64)
    columns = int(stored["columns"])
    splits = np.flatnonzero(left >= 0)
    number = np.full(len(left), -1)
    number[splits] = np.arange(len(splits))
    always = 2 * len(splits)
    leaves: list[dict[int, tuple[float, list[int]]]] = []
    values: list[float] = []
    waiting: list[tuple[int, dict[int, tuple[float, list[int]]]]] = [
        (int(root), {}) for root in reversed(stored["roots"])
    ]
    while waiting:
        node, path = waiting.pop()
        if left[node] < 0:
            leaves.append(path)
            values.append(float(threshold[node]))
            continue
        for side, child in enumerate((int(left[node]), int(right[node]))):
            share, sides = path.get(int(feature[node]), (1.0, []))
            part = weight[child] / weight[node] if weight[node] > 0 else 0.5
            added = (share * part, [*sides, 2 * int(number[node]) + side])
            waiting.append((child, path | {int(feature[node]): added}))
    depth = max((len(path) for path in leaves), default=0) or 1
    repeats = max((len(sides) for path in leaves for _, sides in path.values()), default=0) or 1
    path_feature = np.full((len(leaves), depth), columns)
    path_share = np.ones((len(leaves), depth))
    sides_of = np.full((len(leaves), depth, repeats), always)
    for place, path in enumerate(leaves):
        for turn, (name, (share, sides)) in enumerate(path.items()):
            path_feature[place, turn] = name
            path_share[place, turn] = share
            sides_of[place, turn, : len(sides)] = sides
    return Trees(
        feature=feature[splits].astype(np.int64),
        threshold=threshold[splits].astype(np.float32),
        gaps_left=stored["gaps_left"][splits].astype(np.bool_),
        path_feature=path_feature,
        path_share=path_share,
        sides=sides_of,
        value=np.asarray(values),
        base_score=float(stored["base_score"]),
        columns=columns,
    )
