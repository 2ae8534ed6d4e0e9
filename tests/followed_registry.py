"""An installation of its own in a shared registry, and what follows it, for the tests of the follower."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from jobs.conf.policy import load_policy
from jobs.conf.settings import Settings
from jobs.serving.follower import Follower
from tests.served_bundles import PlainFeatures, constant_graph, write_bundle

NAMES = PlainFeatures.names
COMPLETED = {"sluice.promotion": "completed"}


@pytest.fixture
def installation(home: Settings, registry: str, request: pytest.FixtureRequest) -> Settings:
    """An installation whose model is its own within the shared registry."""
    return home.model_copy(update={"mlflow_uri": registry, "model_name": request.node.name})


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "bundle", NAMES, constant_graph(0.25, 3))


def follower_of(settings: Settings, version: str = "test") -> Follower:
    return Follower(settings, load_policy(), NAMES, version)


def comes(holds: Callable[[], bool]) -> bool:
    """Whether it holds within seconds."""
    deadline = time.monotonic() + 20
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.02)
    return holds()


def serves(follower: Follower, version: str) -> Callable[[], bool]:
    return lambda: follower.state.champion is not None and follower.state.champion.version == version
