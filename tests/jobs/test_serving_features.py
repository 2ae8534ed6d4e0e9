"""The features of a request in the service: what is read and recorded, and what a broken store leaves."""

from __future__ import annotations

import asyncio
import logging
import math
import sqlite3
import struct
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from jobs.conf.contract import contract_of
from jobs.conf.settings import Settings
from jobs.core import SluiceError
from jobs.features.declarations import VELOCITY_FEATURES
from jobs.features.velocity_store import Event
from jobs.serving.request_features import Admission, StoredFeatures
from tests.jobs.test_serving_process import publish_features

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)


def event(number: int, seconds: int = 0, **changes: Any) -> Event:
    """Transaction `number`, so many seconds after noon."""
    values = {"customer_id": 5, "terminal_id": 7, "amount_minor": 20_00} | changes
    return Event(number, NOON + timedelta(seconds=seconds), **values)


@pytest.fixture
def features(home: Settings) -> StoredFeatures:
    source = StoredFeatures(home)
    source.connect()
    return source


def inputs(features: StoredFeatures, asked: Event) -> dict[str, float]:
    return dict(zip(features.names, asyncio.run(features.vector(asked)), strict=True))


def test_an_event_is_in_the_windows_of_those_after_it(features: StoredFeatures) -> None:
    first = inputs(features, event(1))
    second = inputs(features, event(2, 30, amount_minor=40_00))
    third = inputs(features, event(3, 60))
    counts = [each["customer_count_5m"] for each in (first, second, third)]
    assert counts == [0.0, 1.0, 2.0]
    assert (third["customer_amount_mean_5m"], third["customer_seconds_since_last_30d"]) == (30.0, 30.0)
    assert [each["pair_is_new_30d"] for each in (first, second)] == [1.0, 0.0]
    assert (third["velocity_missing"], third["customer_missing"]) == (0.0, 1.0)


@pytest.mark.parametrize(
    "change",
    [{"amount_minor": 0}, {"amount_minor": 20_000_01}, {"amount_minor": 2**63 - 1}, {"terminal_id": 0}],
)
def test_what_the_tables_would_not_take_is_scored_and_counts_in_no_window(
    features: StoredFeatures, change: dict[str, int]
) -> None:
    inputs(features, event(1))
    refused = inputs(features, event(2, 1, **change))
    after = inputs(features, event(3, 2))
    assert refused["customer_count_5m"] == 1.0
    assert after["customer_count_5m"] == 1.0


def test_the_bounds_are_the_contracts_in_minor_units(home: Settings) -> None:
    contract = contract_of(home)
    admission = Admission(contract)
    assert contract.transactions.columns["amount_minor"].minimum == 0.01
    admitted = [
        admission.admits(event(1, amount_minor=amount)) for amount in (0, 1, 29, 20_000_00, 20_000_01)
    ]
    assert admitted == [False, True, True, True, False]
    unbounded = contract.transactions.columns["amount_minor"].model_copy(
        update={"minimum": 0.29, "maximum": None}
    )
    columns = contract.transactions.columns | {"amount_minor": unbounded}
    other = contract.model_copy(
        update={"transactions": contract.transactions.model_copy(update={"columns": columns})}
    )
    admitted = [Admission(other).admits(event(1, amount_minor=amount)) for amount in (28, 29, 2**63 - 1)]
    assert admitted == [False, True, True]


def test_without_the_velocity_store_the_answer_is_there_and_says_so_and_the_store_comes_back(
    home: Settings, features: StoredFeatures, caplog: pytest.LogCaptureFixture
) -> None:
    inputs(features, event(1))
    assert features._velocity is not None
    features._velocity.close()  # whatever breaks it: the next use raises
    with caplog.at_level(logging.WARNING, "sluice.serving"):
        broken = [inputs(features, event(number, number)) for number in range(2, 12)]
    assert {each["velocity_missing"] for each in broken} == {1.0}
    assert all(math.isnan(broken[0][name]) for name in VELOCITY_FEATURES)
    assert broken[0]["amount"] == 20.0
    assert len([record for record in caplog.records if "velocity store" in record.message]) == 1
    features.connect()
    back = inputs(features, event(20, 20))
    assert (back["velocity_missing"], back["customer_count_5m"]) == (0.0, 1.0)


