"""An installation with 45 days of tables: made once a session, copied for each test."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from jobs.conf.settings import Settings, load_settings
from tests.frame_data import fill

pytest_plugins = ("tests.spark_server",)


@pytest.fixture(scope="session")
def filled_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("filled")
    fill(load_settings({"SLUICE_HOME": str(folder)}))
    return folder


@pytest.fixture
def filled(home: Settings, filled_home: Path, spark_remote: str) -> Settings:
    """45 days of transactions, features of each day, and chargebacks two days later."""
    shutil.copytree(filled_home, home.home)
    return demo_settings(home, spark_remote)


def demo_settings(home: Settings, spark_remote: str) -> Settings:
    """Settings of such an installation: 45 days are enough for the demo's policy."""
    return home.model_copy(update={"policy_overlay": "demo", "spark_remote": spark_remote})
