"""Job materialize_features: each day's features into the online store, by Feast over an explicit interval.

In: each day's rows of both feature tables. Out: the online store (SQLite or Redis), where the newest row of
an entity wins, so days may come again and in any order. A sample is read back and compared with the tables;
nulls that should not be there raise an alert. Rows are streamed: memory does not grow with the day.
The velocity store learns of the days' transactions that it has not seen: after an outage of the scoring
service, or before its first request, its windows are those of the tables.
What is served is the build that was checked: a day that another run builds again is left to that run.
State: settings.home/feast/materialized.json, the newest as_of that was ever made available of each view.
Errors: the day has no features; what is read back differs from the tables; the newest rows are gone.
"""

from __future__ import annotations

import json
import sqlite3
import sys
from collections import Counter
from contextlib import closing, redirect_stdout
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from redis.exceptions import RedisError

from jobs.alerts import Alert, raise_alerts
from jobs.conf.contract import contract_of
from jobs.conf.policy import policy_of
from jobs.conf.settings import Settings
from jobs.core import Receipt, SluiceError, Stopwatch, midnight
from jobs.evaluation.transactions import known_transactions
from jobs.features.check import judged_versions
from jobs.features.days import SeveralDays
from jobs.features.declarations import ENTITIES, Entity, Nulls, stored_features, velocity_memory
from jobs.features.definitions import TICK, VIEWS, time_to_live
from jobs.features.engine import batches
from jobs.features.inputs import owed, settle
from jobs.features.online import OnlineFeatures
from jobs.features.store import applied_definitions, feast_home, feature_store, registry_lock
from jobs.features.tables import FEATURE_TABLES
from jobs.features.velocity_store import open_velocity_store
from jobs.lake.store import Lake, lake_of

READS = ("customer_features", "terminal_features", "transactions")
WRITES = ("online_store", "velocity_store")
SAMPLE = 200  # entities of each kind that are read back, or a few more


class Params(SeveralDays):
    """The days whose features are made available online."""


@dataclass
class Found:
    """What was written, and what a sample of it looks like online."""

    rows: int = 0
    compared: int = 0
    different: int = 0
    newer: int = 0  # entities that have a newer row online
    read: Counter[str] = field(default_factory=Counter)  # by view
    nulls: Counter[str] = field(default_factory=Counter)  # by feature, of those that are judged

    def add(self, other: Found) -> None:
        self.rows += other.rows
        self.compared += other.compared
        self.different += other.different
        self.newer += other.newer
        self.read += other.read
        self.nulls += other.nulls


def run(params: Params, settings: Settings) -> Receipt:
    """Materialize the days, the oldest first, and read a sample of each back."""
    watch = Stopwatch()
    _require_shared(settings)
    lake = lake_of(settings)
    feature_store(settings)  # applies the definitions, under the same lock
    found, newest, expired = Found(), dict.fromkeys(VIEWS.values(), ""), 0
    recorded = record_velocity(params.ascending(), lake, settings)
    # one run at a time: what is served later has been checked later
    with registry_lock(settings):
        judged = {day: judged_versions(settings, day) for day in params.ascending()}
        served = {day: versions for day, versions in judged.items() if versions is not None}
        for days in alike(served):
            notes = [note for day in days for note in owed(settings, day)]
            try:
                found.add(materialize_days(days, served[days[0]], lake, settings))
            except SluiceError:
                if max(served) - days[-1] <= time_to_live(settings):
                    raise
                expired += len(days)  # gone from the tables perhaps, and too old to serve anybody
            settle(notes)
        if served:
            newest = require_fresh(max(served), settings)
    left = [str(day) for day in params.ascending() if day not in served]
    return Receipt(
        job="materialize_features",
        table="online_store",
        partition=str(params.day),
        rows=found.rows,
        seconds=watch.seconds,
        facts={
            "days": len(served) - expired,
            "expired": expired,
            "left_to_the_run_that_builds_them": left,
            "compared": found.compared,
            "newer_online": found.newer,
            "newest": newest,
            "velocity_recorded": recorded,
            "largest_null_share": max(null_shares(found).values(), default=0.0),
            "new_alerts": raise_alerts(settings, null_alerts(params.day, found, settings)),
        },
    )


