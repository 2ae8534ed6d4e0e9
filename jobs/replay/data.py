"""The data of a replay: every day taken in by the jobs of the DAGs, at the paces of a backfill.

In: the source, from its first day to the replay's last. Out: the tables of an installation of its own, and
vectors/DAY.parquet for each replayed day: its transactions in order of time with the features that serving
would have read, by the point-in-time join that the training frame uses (it equals what is served, see
jobs/monitoring/compare_served.py).
A day is done or not done (days/DAY.json); a run that was killed goes on with the day that it had begun. A day
whose quality gate is closed is not published and has no traffic: its file says why, and rows of it that later
files bring change nothing. Rows that come late to any other day are joined once the files that bring them are
taken in, also where `last` was earlier at first.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.compute as pc
import pyarrow.parquet as pq

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
SECONDS = "seconds.json"
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
            with _timed(settings, "take in"):
                write_json(path, take_in_day(settings, day))
        progress(f"data of {day}")
    with _timed(settings, "build"):
        build(settings, last)
    with _timed(settings, "join"):
        join(settings, first, last, progress)


@contextmanager
def _timed(settings: Settings, part: str) -> Iterator[None]:
    """Add the seconds of the block to those of this part."""
    start = time.perf_counter()
    yield
    spent = seconds_of_data(settings)
    spent[part] = round(spent.get(part, 0.0) + time.perf_counter() - start, 3)
    write_json(settings.home / SECONDS, spent)


def seconds_of_data(settings: Settings) -> dict[str, float]:
    """What each part of taking in the data has cost this machine so far, over all calls."""
    path = settings.home / SECONDS
    return json.loads(path.read_text()) if path.exists() else {}


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
    marker = settings.home / "features.json"
    built = set(json.loads(marker.read_text())) if marker.exists() else set()
    days = delivered(settings, settings.first_day, last)
    wanted = [day for day in days if str(day) not in built]
    steps = {step.job: step for step in recipe_of(FEATURES).steps}
    for begin, end in unbroken(wanted):
        for job in order_of(FEATURES):
            assert steps[job].pace is Pace.RANGE  # noqa: S101 - declared there, relied on here
            run_job(settings, job, steps[job].arguments(begin, end))
        built |= {str(day) for day in days_between(begin, end)}
        write_json(marker, sorted(built))


def delivered(settings: Settings, first: date, last: date) -> dict[date, int]:
    """Days whose own file is published, ascending, each with its rows, also those that came late."""
    found = lake_of(settings).read(TRANSACTIONS, first=first, last=last, columns=["day", "file_day"])
    own = set(pc.unique(found.filter(pc.equal(found["day"], found["file_day"]))["day"]).to_pylist())
    counts = {each["values"].as_py(): each["counts"].as_py() for each in pc.value_counts(found["day"])}
    return {day: counts[day] for day in sorted(own)}


def unbroken(days: list[date]) -> list[tuple[date, date]]:
    """Ascending days as first and last of each range without a gap."""
    if not days:
        return []
    breaks = [(before, after) for before, after in pairwise(days) if (after - before).days > 1]
    firsts, lasts = [days[0], *(after for _, after in breaks)], [*(before for before, _ in breaks), days[-1]]
    return list(zip(firsts, lasts, strict=True))


def join(settings: Settings, first: date, last: date, progress: Progress) -> None:
    """The vectors of each replayed day that has none, or fewer than it has transactions by now."""
    counts = delivered(settings, first, last)
    days = [day for day in days_between(first, last) if rows_of_vectors(settings, day) != counts.get(day, 0)]
    for start in range(0, len(days), JOINED_DAYS):
        part = days[start : start + JOINED_DAYS]
        events = lake_of(settings).read(TRANSACTIONS, first=part[0], last=part[-1], columns=["day", *EVENT])
        frame = events.to_pandas()
        frame = frame[frame["day"].isin([day for day in part if day in counts])]
        frame = frame.sort_values(["event_time", "transaction_id"], ignore_index=True)
        joined = (
            historical_features(frame, settings)
            if len(frame)
            else frame.reindex(columns=["day", *_columns()])
        )
        for day in part:
            rows = joined[joined["day"] == day][_columns()].reset_index(drop=True)
            with replacing(vectors_path(settings, day)) as temporary:
                rows.to_parquet(temporary)
            progress(f"features of {day}")


def vectors_path(settings: Settings, day: date) -> Path:
    return settings.home / "vectors" / f"{day}.parquet"


def rows_of_vectors(settings: Settings, day: date) -> int | None:
    """How many transactions a day has vectors of; None where they have not been joined."""
    path = vectors_path(settings, day)
    return int(pq.read_metadata(path).num_rows) if path.exists() else None


def read_vectors(settings: Settings, day: date) -> pd.DataFrame:
    """A day's transactions in order of time with EVENT and MODEL_FEATURES (float64, NaN for a gap)."""
    return pd.read_parquet(vectors_path(settings, day))


def _columns() -> list[str]:
    return [*EVENT, *MODEL_FEATURES]
