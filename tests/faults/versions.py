"""Versions to serve: sound ones, and ones that go wrong in a way of their own.

In: a world's settings. Out: registered versions with bundle and test rows, as a training would leave them,
their gate's verdict included: what a canary is for is what the gate did not see.
A spoiled version is sound by day. By night it raises, is slow, gives NaN or is wrong: so it passes its check
and its shadow, and meets customers before anybody knows. One that is always spoiled must not come so far.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import onnxruntime
import pandas as pd
from onnx import TensorProto, helper

from jobs.conf.settings import Settings
from jobs.features.declarations import FEATURE_VERSION, MODEL_FEATURES
from jobs.promotion import state as registry
from jobs.serving.bundle import ModelBundle
from jobs.training.bundle_writer import bundle_digest
from tests.faults.load import drawn
from tests.served_bundles import _model, register, write_bundle

Fault = Literal["raises", "slow", "nan", "miscalibrated", "shuffled_labels"]
FAULTS: tuple[Fault, ...] = ("raises", "slow", "nan", "miscalibrated", "shuffled_labels")
BIAS = -3.0  # a sound version: sigmoid(amount - 3), the amount in major units
SLOW_MS = 30.0
GRID = 192
AMOUNT, NIGHT = MODEL_FEATURES.index("amount"), MODEL_FEATURES.index("is_night")


def graph(
    fault: Fault | None = None,
    *,
    bias: float = BIAS,
    always: bool = False,
    rounds: int = 0,
    finer: float = 0.0,
) -> onnx.ModelProto:
    """probability = sigmoid(amount + finer * sin(100 amount) + bias); at night, or always, spoiled.

    With `finer` it tells amounts apart that the others hold for alike, as a version does that knows more.
    """
    constants: dict[str, object] = {
        "zero": np.float32(0), "bias": np.float32(bias), "dusk": np.float32(-1.0 if always else 0.5),
        "finer": np.float32(finer), "hundred": np.float32(100),
        "amount_place": np.array([AMOUNT]), "night_place": np.array([NIGHT]),
    }  # fmt: skip
    nodes = [
        helper.make_node("IsNaN", ["features"], ["gaps"]),
        helper.make_node("Where", ["gaps", "zero", "features"], ["filled"]),
        helper.make_node("Gather", ["filled", "amount_place"], ["amount"], axis=1),
        helper.make_node("Gather", ["filled", "night_place"], ["night"], axis=1),
        helper.make_node("Greater", ["night", "dusk"], ["at_night"]),
        helper.make_node("Mul", ["amount", "hundred"], ["minor"]),
        helper.make_node("Sin", ["minor"], ["finesse"]),
        helper.make_node("Mul", ["finesse", "finer"], ["more"]),
        helper.make_node("Add", ["amount", "more"], ["known"]),
        helper.make_node("Add", ["known", "bias"], ["logits"]),
        helper.make_node("Sigmoid", ["logits"], ["sound"]),
    ]
    if fault == "slow":
        constants["rounds"] = np.int64(rounds or _rounds())
    spoiled = {None: _sound, "raises": _raising, "slow": _slow, "nan": _nan, "miscalibrated": _shifted,
               "shuffled_labels": _shuffled}[fault]  # fmt: skip
    nodes += spoiled(constants)
    return _model(nodes, constants, len(MODEL_FEATURES))


def _sound(_constants: dict[str, object]) -> list[onnx.NodeProto]:
    return [helper.make_node("Identity", ["sound"], ["probability"])]


def _nan(constants: dict[str, object]) -> list[onnx.NodeProto]:
    constants["nothing"] = np.float32("nan")
    return [helper.make_node("Where", ["at_night", "nothing", "sound"], ["probability"])]


def _raising(constants: dict[str, object]) -> list[onnx.NodeProto]:
    """A look into a table at a place that it does not have."""
    constants |= {"table": np.zeros(1, dtype=np.float32), "far": np.int64(5)}
    return [
        helper.make_node("Cast", ["at_night"], ["place_of_night"], to=TensorProto.INT64),
        helper.make_node("Mul", ["place_of_night", "far"], ["place"]),
        helper.make_node("Gather", ["table", "place"], ["found"]),
        helper.make_node("Add", ["sound", "found"], ["probability"]),
    ]


def _shifted(constants: dict[str, object]) -> list[onnx.NodeProto]:
    constants["shift"] = np.float32(2.5)
    return [
        helper.make_node("Add", ["logits", "shift"], ["shifted_logits"]),
        helper.make_node("Sigmoid", ["shifted_logits"], ["shifted"]),
        helper.make_node("Where", ["at_night", "shifted", "sound"], ["probability"]),
    ]


def _shuffled(constants: dict[str, object]) -> list[onnx.NodeProto]:
    """What is learned from labels without order: the share of frauds, whatever the transaction."""
    constants |= {"share": np.float32(0.09), "noise": np.float32(0.02)}
    return [
        helper.make_node("Sin", ["amount"], ["wave"]),
        helper.make_node("Mul", ["wave", "noise"], ["ripple"]),
        helper.make_node("Add", ["ripple", "share"], ["prevalence"]),
        helper.make_node("Where", ["at_night", "prevalence", "sound"], ["probability"]),
    ]


def _slow(constants: dict[str, object]) -> list[onnx.NodeProto]:
    """So many products of matrices as take SLOW_MS on this machine."""
    constants |= {
        "grid": np.full((GRID, GRID), 1.0 / GRID, dtype=np.float32),
        "go_on": np.bool_(True),
        "nothing": np.float32(0),
    }
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["before", "grid"], ["after"]),
            helper.make_node("Identity", ["go"], ["on"]),
        ],
        "product",
        [
            helper.make_tensor_value_info("number", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("before", TensorProto.FLOAT, [GRID, GRID]),
        ],
        [
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("after", TensorProto.FLOAT, [GRID, GRID]),
        ],
    )
    return [
        helper.make_node("Cast", ["at_night"], ["nights"], to=TensorProto.INT64),
        helper.make_node("ReduceMax", ["nights"], ["any_night"], keepdims=0),
        helper.make_node("Mul", ["any_night", "rounds"], ["trips"]),
        helper.make_node("Loop", ["trips", "go_on", "grid"], ["last"], body=body),
        helper.make_node("ReduceMax", ["last"], ["largest"], keepdims=0),
        helper.make_node("Mul", ["largest", "nothing"], ["added"]),
        helper.make_node("Add", ["sound", "added"], ["probability"]),
    ]


@cache
def _rounds() -> int:
    """Measured by the runtime that serves, on one thread's processor time: other work does not count."""
    trips = 100
    model = graph("slow", rounds=trips)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    night = np.zeros((1, len(MODEL_FEATURES)), dtype=np.float32)
    night[0, NIGHT] = 1
    spent = []
    for _ in range(5):
        start = time.thread_time()
        session.run(None, {"features": night})
        spent.append(time.thread_time() - start)
    return max(round(SLOW_MS / 1000 / min(spent) * trips), 1)


