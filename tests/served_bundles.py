"""Small served models for tests, written out in full, and a real registry to put them in."""

from __future__ import annotations

import contextlib
import json
import math
import os
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from jobs.conf.settings import Settings
from jobs.features.velocity_store import Event
from jobs.serving.bundle import CALIBRATION, TORCH, XGBOOST, seal_bundle

if TYPE_CHECKING:
    from mlflow import MlflowClient

IDENTITY = {"x": [0.0, 1.0], "y": [0.0, 1.0]}


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An empty registry that the tests of a module share."""
    return registry_in(tmp_path_factory.mktemp("registry"))


def logistic_graph(weights: Mapping[int, float], bias: float, columns: int) -> onnx.ModelProto:
    """probability = sigmoid(bias + sum of weight * feature); a gap counts as 0."""
    matrix = np.zeros((columns, 1), dtype=np.float32)
    for column, weight in weights.items():
        matrix[column, 0] = weight
    nodes = [
        helper.make_node("IsNaN", ["features"], ["gaps"]),
        helper.make_node("Where", ["gaps", "zero", "features"], ["filled"]),
        helper.make_node("MatMul", ["filled", "weights"], ["products"]),
        helper.make_node("Add", ["products", "bias"], ["logits"]),
        helper.make_node("Sigmoid", ["logits"], ["probability"]),
    ]
    return _model(nodes, {"weights": matrix, "bias": np.float32(bias), "zero": np.float32(0)}, columns)


def constant_graph(probability: float, columns: int) -> onnx.ModelProto:
    """The same probability for every row; NaN is possible."""
    nodes = [
        helper.make_node("ReduceMax", ["features"], ["largest"], axes=[1], keepdims=1),
        helper.make_node("IsNaN", ["largest"], ["gap"]),
        helper.make_node("Where", ["gap", "answer", "answer"], ["probability"]),
    ]
    return _model(nodes, {"answer": np.float32(probability)}, columns)


def slow_graph(columns: int, size: int = 256, rounds: int = 24) -> onnx.ModelProto:
    """A constant 0.2 that costs `rounds` products of size x size matrices."""
    grid = np.full((size, size), 1.0 / size, dtype=np.float32)
    nodes = [
        helper.make_node("IsNaN", ["features"], ["gaps"]),
        helper.make_node("Where", ["gaps", "zero", "features"], ["filled"]),
        helper.make_node("ReduceSum", ["filled"], ["total"], keepdims=0),
        helper.make_node("Clip", ["total", "zero", "one"], ["scalar"]),
        helper.make_node("Mul", ["grid", "scalar"], ["step_0"]),
    ]
    for number in range(rounds):
        nodes.append(helper.make_node("MatMul", [f"step_{number}", "grid"], [f"step_{number + 1}"]))
    nodes += [
        helper.make_node("ReduceMax", [f"step_{rounds}"], ["largest"], keepdims=0),
        helper.make_node("Mul", ["largest", "zero"], ["nothing"]),
        helper.make_node("ReduceMax", ["filled"], ["row"], axes=[1], keepdims=1),
        helper.make_node("Mul", ["row", "zero"], ["row_nothing"]),
        helper.make_node("Add", ["row_nothing", "nothing"], ["zeros"]),
        helper.make_node("Add", ["zeros", "answer"], ["probability"]),
    ]
    constants = {"grid": grid, "zero": np.float32(0), "one": np.float32(1), "answer": np.float32(0.2)}
    return _model(nodes, constants, columns)


def write_bundle(
    folder: Path,
    features: tuple[str, ...],
    first: onnx.ModelProto,
    second: onnx.ModelProto | None = None,
    calibration: Mapping[str, Any] | None = None,
    feature_version: str = "test",
) -> Path:
    """A sealed bundle in the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(first, str(folder / XGBOOST))
    onnx.save(second or first, str(folder / TORCH))
    maps = dict(calibration or {"xgboost": IDENTITY, "torch": IDENTITY})
    (folder / CALIBRATION).write_text(json.dumps(maps))
    seal_bundle(folder, features=features, feature_version=feature_version)
    return folder


def _model(nodes: list[onnx.NodeProto], constants: Mapping[str, Any], columns: int) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["rows", columns])],
        [helper.make_tensor_value_info("probability", TensorProto.FLOAT, ["rows", 1])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    onnx.checker.check_model(model)
    return model


def registry_in(folder: Path) -> str:
    """Address of a new, real MLflow registry in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"
    file = folder / "mlflow.db"
    if not file.exists():
        file.write_bytes(_empty_registry())
    return f"sqlite:///{file}"


@cache
def _empty_registry() -> bytes:
    """The file as MLflow makes it: a second of migrations, which each test would pay for."""
    from mlflow import MlflowClient

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "mlflow.db"
        MlflowClient(f"sqlite:///{file}").search_experiments()
        return file.read_bytes()


def artifacts_of(registry: str) -> str | None:
    """Where the artifacts of a registry in a folder lie; a server has a place of its own."""
    if not registry.startswith("sqlite:///"):
        return None
    return (Path(registry.removeprefix("sqlite:///")).parent / "artifacts").as_uri()


def register(
    settings: Settings, bundle: Path, tags: Mapping[str, str] | None = None
) -> tuple[MlflowClient, str]:
    """A version of the settings' model with the bundle among its artifacts."""
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    client = MlflowClient(settings.mlflow_uri, settings.mlflow_uri)
    known = client.get_experiment_by_name("serving")
    experiment = (
        known.experiment_id
        if known
        else client.create_experiment("serving", artifact_location=artifacts_of(settings.mlflow_uri))
    )
    run = client.create_run(experiment)
    client.log_artifacts(run.info.run_id, str(bundle), "model/artifacts/bundle")
    with contextlib.suppress(MlflowException):
        client.create_registered_model(settings.model_name)
    version = client.create_model_version(
        settings.model_name, f"{run.info.artifact_uri}/model", run.info.run_id, tags=dict(tags or {})
    )
    return client, str(version.version)


class PlainFeatures:
    """Features without a store, for tests of what stands behind them: the amount, and two gaps."""

    names = ("amount", "risk", "gap")
    version = "test"

    def __init__(self) -> None:
        self.broken = False
        self.connected = 0
        self.closed = False
        self.asked: list[Event] = []

    def connect(self) -> None:
        self.connected += 1

    async def vector(self, event: Event) -> list[float]:
        self.asked.append(event)
        return await self.peek(event)

    async def peek(self, event: Event) -> list[float]:
        if self.broken:
            raise ConnectionError("the store is down")
        return [event.amount_minor / 100, float(event.terminal_id % 2), math.nan]

    def last_known(self, event: Event) -> list[float] | None:
        return None

    def troubles(self) -> dict[str, str]:
        return {"online": "the store is down" if self.broken else ""}

    def close(self) -> None:
        self.closed = True
