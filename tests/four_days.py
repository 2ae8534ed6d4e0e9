"""An installation with four ingested days."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.conf.settings import Settings
from tests.backfill_support import DAYS, copied, numbered, settings_in
from tests.data_support import ingest_day, label_day, put_labels, put_transactions


@pytest.fixture(scope="session")
def four_days(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four days of both feeds, published one after another: built once, copied for each test."""
    folder = tmp_path_factory.mktemp("four_days")
    home = settings_in(folder)
    for day in DAYS:
        put_transactions(home, numbered(day), day)
        put_labels(home, [f"{(day - DAYS[0]).days * 1000 + 1},{day}T09:00:00Z,1"], day)
        ingest_day(home, day)
        label_day(home, day)
    return folder


@pytest.fixture
def ingested(four_days: Path, tmp_path: Path) -> Settings:
    """An installation with the four days."""
    return copied(four_days, tmp_path / "copy")