def rows_by_day(rows: int = 2_000) -> pd.DataFrame:
    """Rows as the load sends them by day, so that offline and live scores are alike."""
    frame = pd.DataFrame(0.0, index=range(rows), columns=list(MODEL_FEATURES), dtype=np.float32)
    frame["amount"] = (drawn(11)[1][:rows] / 100).astype(np.float32)
    return frame


def add_version(
    settings: Settings,
    folder: Path,
    model: onnx.ModelProto,
    tags: Mapping[str, str],
    second: onnx.ModelProto | None = None,
) -> str:
    """A version with its bundle and its test rows, judged against the present champion.

    `second` is the model of the borderline band; a sound one where it is absent.
    """
    name = settings.model_name
    bundle = write_bundle(
        folder / f"bundle-{time.time_ns()}",
        MODEL_FEATURES,
        model,
        second or graph(),
        feature_version=FEATURE_VERSION,
    )
    aliases = registry.read_aliases(registry.registry_client(settings), name)
    judged = {
        registry.TAG_GATE: registry.GATE_AUTOMATIC,
        registry.TAG_AUTHOR: "sluice",
        registry.TAG_JUDGED_AGAINST: aliases.get(registry.CHAMPION, ""),
        registry.TAG_BUNDLE_DIGEST: bundle_digest(bundle),
    }
    client, version = register(settings, bundle, judged | dict(tags))
    rows = rows_by_day()
    try:
        scores = ModelBundle.load(bundle).score(rows.to_numpy(dtype=np.float32))
    except Exception:  # always raising: whoever judged it did not see that
        scores = 1 / (1 + np.exp(-(rows["amount"].to_numpy() + BIAS)))
    reference = rows.assign(
        score=scores,
        is_fraud=0,
        amount_minor=100,
        event_time=pd.date_range("2026-01-01", periods=len(rows), freq="min", tz="UTC"),
    )
    file = folder / "reference.parquet"
    reference.to_parquet(file)
    state = registry.read_version(client, name, version)
    assert state is not None
    client.log_artifact(state.run_id, str(file), "reference")
    return version


def offer(settings: Settings, folder: Path, model: onnx.ModelProto) -> str:
    """A version under the alias challenger."""
    version = add_version(settings, folder, model, {})
    registry.move_alias(registry.registry_client(settings), settings.model_name, registry.CHALLENGER, version)
    return version


def crown(settings: Settings, folder: Path, model: onnx.ModelProto) -> str:
    """A version that was promoted before: a completed record, and the alias champion."""
    version = add_version(settings, folder, model, {registry.TAG_PROMOTION: registry.COMPLETED})
    client = registry.registry_client(settings)
    held = registry.read_aliases(client, settings.model_name).get(registry.CHAMPION)
    if held:
        registry.move_alias(client, settings.model_name, registry.PREVIOUS, held)
    registry.move_alias(client, settings.model_name, registry.CHAMPION, version)
    return version
