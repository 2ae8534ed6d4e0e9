"""Writes the folder that is served: the two graphs, their calibration and the sealed manifest.

A bundle is assembled beside its place and moved in as a whole. The fire drills "slow" and "shifted_scores"
break a copy of a bundle that was good when it was evaluated: what they show is caught live, in the canary.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from jobs.core import SluiceError
from jobs.serving.bundle import (
    CALIBRATION,
    INPUT,
    OUTPUT,
    TORCH,
    XGBOOST,
    Calibration,
    Calibrations,
    Manifest,
    file_digest,
    seal_bundle,
    verified_manifest,
)
from jobs.serving.tree_reasons import TREES
from jobs.training.onnx_files import session_of

LIVE_DRILLS = ("slow", "shifted_scores")  # spoil the bundle after its evaluation
SLOW_TARGET_MS = 24.0  # slow beside an honest model, yet within a shadow on a busy machine
SLOW_WIDTH = 32
SHIFT = 0.35  # of the way to certainty: enough to turn approvals into reviews


def write_bundle(
    folder: Path,
    *,
    xgboost: Path,
    torch: Path,
    calibrations: Calibrations,
    features: tuple[str, ...],
    feature_version: str,
    trees: Path | None = None,
    drill: str = "",
    facts: Mapping[str, Any] | None = None,
) -> Manifest:
    """A bundle's folder, whole or not at all; `trees` explain its scores (jobs/training/tree_file.py)."""

    def fill(workshop: Path) -> Manifest:
        if trees is not None:
            shutil.copyfile(trees, workshop / TREES)
        shutil.copyfile(xgboost, workshop / XGBOOST)
        shutil.copyfile(torch, workshop / TORCH)
        (workshop / CALIBRATION).write_text(calibrations.model_dump_json(indent=1))
        return seal_bundle(
            workshop, features=features, feature_version=feature_version, drill=drill, facts=facts
        )

    return _placed(folder, fill)


def copy_with_drill(bundle: Path, folder: Path, drill: str) -> Manifest:
    """The bundle that is registered: the evaluated one, or in a live drill a broken copy of it."""
    manifest = verified_manifest(bundle)
    calibrations = Calibrations.model_validate_json((bundle / CALIBRATION).read_text())
    with tempfile.TemporaryDirectory() as workshop:
        graph = bundle / XGBOOST
        if drill == "slow":
            graph = Path(workshop) / XGBOOST
            graph.write_bytes(slowed(onnx.load(bundle / XGBOOST), len(manifest.features)))
        elif drill == "shifted_scores":
            calibrations = Calibrations(
                xgboost=shifted(calibrations.xgboost), torch=shifted(calibrations.torch)
            )
        return write_bundle(
            folder,
            xgboost=graph,
            torch=bundle / TORCH,
            calibrations=calibrations,
            trees=bundle / TREES if TREES in manifest.files else None,
            features=manifest.features,
            feature_version=manifest.feature_version,
            drill="" if drill == "none" else drill,
            facts=manifest.facts,
        )


def bundle_digest(folder: Path) -> str:
    """Digest of what decides a bundle's scores."""
    return "".join(file_digest(folder / name)[:16] for name in (XGBOOST, TORCH, CALIBRATION))


def shifted(calibration: Calibration) -> Calibration:
    """The same map, every answer moved far towards fraud."""
    return Calibration(
        x=calibration.x, y=tuple(min(1.0, value + SHIFT * (1 - value)) for value in calibration.y)
    )


