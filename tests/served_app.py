"""The scoring service in this process over HTTP, serving what a test says, for the tests of its answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from jobs.conf.policy import Policy, load_policy
from jobs.conf.settings import Settings
from jobs.lake.store import lake_of
from jobs.lake.tables import PREDICTIONS
from jobs.serving.app import Service, create_app
from jobs.serving.bundle import ModelBundle
from jobs.serving.follower import ServingState
from jobs.serving.loading import ServedModel
from jobs.serving.routing import in_canary
from tests.served_bundles import PlainFeatures, write_bundle

NAMES = PlainFeatures.names
POLICY = load_policy()
SALT = POLICY.canary.salt
IN_5 = next(number for number in range(1000) if in_canary(number, 5, SALT))
NOT_IN_50 = next(number for number in range(1000) if not in_canary(number, 50, SALT))
MakeModel = Callable[..., ServedModel]


@pytest.fixture
def model(tmp_path: Path) -> MakeModel:
    """Makes served models out of graphs."""

    def make(version: str, graph: Any, second: Any = None) -> ServedModel:
        folder = write_bundle(tmp_path / f"bundle-{version}", NAMES, graph, second)
        return ServedModel(version, ModelBundle.load(folder, POLICY.decisions))

    return make


@contextmanager
def served(
    home: Settings, state: ServingState, token: str = "", policy: Policy = POLICY
) -> Iterator[tuple[TestClient, Service, PlainFeatures]]:
    """The service with this state; MLflow is not there, so nothing changes it."""
    features = PlainFeatures()
    settings = home.model_copy(update={"mlflow_uri": "http://127.0.0.1:9"})
    app = create_app(settings, token=token, policy=policy, features=features)
    with TestClient(app) as client:
        service: Service = app.state.service
        service.follower.state = state
        yield client, service, features


def transaction(**changes: Any) -> dict[str, Any]:
    return {
        "transaction_id": 11,
        "event_time": "2026-01-31T12:00:00Z",
        "customer_id": NOT_IN_50,
        "terminal_id": 4,
        "amount_minor": 100,
    } | changes


def logged(home: Settings) -> list[dict[str, Any]]:
    """The prediction log after the service has stopped."""
    rows: list[dict[str, Any]] = lake_of(home).read(PREDICTIONS).to_pylist()
    return sorted(rows, key=lambda row: (row["transaction_id"], row["variant"]))


def failing(values: list[float]) -> float:
    raise RuntimeError("the graph broke")


def never_a_number(values: list[float]) -> float:
    return float("nan")


def policy_with(section: str, **changes: Any) -> Policy:
    """The policy with other values in one section."""
    return POLICY.model_copy(update={section: getattr(POLICY, section).model_copy(update=changes)})