def test_a_velocity_store_that_cannot_be_opened_is_noted_once(
    home: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    folder = home.home / "feast"
    folder.mkdir(parents=True)
    (folder / "velocity.db").write_bytes(b"not a database at all" * 100)
    features = StoredFeatures(home)
    with caplog.at_level(logging.WARNING, "sluice.serving"):
        for _ in range(5):
            features.connect()
            assert inputs(features, event(1))["velocity_missing"] == 1.0
    assert len([record for record in caplog.records if "velocity store" in record.message]) == 1


def test_while_the_online_store_is_down_events_are_still_recorded(features: StoredFeatures) -> None:
    class Broken:
        def read(self, *_: object) -> dict[str, float | None]:
            raise ConnectionError("gone")

    features._reader = Broken()  # type: ignore[assignment]
    with pytest.raises(SluiceError, match="online store: gone"):
        inputs(features, event(1))
    with pytest.raises(SluiceError, match="online store: gone"):
        inputs(features, event(2, 1))
    features.connect()
    assert inputs(features, event(3, 2))["customer_count_5m"] == 2.0


def test_a_restarted_service_knows_what_was_before(home: Settings, features: StoredFeatures) -> None:
    inputs(features, event(1))
    features.close()
    again = StoredFeatures(home)
    again.connect()
    assert inputs(again, event(2, 1))["terminal_count_5m"] == 1.0
    assert (Path(home.home) / "feast" / "velocity.db").exists()


SPOILED = {
    "a time of no calendar": lambda row: row[:8] + struct.pack("<q", 2**62) + row[16:],
    "a time before all others": lambda row: row[:8] + struct.pack("<q", -(2**63)) + row[16:],
    "half of it": lambda row: row[: len(row) // 2],
    "nothing": lambda row: b"",
    "bits": lambda row: bytes(255 - byte for byte in row),
}


@pytest.mark.parametrize("how", SPOILED)
def test_where_one_customers_stored_row_is_spoiled_he_alone_has_none(home: Settings, how: str) -> None:
    publish_features(home)
    features = StoredFeatures(home)
    features.connect()
    reader = features._reader
    assert inputs(features, event(1, terminal_id=5))["customer_amount_mean_7d"] == 2.0
    with sqlite3.connect(home.home / "feast" / "online.db") as other:
        ((table,),) = other.execute("SELECT name FROM sqlite_master WHERE name LIKE '%customer%_rows'")
        ((row,),) = other.execute(f'SELECT row FROM "{table}" WHERE entity = 5')  # noqa: S608
        other.execute(f'UPDATE "{table}" SET row = ? WHERE entity = 5', (SPOILED[how](row),))  # noqa: S608
    spoiled = inputs(features, event(2, 1, terminal_id=5))
    assert (spoiled["customer_missing"], spoiled["terminal_missing"]) == (1.0, 0.0)
    assert features._reader is reader, "the store stays open for all others"
    assert features.troubles()["online"] == ""


@pytest.mark.parametrize("value", ["'a text'", "CAST(x'fffefd' AS TEXT)", "17", "0.5"])
def test_a_stored_row_that_is_no_row_at_all_is_a_gap(home: Settings, value: str) -> None:
    publish_features(home)
    features = StoredFeatures(home)
    features.connect()
    reader = features._reader
    with sqlite3.connect(home.home / "feast" / "online.db") as other:
        ((table,),) = other.execute("SELECT name FROM sqlite_master WHERE name LIKE '%customer%_rows'")
        other.execute(f'UPDATE "{table}" SET row = {value} WHERE entity = 5')  # noqa: S608
    spoiled = inputs(features, event(2, 1, terminal_id=5))
    assert (spoiled["customer_missing"], spoiled["terminal_missing"]) == (1.0, 0.0)
    assert features._reader is reader


@pytest.mark.parametrize("moment", [datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)])
def test_an_event_at_an_end_of_the_calendar_takes_no_store_away_from_the_others(
    home: Settings, moment: datetime
) -> None:
    publish_features(home)
    features = StoredFeatures(home)
    features.connect()
    at_an_end = inputs(features, event(1, terminal_id=5)._replace(event_time=moment))
    assert at_an_end["customer_missing"] == 1.0
    assert features.troubles() == {"online": "", "velocity": ""}
    assert inputs(features, event(2, 1, terminal_id=5))["customer_amount_mean_7d"] == 2.0
