"""A prediction log in a folder of its own, its rows written out, and what can happen to it."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jobs.conf.policy import PredictionLogLimits
from jobs.conf.settings import Settings
from jobs.lake.store import Lake, lake_of
from jobs.lake.tables import PREDICTIONS
from jobs.serving.prediction_log import Prediction, PredictionLog, spool_of

NOON = datetime(2026, 1, 31, 12, 0, 0, 123456, tzinfo=UTC)
LIMITS = PredictionLogLimits(append_seconds=60.0, spool_mb=16)


def log_of(home: Settings, lake: Lake | None = None) -> PredictionLog:
    return PredictionLog(lake or lake_of(home), spool_of(home.home), LIMITS)


def killed(log: PredictionLog) -> None:
    """What the kernel does for a process that was killed: its files stay, its lock is free."""
    folder = log._spool._folder
    if folder is not None:
        os.close(folder._lock)


def prediction(number: int, event_time: datetime, **changes: Any) -> Prediction:
    row = Prediction(
        request_id=f"request-{number}",
        transaction_id=number,
        event_time=event_time,
        customer_id=1,
        terminal_id=2,
        amount_minor=300,
        model_version="4",
        variant="champion",
        step="",
        score=0.25,
        decision="approve",
        rule="",
        error="",
        latency_ms=1.5,
        served_at=1_800_000_000.25,
        names=("amount", "risk"),
        features=[3.0, math.nan],
        feature_version="v1",
    )
    return row._replace(**changes)


def put(log: PredictionLog, *numbers: int) -> None:
    for number in numbers:
        log.put(prediction(number, NOON))


def landed(home: Settings) -> list[int]:
    """Numbers of the rows in the lake, one for each row."""
    return sorted(lake_of(home).read(PREDICTIONS)["transaction_id"].to_pylist())


def segments(home: Settings) -> list[Path]:
    return sorted(spool_of(home.home).glob("*/*.rows"))


def lake_down(home: Settings) -> Callable[[], None]:
    """A file where the lake's folder should be, until the returned function is called."""
    place = Path(home.lake)
    away = place.with_name("lake-away")
    place.parent.mkdir(parents=True, exist_ok=True)
    if place.is_dir():
        place.rename(away)
    place.write_text("a file where the folder should be")

    def up() -> None:
        place.unlink()
        if away.is_dir():
            away.rename(place)

    return up
