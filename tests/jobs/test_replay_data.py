"""A day that the replay takes in against the jobs of the DAGs, run one by one as a person would."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest

from jobs.conf.settings import Settings, load_settings
from jobs.core import midnight
from jobs.features.declarations import MODEL_FEATURES
from jobs.lake.store import content_digest, lake_of
from jobs.lake.tables import LABELS, MERGED_LABELS, QUARANTINE, TRANSACTIONS
from jobs.replay.data import (
    build,
    delivered,
    join,
    read_vectors,
    run_job,
    take_in_day,
    versions_after,
    write_json,
)
from jobs.replay.view import show

FIRST = date(2026, 1, 1)
DAYS = [FIRST, FIRST + timedelta(days=1)]
TABLES = (TRANSACTIONS, LABELS, MERGED_LABELS, QUARANTINE)


def simulated(tmp_path: Path) -> Settings:
    settings = load_settings(
        {
            "SLUICE_HOME": str(tmp_path / "replayed"),
            "SLUICE_SOURCE_URI": str(tmp_path / "source" / "transactions"),
            "SLUICE_LABELS_URI": str(tmp_path / "source" / "labels"),
        }
    )
    run_job(
        settings,
        "simulate_source",
        {
            "first_day": DAYS[0],
            "last_day": DAYS[-1],
            "destination": settings.source_uri,
            "labels_destination": settings.labels_uri,
            "rows_per_day": 300,
            "broken_day": DAYS[1],
        },
    )
    return settings


def digests(settings: Settings) -> dict[str, str]:
    return {table.name: content_digest(lake_of(settings).read(table)) for table in TABLES}


def test_a_day_is_taken_in_as_the_jobs_take_it_in_one_by_one(tmp_path: Path) -> None:
    replayed = simulated(tmp_path)
    for day in DAYS:
        write_json(replayed.home / "days" / f"{day}.json", take_in_day(replayed, day))
    by_hand = replayed.model_copy(update={"home": tmp_path / "by_hand"})
    for day in DAYS:
        for job in (
            "land_labels", "validate_labels", "merge_labels", "land_transactions",
            "validate_transactions", "quarantine_transactions", "publish_transactions",
        ):  # fmt: skip
            run_job(by_hand, job, {"day": day})
    assert digests(replayed) == digests(by_hand)
    assert lake_of(replayed).read(QUARANTINE).num_rows > 0

    view = replayed.model_copy(update={"home": tmp_path / "view"})
    show(replayed.home / "lake", view.home / "lake", versions_after(replayed.home, FIRST))
    assert lake_of(view).partitions(TRANSACTIONS) == [str(FIRST)]
    known = lake_of(view).read(TRANSACTIONS)
    assert content_digest(known) == content_digest(lake_of(by_hand).read(TRANSACTIONS, last=FIRST))


def brought(settings: Settings, file_day: date, *rows: tuple[int, date]) -> None:
    """What a day's file brings: ids, and the day that each belongs to."""
    for day in {each for _, each in rows}:
        lake = lake_of(settings)
        found = lake.read(TRANSACTIONS, first=day, last=day).to_pylist()
        found += [
            {
                "day": day,
                "transaction_id": number,
                "event_time": midnight(day),
                "customer_id": 1,
                "terminal_id": 1,
                "amount_minor": 100,
                "available_at": midnight(file_day + timedelta(days=1)),
                "file_day": file_day,
            }
            for number, each in rows
            if each == day
        ]
        lake.replace(TRANSACTIONS, pa.Table.from_pylist(found, TRANSACTIONS.schema), day)


def test_a_day_without_its_own_file_is_neither_built_nor_played_though_rows_of_it_came_late(
    home: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    days = [home.first_day + timedelta(days=number) for number in range(3)]
    brought(home, days[0], (1, days[0]))
    brought(home, days[2], (2, days[1]), (3, days[2]), (4, days[2]))
    assert delivered(home, days[0], days[2]) == {days[0]: 1, days[2]: 2}

    built: list[date] = []
    monkeypatch.setattr("jobs.replay.data.run_job", lambda _home, _job, told: built.append(told["day"]))
    build(home, days[2])
    assert set(built) == {days[0], days[2]}

    monkeypatch.setattr("jobs.replay.data.historical_features", without_features)
    join(home, days[0], days[2], lambda _: None)
    assert [len(read_vectors(home, day)) for day in days] == [1, 0, 2]


def without_features(events: pd.DataFrame, _settings: Settings) -> pd.DataFrame:
    return events.assign(**dict.fromkeys(MODEL_FEATURES, 0.0))


def test_vectors_are_joined_again_of_a_day_to_which_rows_came_late_and_of_no_other(
    home: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    days = [home.first_day + timedelta(days=number) for number in range(2)]
    brought(home, days[0], (1, days[0]))
    monkeypatch.setattr("jobs.replay.data.historical_features", without_features)
    joined: list[str] = []
    join(home, days[0], days[0], joined.append)
    brought(home, days[1], (2, days[0]), (3, days[1]))
    for _ in range(2):
        join(home, days[0], days[1], joined.append)
    assert joined == [f"features of {day}" for day in (days[0], *days)]
    assert read_vectors(home, days[0])["transaction_id"].tolist() == [1, 2]
