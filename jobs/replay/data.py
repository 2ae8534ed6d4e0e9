"""The data of a replay: every day taken in by the jobs of the DAGs, at the paces of a backfill.

In: the source, from its first day to the replay's last. Out: the tables of an installation of its own, and
vectors/DAY.parquet for each replayed day: its transactions in order of time with the features that serving
would have read, by the point-in-time join that the training frame uses (it equals what is served, see
jobs/monitoring/compare_served.py).
A day is done or not done (days/DAY.json); a run that was killed goes on with the day that it had begun. A day
whose quality gate is closed is not published and has no traffic: its file says why.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import date
from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas as pd

from jobs.backfill.recipes import Pace, recipe_of
from jobs.conf.settings import Settings
from jobs.core import GateClosed, Receipt, days_between
from jobs.features.declarations import MODEL_FEATURES
from jobs.features.history import historical_features
from jobs.files import replacing, write_whole
from jobs.lake.store import lake_of
from jobs.lake.tables import TRANSACTIONS
from jobs.registry import load_job
from jobs.replay.graph import order_of
from jobs.replay.view import CUT

DAILY = ("fraud_labels", "fraud_ingest")
FEATURES = "fraud_features"
EVENT = ["transaction_id", "event_time", "customer_id", "terminal_id", "amount_minor"]
JOINED_DAYS = 5  # joined at once
Progress = Callable[[str], None]


def run_job(settings: Settings, job: str, arguments: dict[str, Any]) -> Receipt:
    """One job with checked arguments, in an installation that is not this process's."""
    module = load_job(job)
    return module.run(module.Params.model_validate(arguments), settings)


def write_json(path: Path, content: object) -> None:
    """A file that is there as a whole or not at all."""
    write_whole(path, json.dumps(content, indent=1, sort_keys=True, default=str) + "\n")


def take_in(settings: Settings, first: date, last: date, progress: Progress) -> None:
    """All tables and features from the source's first day to `last`, vectors from `first`."""
    for day in days_between(settings.first_day, last):
        path = settings.home / "days" / f"{day}.json"
        if not path.exists():
            write_json(path, take_in_day(settings, day))
        progress(f"data of {day}")
    build(settings, last)
    join(settings, first, last, progress)


def take_in_day(settings: Settings, day: date) -> dict[str, Any]:
    """Labels and transactions of one day; what was written, why not, and the tables' versions after it."""
    digests: dict[str, str] = {}
    refused = ""
    for dag in DAILY:
        try:
            for job in order_of(dag):
                digests[job] = run_job(settings, job, {"day": day}).digest
        except GateClosed as closed:
            refused = f"{dag}: {closed.verdict.reason}"
    lake = lake_of(settings)
    versions = {table.name: lake.version(table) for table in CUT}
    return {"day": str(day), "digests": digests, "refused": refused, "versions": versions}


def versions_after(data_home: Path, day: date) -> dict[str, int]:
    """The version of each table once a day was taken in."""
    found: dict[str, int] = json.loads((data_home / "days" / f"{day}.json").read_text())["versions"]
    return found


def build(settings: Settings, last: date) -> None:
    """Features of every published day that has none yet, each unbroken range of days in one call."""
    published = [date.fromisoformat(day) for day in lake_of(settings).partitions(TRANSACTIONS)]
    marker = settings.home / "features.json"
    built = set(json.loads(marker.read_text())) if marker.exists() else set()
    wanted = [day for day in published if str(day) not in built and settings.first_day <= day <= last]
    steps = {step.job: step for step in recipe_of(FEATURES).steps}
    for begin, end in unbroken(wanted):
        for job in order_of(FEATURES):
            assert steps[job].pace is Pace.RANGE  # noqa: S101 - declared there, relied on here
            run_job(settings, job, steps[job].arguments(begin, end))
        built |= {str(day) for day in days_between(begin, end)}
        write_json(marker, sorted(built))


def unbroken(days: list[date]) -> list[tuple[date, date]]:
    """Ascending days as first and last of each range without a gap."""
    if not days:
        return []
    breaks = [(before, after) for before, after in pairwise(days) if (after - before).days > 1]
    firsts, lasts = [days[0], *(after for _, after in breaks)], [*(before for before, _ in breaks), days[-1]]
    return list(zip(firsts, lasts, strict=True))


def join(settings: Settings, first: date, last: date, progress: Progress) -> None:
    """The vectors of each replayed day."""
    days = [day for day in days_between(first, last) if not vectors_path(settings, day).exists()]
    for start in range(0, len(days), JOINED_DAYS):
        part = days[start : start + JOINED_DAYS]
        events = lake_of(settings).read(TRANSACTIONS, first=part[0], last=part[-1], columns=["day", *EVENT])
        frame = events.to_pandas().sort_values(["event_time", "transaction_id"], ignore_index=True)
        joined = historical_features(frame, settings) if len(frame) else frame.reindex(columns=_columns())
        for day in part:
            rows = joined[joined["day"] == day][_columns()].reset_index(drop=True)
            with replacing(vectors_path(settings, day)) as temporary:
                rows.to_parquet(temporary)
            progress(f"features of {day}")


def vectors_path(settings: Settings, day: date) -> Path:
    return settings.home / "vectors" / f"{day}.parquet"


def read_vectors(settings: Settings, day: date) -> pd.DataFrame:
    """A day's transactions in order of time with EVENT and MODEL_FEATURES (float64, NaN for a gap)."""
    return pd.read_parquet(vectors_path(settings, day))


def _columns() -> list[str]:
    return [*EVENT, *MODEL_FEATURES]
