"""The boosted trees as plain arrays, so that the scoring service can explain a score without XGBoost.

In: a booster. Out: the bundle's trees.npz, as jobs/serving/tree_reasons.py reads it; the same booster gives
the same bytes. The arrays come from XGBoost's own JSON, so the nodes' weights are those it explains by.
Errors: SluiceError for a booster of another kind than trees with numeric splits.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import xgboost

from jobs.core import SluiceError
from jobs.files import replacing

TREES_FILE = "xgboost/trees.npz"


def tree_arrays(booster: xgboost.Booster) -> dict[str, Any]:
    """The booster's nodes, tree after tree."""
    learner = json.loads(bytes(booster.save_raw("json")))["learner"]
    if learner["gradient_booster"]["name"] != "gbtree":
        raise SluiceError(
            f"explanations: a booster of kind {learner['gradient_booster']['name']}, not gbtree"
        )
    parts: dict[str, list[np.ndarray]] = {}
    roots, offset = [], 0
    for tree in learner["gradient_booster"]["model"]["trees"]:
        if tree["categories_nodes"]:
            raise SluiceError("explanations: the booster splits on categories")
        left, right = np.array(tree["left_children"]), np.array(tree["right_children"])
        roots.append(offset)
        for name, values in {
            "left": np.where(left < 0, -1, left + offset),
            "right": np.where(right < 0, -1, right + offset),
            "feature": np.array(tree["split_indices"]),
            "threshold": np.array(tree["split_conditions"], dtype=np.float32),
            "gaps_left": np.array(tree["default_left"], dtype=np.bool_),
            "weight": np.array(tree["sum_hessian"], dtype=np.float32),
        }.items():
            parts.setdefault(name, []).append(values)
        offset += len(left)
    arrays: dict[str, Any] = {name: np.concatenate(values) for name, values in parts.items()}
    for name in ("left", "right", "feature"):
        arrays[name] = arrays[name].astype(np.int32)
    base = learner["learner_model_param"]["base_score"].strip("[]")
    share = float(base)
    return arrays | {
        "roots": np.array(roots, dtype=np.int32),
        "base_score": np.float64(np.log(share / (1 - share))),
        "columns": np.int32(learner["learner_model_param"]["num_feature"]),
    }


def write_trees(booster: xgboost.Booster, path: Path) -> None:
    """Write the booster's trees."""
    with replacing(path) as temporary, temporary.open("wb") as handle:
        np.savez(handle, **tree_arrays(booster))