def slowed(model: onnx.ModelProto, columns: int, target_ms: float = SLOW_TARGET_MS) -> bytes:
    """The same answers, but each call takes about `target_ms` on this machine.

    The number of extra turns is found by measuring: first few, then scaled to the target. The try that comes
    closest counts: beside other work one of them may be off.

    Raises:
        SluiceError: this machine's timing is too uneven to hit the target.
    """
    row = np.zeros((1, columns), dtype=np.float32)
    turns, tries = 2_000, dict[float, bytes]()
    for _ in range(8):
        content = _with_turns(model, turns)
        cost = _typical_ms(content, row)
        if abs(cost - target_ms) < 0.05 * target_ms:
            return content
        tries[cost] = content
        turns = max(1, int(turns * target_ms / cost))
    cost = min(tries, key=lambda each: abs(each - target_ms))
    if 0.9 * target_ms < cost < 1.15 * target_ms:
        return tries[cost]
    raise SluiceError(
        f"fire drill slow: a call takes {cost:.1f} ms after several tries, wanted {target_ms:.0f}; "
        "the machine is too busy, run register_model again"
    )


def _with_turns(model: onnx.ModelProto, turns: int) -> bytes:
    """Append a loop over a small matrix that depends on the answer, and adds nothing to it."""
    slow = onnx.ModelProto()
    slow.CopyFrom(model)
    graph = slow.graph
    for node in graph.node:
        node.output[:] = ["honest" if name == OUTPUT else name for name in node.output]
    generator = np.random.default_rng(0)
    weights = generator.normal(size=(SLOW_WIDTH, SLOW_WIDTH)).astype(np.float32)
    shape = [SLOW_WIDTH, SLOW_WIDTH]
    constants = {
        "slow_weights": helper.make_tensor("slow_weights", TensorProto.FLOAT, shape, weights.ravel()),
        "slow_turns": helper.make_tensor("slow_turns", TensorProto.INT64, [], [turns]),
        "slow_true": helper.make_tensor("slow_true", TensorProto.BOOL, [], [True]),
        "slow_nothing": helper.make_tensor("slow_nothing", TensorProto.FLOAT, [], [0.0]),
    }
    graph.initializer.extend(constants.values())
    state = helper.make_tensor_value_info("state", TensorProto.FLOAT, shape)
    after = helper.make_tensor_value_info("after", TensorProto.FLOAT, shape)
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["state", "slow_weights"], ["product"]),
            helper.make_node("Sin", ["product"], ["after"]),  # bounded, so nothing overflows
            helper.make_node("Identity", ["go_on"], ["go_on_after"]),
        ],
        "turn",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            state,
        ],
        [helper.make_tensor_value_info("go_on_after", TensorProto.BOOL, []), after],
    )
    graph.node.extend(
        [
            helper.make_node("ReduceMean", ["honest"], ["seed"], keepdims=0),
            helper.make_node("Add", ["slow_weights", "seed"], ["start"]),
            helper.make_node("Loop", ["slow_turns", "slow_true", "start"], ["end"], body=body),
            helper.make_node("ReduceMean", ["end"], ["mean"], keepdims=0),
            helper.make_node("Mul", ["mean", "slow_nothing"], ["nothing"]),
            helper.make_node("Add", ["honest", "nothing"], [OUTPUT]),
        ]
    )
    content: bytes = slow.SerializeToString()
    return content


def _typical_ms(content: bytes, row: np.ndarray) -> float:
    """Processor time of the quickest of some calls: what else runs on the machine must not count."""
    session = session_of(content)
    session.run([OUTPUT], {INPUT: row})
    times = []
    for _ in range(9):
        start = time.thread_time()
        session.run([OUTPUT], {INPUT: row})
        times.append(time.thread_time() - start)
    return min(times) * 1000


def _placed(folder: Path, fill: Callable[[Path], Manifest]) -> Manifest:
    folder.parent.mkdir(parents=True, exist_ok=True)
    workshop = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        manifest = fill(workshop / _made(workshop))
        if folder.exists():  # a folder cannot be replaced, so the old one steps aside first
            folder.rename(workshop / "before")
        (workshop / "bundle").rename(folder)
    finally:
        shutil.rmtree(workshop, ignore_errors=True)
    return manifest


def _made(workshop: Path) -> str:
    (workshop / "bundle").mkdir()
    return "bundle"
