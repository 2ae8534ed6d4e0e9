"""Whatever the schema allows, and some of what it does not: the service answers, and as it is documented.

So does one without a model, without its stores, or without one of them; there an explanation is refused with
503, and nothing else is.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import response_schema_conformance, status_code_conformance
from starlette.testclient import TestClient

from jobs.conf.policy import load_policy
from jobs.conf.settings import load_settings
from jobs.features.declarations import FEATURE_VERSION, MODEL_FEATURES
from jobs.serving.app import create_app
from jobs.serving.bundle import ModelBundle
from jobs.serving.follower import ServingState
from jobs.serving.loading import ServedModel
from tests.served_bundles import logistic_graph, write_bundle

EXAMPLES = int(
    os.environ.get("SCHEMA_EXAMPLES", "12")
)  # of each endpoint and way; `make faults` asks for more
NOWHERE = "127.0.0.1:9"
# what is away -> the reason of an answer by the rules, or with gaps
WORLDS = {
    "nothing": "",
    "model": "no_model",
    "stores": "features_unavailable",
    "velocity": "velocity_unavailable",
}
UNEXPLAINED = ("model", "stores")


@dataclass(frozen=True)
class Api:
    """The schema of a running service, the service, and what it has to do without."""

    schema: Any
    client: TestClient
    away: str


@pytest.fixture(scope="module", params=WORLDS)
def api(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """Without a limit that the examples would reach."""
    folder: Path = tmp_path_factory.mktemp("schema")
    away, home = request.param, folder / "home"
    policy = load_policy()
    policy = policy.model_copy(
        update={"serving": policy.serving.model_copy(update={"requests_per_second": 1_000_000})}
    )
    places = {"SLUICE_HOME": str(home), "SLUICE_MLFLOW_URI": f"http://{NOWHERE}"}
    if away == "stores":
        places |= {"SLUICE_ONLINE_STORE": "redis", "SLUICE_REDIS_URL": NOWHERE}
    if away == "velocity":
        (home / "feast").mkdir(parents=True)
        (home / "feast" / "velocity.db").write_bytes(b"no database at all " * 500)
    app = create_app(load_settings(places), policy=policy)
    model = logistic_graph({0: 1.0}, -1.0, len(MODEL_FEATURES))
    bundle = write_bundle(folder / "bundle", MODEL_FEATURES, model, feature_version=FEATURE_VERSION)
    with TestClient(app, raise_server_exceptions=False) as client:
        champion = None if away == "model" else ServedModel("3", ModelBundle.load(bundle))
        app.state.service.follower.state = ServingState(champion)
        assert app.state.service.ready.wait(300)  # MLflow alone takes its time to load
        yield Api(schemathesis.openapi.from_dict(client.get("/openapi.json").json()), client, away)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/score"),
        ("POST", "/score/batch"),
        ("POST", "/explain"),
        ("GET", "/state"),
        ("GET", "/metrics"),
        ("GET", "/health"),
        ("GET", "/ready"),
    ],
)
def test_every_answer_is_one_that_the_documentation_names(api: Api, method: str, path: str) -> None:
    """Bodies that the schema allows and, where there is a body, such as it does not."""
    operation = api.schema[path][method]
    good = 503 if path == "/explain" and api.away in UNEXPLAINED else 200
    checks = [status_code_conformance, response_schema_conformance]
    checks += [not_a_server_error] if good == 200 else []
    modes = (
        [GenerationMode.POSITIVE, GenerationMode.NEGATIVE] if method == "POST" else [GenerationMode.POSITIVE]
    )
    answers: list[int] = []
    for mode in modes:

        @seed(20260131)
        @settings(
            max_examples=EXAMPLES,
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy(generation_mode=mode))
        def send(case: Any) -> None:
            sent = case.as_transport_kwargs()
            content = sent.get("data")
            if "json" in sent:
                content = json.dumps(sent["json"]).encode("utf-8", "surrogatepass")
            response = api.client.request(method, path, content=content, headers=dict(sent["headers"]))
            answers.append(response.status_code)
            case.validate_response(response, checks=checks)
            if path == "/score" and response.status_code == 200:
                assert response.json()["degraded"] == WORLDS[api.away]

        send()
    assert set(answers) <= {good, 422}
    assert good in answers
    assert (422 in answers) == (method == "POST")
