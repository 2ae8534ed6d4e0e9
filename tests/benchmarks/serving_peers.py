"""What stands beside the scoring service: `mlflow models serve`, `feast serve`, and the framework alone."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from jobs.conf.settings import Settings
from jobs.features.declarations import MODEL_FEATURES
from jobs.features.definitions import ONLINE_SERVICE
from jobs.features.store import ENGINE, OFFLINE_STORE, PROJECT, REDIS_STORE, feast_home
from tests.benchmarks.serving_load import SERVER_CORE, Server, serving
from tests.s3_server import free_port

BIN = Path(sys.executable).parent
FEAST_BODY = json.dumps(
    {"feature_service": ONLINE_SERVICE, "entities": {"customer_id": ["$C"], "terminal_id": ["$L"]}}
).replace('"$C"', "$C").replace('"$L"', "$L")  # fmt: skip


def mlflow_bodies(count: int = 200) -> list[str]:
    """Rows of features as MLflow's server takes them."""
    rows = np.random.default_rng(3).gamma(2.0, 2.0, (count, len(MODEL_FEATURES))).round(4).tolist()
    return [json.dumps({"dataframe_split": {"columns": list(MODEL_FEATURES), "data": [row]}}) for row in rows]


@contextmanager
def mlflow_models_serve(settings: Settings, model: str, log: Path) -> Iterator[Server]:
    """MLflow's own server of the same logged model: this environment, one worker."""
    port = free_port()
    command = [str(BIN / "mlflow"), "models", "serve", "-m", model, "-p", str(port), "-h", "127.0.0.1"]
    command += ["--env-manager", "local", "--workers", "1"]
    environment = {"MLFLOW_TRACKING_URI": settings.mlflow_uri, "PATH": f"{BIN}:/usr/bin:/bin"}
    with serving(command, port, SERVER_CORE, "/ping", environment=environment, log=log) as server:
        yield server


@contextmanager
def feast_serve(settings: Settings, folder: Path, log: Path) -> Iterator[Server]:
    """Feast's own server over the same registry and the same Redis."""
    port = free_port()
    folder.mkdir(exist_ok=True)
    place = folder / "feature_store.yaml"
    place.touch(mode=0o600)  # it holds Redis's password
    place.write_text(
        json.dumps(  # JSON is YAML
            {
                "project": PROJECT,
                "provider": "local",
                "registry": {"registry_type": "file", "path": str(feast_home(settings) / "registry.db")},
                "offline_store": {"type": OFFLINE_STORE},
                "batch_engine": {"type": ENGINE},
                "online_store": {"type": REDIS_STORE, "connection_string": settings.redis_url},
                "entity_key_serialization_version": 3,
            }
        )
    )
    command = [str(BIN / "feast"), "-c", str(folder), "serve", "-h", "127.0.0.1", "-p", str(port)]
    command += ["--workers", "1", "--no-access-log", "--max-requests", "0", "--max-requests-jitter", "0"]
    with serving(command, port, SERVER_CORE, "/health", environment={"FEAST_USAGE": "False"}, log=log) as one:
        yield one


@contextmanager
def framework_alone(bundle: Path, log: Path) -> Iterator[Server]:
    """FastAPI with the same request model and one run of the same graph, and nothing else."""
    port = free_port()
    command = [sys.executable, "-m", "tests.benchmarks.serving_peers", str(bundle), str(port)]
    with serving(command, port, SERVER_CORE, "/health", log=log) as server:
        yield server


def serve_alone(bundle: Path, port: int) -> None:
    import onnxruntime
    import uvicorn
    from fastapi import FastAPI

    from jobs.serving.bundle import INPUT, OUTPUT, XGBOOST
    from jobs.serving.messages import ScoreRequest

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(bundle / XGBOOST), options)
    row = np.zeros((1, len(MODEL_FEATURES)), dtype=np.float32)
    app = FastAPI()

    async def score(request: ScoreRequest) -> dict[str, float]:
        row[0, 0] = request.amount_minor
        return {"score": float(session.run([OUTPUT], {INPUT: row})[0][0])}

    # the file's annotations are texts, and the name ScoreRequest is known in this function only
    score.__annotations__ = {"request": ScoreRequest, "return": dict[str, float]}
    app.post("/score")(score)
    app.get("/health")(lambda: {"status": "alive"})
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning", access_log=False)


if __name__ == "__main__":
    serve_alone(Path(sys.argv[1]), int(sys.argv[2]))
