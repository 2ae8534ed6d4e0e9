"""Job materialize_features: each day's features into the online store, by Feast over an explicit interval.

In: each day's rows of both feature tables. Out: the online store (SQLite or Redis), where the newest row of
an entity wins, so days may come again and in any order. A sample is read back and compared with the tables.
What is served is the build that was checked: a day that another run builds again is left to that run.
Errors: the day has no features; what is read back differs from the tables.
"""

from __future__ import annotations

import sys
from collections import Counter
from contextlib import redirect_stdout
from datetime import date, timedelta

import pandas as pd

from jobs.conf.settings import Settings
from jobs.core import Receipt, SluiceError, Stopwatch, midnight
from jobs.features.check import judged_versions
from jobs.features.days import SeveralDays
from jobs.features.declarations import Entity, stored_features
from jobs.features.definitions import TICK, VIEWS
from jobs.features.inputs import owed, settle
from jobs.features.online import OnlineFeatures
from jobs.features.store import feature_store, registry_lock
from jobs.features.tables import FEATURE_TABLES
from jobs.lake.store import Lake, lake_of

READS = ("customer_features", "terminal_features")
WRITES = ("online_store",)
SAMPLE = 200  # entities of each kind that are read back


class Params(SeveralDays):
    """The days whose features are made available online."""


def run(params: Params, settings: Settings) -> Receipt:
    """Materialize the days, the oldest first, and read a sample of each back."""
    watch = Stopwatch()
    lake = lake_of(settings)
    feature_store(settings)  # applies the definitions, under the same lock
    found: Counter[str] = Counter()
    # one run at a time: what is served later has been checked later
    with registry_lock(settings):
        judged = {day: judged_versions(settings, day) for day in params.ascending()}
        served = {day: versions for day, versions in judged.items() if versions is not None}
        for days in alike(served):
            notes = [note for day in days for note in owed(settings, day)]
            found.update(materialize_days(days, served[days[0]], lake, settings))
            settle(notes)
    left = [str(day) for day in params.ascending() if day not in served]
    return Receipt(
        job="materialize_features",
        table="online_store",
        partition=str(params.day),
        rows=found["rows"],
        seconds=watch.seconds,
        facts={
            "days": len(served),
            "left_to_the_run_that_builds_them": left,
            "compared": found["compared"],
            "newer_online": found["newer"],
        },
    )


def alike(versions: dict[date, dict[str, int]]) -> list[list[date]]:
    """Ascending days in groups of one build that have no gap: one interval each."""
    groups: list[list[date]] = []
    for day in versions:
        before = day - timedelta(days=1)
        if groups and groups[-1][-1] == before and versions[before] == versions[day]:
            groups[-1].append(day)
        else:
            groups.append([day])
    return groups


def materialize_days(
    days: list[date], versions: dict[str, int], lake: Lake, settings: Settings
) -> Counter[str]:
    """Bring the rows of days of one build online and compare a sample: how many rows, compared, newer online.

    Of an entity's rows the newest is written: day after day, it would be the one that is left.

    Raises:
        SluiceError: a day has no features, or what is read back differs.
    """
    offline = {(day, entity): _rows(lake, entity, day, versions) for day in days for entity in FEATURE_TABLES}
    # Feast prints its progress; standard output belongs to the receipt
    with redirect_stdout(sys.stderr):
        # Feast's interval includes both ends: exactly the midnights that end the days
        feature_store(settings, versions).materialize(
            start_date=midnight(days[0] + timedelta(days=1)) - TICK,
            end_date=midnight(days[-1] + timedelta(days=1)),
            feature_views=list(VIEWS.values()),
        )
    online = OnlineFeatures(settings)
    found = Counter(rows=sum(len(rows) for rows in offline.values()))
    for (day, entity), rows in offline.items():
        compared = compare(online, entity, rows)
        if compared["different"]:
            raise SluiceError(
                f"online features of {day}: {compared['different']} of the entities read back differ from "
                f"the tables; run `sluice materialize_features --day {day}` again, and if it stays so, look "
                "whether another job writes the online store"
            )
        found.update(compared)
    return found


def _rows(lake: Lake, entity: Entity, day: date, versions: dict[str, int]) -> pd.DataFrame:
    table = FEATURE_TABLES[entity]
    rows: pd.DataFrame = lake.read(table, first=day, last=day, version=versions.get(table.name)).to_pandas()
    if rows.empty:
        raise SluiceError(
            f"online features of {day}: {entity}_features has no rows of this day; run "
            f"`sluice build_features --day {day}` first"
        )
    return rows


def compare(online: OnlineFeatures, entity: Entity, rows: pd.DataFrame) -> dict[str, int]:
    """Read a spread of the rows back: how many were compared, differ, or have a newer row online."""
    key = f"{entity}_id"
    step = max(1, len(rows) // SAMPLE)
    names = [feature.name for feature in stored_features(entity)]
    found = {"compared": 0, "different": 0, "newer": 0}
    for row in rows.sort_values(key).iloc[::step].to_dict("records"):
        as_of, values = online.row(entity, int(row[key]))
        if as_of is not None and as_of > row["as_of"]:
            found["newer"] += 1
            continue
        found["compared"] += 1
        wanted = {name: None if pd.isna(row[name]) else float(row[name]) for name in names}
        found["different"] += as_of != row["as_of"] or values != wanted
    return found