def record_velocity(days: list[date], lake: Lake, settings: Settings) -> int:
    """Tell the velocity store of the days' transactions, the late ones left out; how many it had not seen."""
    memory = max(velocity_memory(entity) for entity in ENTITIES)
    columns = ["transaction_id", "event_time", "customer_id", "terminal_id", "amount_minor"]
    # what is older is out of reach of every event that is still to come
    reached = [day for day in days if max(days) - day <= memory]
    recorded, day = 0, reached[0]
    try:
        with closing(open_velocity_store(settings)) as store:
            for day in reached:
                rows = known_transactions(lake, day, day, midnight(day + timedelta(days=1)), columns)
                recorded += store.record_many(rows)
    except (sqlite3.Error, RedisError) as error:
        raise SluiceError(
            f"velocity store: transactions of {day} could not be recorded ({error}); run "
            f"`sluice materialize_features --day {day}` again once it answers"
        ) from None
    return recorded


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


def materialize_days(days: list[date], versions: dict[str, int], lake: Lake, settings: Settings) -> Found:
    """Bring the rows of days of one build online and compare a sample.

    Raises:
        SluiceError: a day has no features, or what is read back differs.
    """
    found, samples = Found(), {}
    for day in days:
        for entity in FEATURE_TABLES:
            keys = _keys(lake, entity, day, versions)
            found.rows += len(keys)
            samples[day, entity] = _spread(keys)
    # Feast prints its progress; standard output belongs to the receipt
    with redirect_stdout(sys.stderr):
        # Feast's interval includes both ends: exactly the midnights that end the days
        feature_store(settings, versions).materialize(
            start_date=midnight(days[0] + timedelta(days=1)) - TICK,
            end_date=midnight(days[-1] + timedelta(days=1)),
            feature_views=list(VIEWS.values()),
        )
    online = OnlineFeatures(settings)
    for (day, entity), sample in samples.items():
        compared = compare(online, entity, _rows(lake, entity, day, versions, sample))
        if compared.different:
            raise SluiceError(
                f"online features of {day}: {compared.different} of the entities read back differ from "
                f"the tables; run `sluice materialize_features --day {day}` again, and if it stays so, look "
                "whether another job writes the online store"
            )
        found.add(compared)
    return found


def _keys(lake: Lake, entity: Entity, day: date, versions: dict[str, int]) -> pa.ChunkedArray:
    """The entities of a day: of a row that has fifteen doubles only the key is read."""
    table, key = FEATURE_TABLES[entity], f"{entity}_id"
    keys = lake.read(table, first=day, last=day, columns=[key], version=versions.get(table.name))[key]
    if not len(keys):
        raise SluiceError(
            f"online features of {day}: {entity}_features has no rows of this day; run "
            f"`sluice build_features --day {day}` first"
        )
    return keys


