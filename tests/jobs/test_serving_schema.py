"""Whatever the schema allows, and some of what it does not: the service answers, and as it is documented."""

from __future__ import annotations

import json
from collections.abc import Iterator
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
from jobs.serving.app import create_app
from jobs.serving.bundle import ModelBundle
from jobs.serving.follower import ServedModel, ServingState
from tests.served_bundles import PlainFeatures, logistic_graph, write_bundle

EXAMPLES = 12  # of each endpoint


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The schema of a running service with a model and without a limit that the examples would reach."""
    home: Path = tmp_path_factory.mktemp("schema")
    policy = load_policy()
    policy = policy.model_copy(
        update={"serving": policy.serving.model_copy(update={"requests_per_second": 1_000_000})}
    )
    config = load_settings({"SLUICE_HOME": str(home / "home"), "SLUICE_MLFLOW_URI": "http://127.0.0.1:9"})
    app = create_app(config, policy=policy, features=PlainFeatures())
    bundle = write_bundle(home / "bundle", PlainFeatures.names, logistic_graph({0: 1.0}, -1.0, 3))
    with TestClient(app, raise_server_exceptions=False) as client:
        app.state.service.follower.state = ServingState(ServedModel("3", ModelBundle.load(bundle)))
        assert app.state.service.ready.wait(300)  # MLflow alone takes its time to load
        yield schemathesis.openapi.from_dict(client.get("/openapi.json").json()), client


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
def test_every_answer_is_one_that_the_documentation_names(
    api: tuple[Any, TestClient], method: str, path: str
) -> None:
    """Bodies that the schema allows and, where there is a body, such as it does not."""
    schema, client = api
    operation = schema[path][method]
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
            response = client.request(method, path, content=content, headers=dict(sent["headers"]))
            answers.append(response.status_code)
            case.validate_response(
                response,
                checks=[not_a_server_error, status_code_conformance, response_schema_conformance],
            )

        send()
    assert set(answers) <= {200, 422}
    assert 200 in answers
    assert (422 in answers) == (method == "POST")
