"""Fixtures that every test may use."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.conf.settings import Settings, load_settings


@pytest.fixture
def home(tmp_path: Path) -> Settings:
    """Settings of an empty installation in a folder of its own."""
    return load_settings(
        {
            "SLUICE_HOME": str(tmp_path / "home"),
            "SLUICE_SOURCE_URI": str(tmp_path / "source" / "transactions"),
            "SLUICE_LABELS_URI": str(tmp_path / "source" / "labels"),
        }
    )