def _spread(keys: pa.ChunkedArray) -> pa.Array:
    """Some of the keys, from the lowest to the highest."""
    step = max(1, len(keys) // SAMPLE)
    places = pc.sort_indices(keys).to_numpy()[::step]
    return pa.array(keys.take(pa.array(places)).to_numpy())


def _rows(
    lake: Lake, entity: Entity, day: date, versions: dict[str, int], keys: pa.Array
) -> list[dict[str, Any]]:
    """The rows of some entities of a day; the others are read past, a batch at a time."""
    table, key = FEATURE_TABLES[entity], f"{entity}_id"
    columns = [key, "as_of", *(feature.name for feature in stored_features(entity))]
    rows: list[dict[str, Any]] = []
    with lake.explained(table):
        for batch in batches(lake.delta(table, versions.get(table.name)), columns, day, day):
            rows += batch.filter(pc.is_in(batch[key], keys)).to_pylist()
    return rows


def compare(online: OnlineFeatures, entity: Entity, rows: list[dict[str, Any]]) -> Found:
    """Read the rows of a table back: how many were compared, differ, or have a newer row online."""
    names = [feature.name for feature in stored_features(entity)]
    judged = _never_null(entity)
    found = Found(read=Counter({VIEWS[entity]: len(rows)}))
    for row in rows:
        as_of, values = online.row(entity, row[f"{entity}_id"])
        found.nulls.update(name for name in judged if values[name] is None)
        if as_of is not None and as_of > row["as_of"]:
            found.newer += 1
            continue
        found.compared += 1
        # NaN alone differs from itself
        wanted = {name: None if row[name] != row[name] else row[name] for name in names}
        found.different += as_of != row["as_of"] or values != wanted
    return found


def _never_null(entity: Entity) -> list[str]:
    """Features whose nulls are judged; a mean of 30 days is null only of the few that are nearly gone."""
    return [
        feature.name
        for feature in stored_features(entity)
        if feature.nulls is Nulls.NEVER or (feature.measure == "amount_mean" and feature.label == "30d")
    ]


def null_shares(found: Found) -> dict[str, float]:
    """The share of nulls of each judged feature among the rows that were read back."""
    return {
        name: found.nulls[name] / found.read[VIEWS[entity]]
        for entity in VIEWS
        for name in _never_null(entity)
        if found.read[VIEWS[entity]]
    }


def null_alerts(day: date, found: Found, settings: Settings) -> list[Alert]:
    """One alert for each view that has features with too many nulls online."""
    limit, shares = policy_of(settings).features.null_share_alert, null_shares(found)
    alerts = []
    for entity, view in VIEWS.items():
        many = {name: shares[name] for name in _never_null(entity) if shares.get(name, 0.0) > limit}
        if many:
            worst = max(many, key=lambda name: many[name])
            alerts.append(
                Alert(
                    key=f"{day}/nulls online of {view}",
                    cause=f"online features of {day}: {worst} is null in {many[worst]:.1%} of the rows of "
                    f"{view} that were read back, {len(many)} of its features in more than {limit:.1%}",
                    owner=contract_of(settings).owner,
                    action=f"look at `sluice check_features --day {day}` and build the day again",
                    facts={name: round(share, 4) for name, share in many.items()},
                )
            )
    return alerts


def require_fresh(last: date, settings: Settings) -> dict[str, str]:
    """The newest as_of online of each view, which must be the newest that was ever made available.

    Raises:
        SluiceError: it is older: the store has lost rows.
    """
    online, written = OnlineFeatures(settings), midnight(last + timedelta(days=1))
    known = _known(settings)
    newest = {}
    for entity, view in VIEWS.items():
        wanted, found = max(known.get(view, written), written), online.newest(entity)
        if found is None or found < wanted:
            day = wanted.date() - timedelta(days=1)
            raise SluiceError(
                f"online features: the newest rows of {view} are as of {found}, those of {wanted} were there "
                f"before, so the online store has lost rows; run `sluice materialize_features --day {day}`, "
                "which brings the newest back"
            )
        newest[view] = found
    _note(settings, {view: max(found, known.get(view, found)) for view, found in newest.items()})
    return {view: found.isoformat() for view, found in newest.items()}


def _known(settings: Settings) -> dict[str, datetime]:
    """The newest as_of of each view that was made available under the present definitions."""
    try:
        noted = json.loads(_notes(settings).read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return {}
    if noted["definitions"] != applied_definitions(settings):
        return {}  # another store, or other features: nothing of before serves any more
    return {view: datetime.fromisoformat(text) for view, text in noted["newest"].items()}


def _note(settings: Settings, newest: dict[str, datetime]) -> None:
    said = {
        "definitions": applied_definitions(settings),
        "newest": {view: moment.isoformat() for view, moment in newest.items()},
    }
    scratch = _notes(settings).with_suffix(".new")
    scratch.write_text(json.dumps(said))
    scratch.replace(_notes(settings))


def _notes(settings: Settings) -> Path:
    return feast_home(settings) / "materialized.json"


def _require_shared(settings: Settings) -> None:
    if settings.materialize_on == "spark" and settings.online_store != "redis":
        raise SluiceError(
            "SLUICE_MATERIALIZE_ON=spark needs SLUICE_ONLINE_STORE=redis: executors do not share a file"
        )
