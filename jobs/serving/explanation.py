"""Reason codes: what moved the score of one transaction most, for the people who have to act on it.

In: a served bundle and one row of its features. Out: contributions in log-odds of the boosted trees' raw
score, which calibration keeps in order and in which the second model has no part. Exact Shapley values where
the bundle holds its trees (jobs/serving/tree_reasons.py); for a bundle without them what the score loses when
the feature goes missing, which leaves out what features do together.
Errors: SluiceError where the bundle's trees or its graph cannot be read.
"""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import onnxruntime

from jobs.features.declarations import FEATURES
from jobs.serving.bundle import INPUT, OUTPUT, XGBOOST, ModelBundle
from jobs.serving.messages import Reason
from jobs.serving.tree_reasons import TREES, Trees

KEPT = 4  # as many as there are loaded models
DESCRIPTIONS = {feature.name: feature.description for feature in FEATURES}
SURE = 1e-7  # a probability nearer to 0 or 1 than this has no finite log-odds worth telling
Method = Literal["tree_shap", "occlusion"]
Floats = npt.NDArray[np.float64]


class Moved(NamedTuple):
    """Contributions [features] of a row, which with the base make its margin."""

    method: Method
    base: float
    margin: float
    contributions: Floats


class _ByTrees:
    def __init__(self, bundle: ModelBundle) -> None:
        self._trees = Trees.load(bundle.folder / TREES)

    def moved(self, values: list[float]) -> Moved:
        parts, base = self._trees.contributions(np.asarray(values, dtype=np.float32))
        return Moved("tree_shap", base, base + float(parts.sum()), parts)


class _ByGaps:
    def __init__(self, bundle: ModelBundle) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(
            str(bundle.folder / XGBOOST), options, providers=["CPUExecutionProvider"]
        )

    def moved(self, values: list[float]) -> Moved:
        count = len(values)
        rows = np.tile(np.asarray(values, dtype=np.float32), (count + 2, 1))
        rows[np.arange(count), np.arange(count)] = np.nan
        rows[count + 1] = np.nan
        raw = self._session.run([OUTPUT], {INPUT: rows})[0].reshape(-1).astype(np.float64)
        sure = np.clip(raw, SURE, 1 - SURE)
        margins = np.log(sure / (1 - sure))
        return Moved("occlusion", float(margins[-1]), float(margins[count]), margins[count] - margins[:count])


class Explainer:
    """Explains scores of the bundles that are served; safe to share between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ready: OrderedDict[str, _ByTrees | _ByGaps] = OrderedDict()

    def moved(self, bundle: ModelBundle, values: list[float]) -> Moved:
        """What moved the score of a row of the bundle's features."""
        key = str(bundle.folder)
        with self._lock:
            found = self._ready.get(key)
            if found is None:
                has_trees = TREES in bundle.version_info.files
                found = self._ready[key] = _ByTrees(bundle) if has_trees else _ByGaps(bundle)
                while len(self._ready) > KEPT:
                    self._ready.popitem(last=False)
            else:
                self._ready.move_to_end(key)
        return found.moved(values)


def reasons_of(moved: Moved, names: tuple[str, ...], values: list[float], most: int) -> list[Reason]:
    """The largest contributions, the largest first; none that moves nothing."""
    order = np.argsort(-np.abs(moved.contributions), kind="stable")[:most]
    return [
        _reason(names[place], values[place], float(moved.contributions[place]))
        for place in order
        if moved.contributions[place] != 0
    ]


def _reason(name: str, value: float, part: float) -> Reason:
    known = math.isfinite(value)
    shown = "missing" if not known else f"{value:.0f}" if value == round(value) else f"{value:.4g}"
    direction = "raises" if part > 0 else "lowers"
    return Reason(
        code=name.upper(),
        feature=name,
        value=value if known else None,
        contribution=round(part, 6),
        text=f"{DESCRIPTIONS.get(name, name)}: {shown}; {direction} the score",
    )
