"""A backfill with the lake on S3: staged below the lake's address, swapped in, taken back, given up."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from pathlib import Path

import pytest

from jobs.backfill import ledger
from jobs.conf.settings import Settings
from jobs.lake.pins import pinned
from jobs.lake.store import lake_of
from jobs.lake.tables import TRANSACTIONS
from tests.backfill_support import DAYS, ask, contents, numbered, planned, settings_in
from tests.data_support import ingest_day, put_transactions
from tests.lake_server import BUCKET, LakeServer, serve_lake

FIRST, LAST = DAYS[0], DAYS[1]
PREFIX = "payments/tables"
ACCEPTED = "the sender corrected two days"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LakeServer]:
    with serve_lake(tmp_path / "s3") as running:
        for name, value in running.environment().items():
            monkeypatch.setenv(name, value)
        yield running


@pytest.fixture
def on_s3(server: LakeServer, tmp_path: Path) -> Settings:
    """Two days in a lake on S3."""
    home = settings_in(tmp_path).model_copy(update={"lake_uri": f"s3://{BUCKET}/{PREFIX}"})
    for day in (FIRST, LAST):
        put_transactions(home, rows(day, 20), day)
        ingest_day(home, day)
    return home


def rows(day: date, count: int) -> list[str]:
    """So many rows without the copy that later days bring."""
    return numbered(day, count)[:count]


def staged_objects(server: LakeServer, name: str) -> list[str]:
    return server.objects(f"{PREFIX}/_staging/{name}")


def test_days_on_s3_are_staged_swapped_in_taken_back_and_given_up(
    on_s3: Settings, server: LakeServer
) -> None:
    before = contents(on_s3)
    put_transactions(on_s3, rows(FIRST, 21), FIRST)
    name = planned(on_s3, first=FIRST, last=LAST)
    assert staged_objects(server, name) == []
    ask(on_s3, "run", name=name, execute=True)
    assert contents(on_s3) == before
    assert any(file.startswith("transactions/day=2026-01-05/") for file in staged_objects(server, name))
    ask(on_s3, "validate", name=name, accept_differences=ACCEPTED)
    ask(on_s3, "swap", name=name, execute=True, accept_differences=ACCEPTED)
    assert lake_of(on_s3).read(TRANSACTIONS, first=FIRST, last=FIRST).num_rows == 21
    assert staged_objects(server, name) == []
    assert set(pinned(lake_of(on_s3))) == set(before)
    ask(on_s3, "swap", name=name, execute=True, reverse=True)
    assert (contents(on_s3), pinned(lake_of(on_s3))) == (before, {})
    second = planned(on_s3, first=FIRST, last=LAST)
    ask(on_s3, "run", name=second, execute=True)
    assert staged_objects(server, second) != []
    ask(on_s3, "abort", name=second, execute=True)
    assert (staged_objects(server, second), contents(on_s3)) == ([], before)
    states = {entry.name: entry.state for entry in ledger.states(lake_of(on_s3))}
    assert states == {name: "reversed", second: "aborted"}
    assert not (on_s3.home / "lake").exists()
