"""Job check_features: the gate between building a day's features and serving them.

In: each day's rows of the three feature tables, and the transactions they were built from.
Out: settings.work/features/DAY/checks.json with every check. Raises GateClosed when one fails.
Counted here with numpy from the transactions, apart from Spark: active entities and the longest counts.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import date, timedelta
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from jobs.conf.contract import contract_of
from jobs.conf.policy import policy_of
from jobs.conf.settings import Settings
from jobs.core import Check, GateClosed, Outcome, Receipt, SluiceError, Stopwatch, Verdict, midnight
from jobs.features.days import SeveralDays
from jobs.features.declarations import (
    ENTITIES,
    FEATURE_VERSION,
    SEQUENCE_AMOUNTS,
    SEQUENCE_LENGTH,
    SEQUENCE_SECONDS,
    VELOCITY,
    Entity,
    Feature,
    Nulls,
    longest_window,
    stored_features,
)
from jobs.features.inputs import first_input, is_being_built, last_record
from jobs.features.tables import FEATURE_TABLES, TRANSACTION_VELOCITY
from jobs.files import write_whole
from jobs.lake.store import Lake, lake_of
from jobs.lake.tables import TRANSACTIONS

READS = ("customer_features", "terminal_features", "transaction_velocity")
WRITES = ("feature_checks",)
COLUMNS = ["day", "transaction_id", "event_time", "available_at", "customer_id", "terminal_id"]
VELOCITY_DAYS = 1 + max(feature.window for feature in VELOCITY if feature.measure == "count").days
FEWEST = {"amount_mean": 1, "amount_deviation": 2, "seconds_since_last": 1}  # in the window; null below
HIGHEST = {"risk": 1.0, "is_new": 1.0}


class Params(SeveralDays):
    """The days whose features are checked."""


def checks_of(
    features: pd.DataFrame, entity: Entity, active: set[int], null_share_fail: float
) -> list[Check]:
    """Every check of one entity's rows; `active` are the keys that must have one."""
    declared = stored_features(entity)
    means = [feature for feature in declared if feature.measure == "amount_mean"]
    longest = features[max(means, key=lambda feature: feature.window).name]
    share = float(longest.isna().mean()) if len(longest) else 1.0
    return [
        *_row_checks(entity, features[f"{entity}_id"], active),
        *_column_checks(features, declared),
        _at_most(f"{entity} share of null means", share, null_share_fail),
    ]


def velocity_checks(features: pd.DataFrame, transactions: pd.DataFrame, day: date) -> list[Check]:
    """Every check of a day's velocity features; `transactions` reach back as far as their windows."""
    own = transactions[transactions["day"] == day]
    checks = _row_checks("velocity", features["transaction_id"], set(own["transaction_id"].tolist()))
    checks += _column_checks(features, VELOCITY)
    for entity in ENTITIES:
        name = _longest_count(entity)
        counted = counts_before(transactions, f"{entity}_id", name.window)[own.index]
        once = features.drop_duplicates("transaction_id").set_index("transaction_id")
        found = once[name.name].reindex(own["transaction_id"])
        unlike = int((found.to_numpy() != counted.to_numpy()).sum())
        checks.append(_at_most(f"{name.name} other than counted here", unlike, 0))
    return [*checks, *_sequence_checks(features)]


def _sequence_checks(features: pd.DataFrame) -> list[Check]:
    """The last transactions are in order and whole, and as many as the longest window counts."""
    seconds = features[list(SEQUENCE_SECONDS)].to_numpy(dtype=np.float64)
    amounts = features[list(SEQUENCE_AMOUNTS)].to_numpy(dtype=np.float64)
    halves = int((np.isnan(seconds) != np.isnan(amounts)).any(axis=1).sum())
    since = np.where(np.isnan(seconds), np.inf, seconds)  # a gap is followed by something newer than it
    unordered = int((since[:, 1:] < since[:, :-1]).any(axis=1).sum())
    count = _longest_count("customer")
    wanted = np.minimum(features[count.name], SEQUENCE_LENGTH)
    unlike = int(((since <= count.window.total_seconds()).sum(axis=1) != wanted).sum())
    return [
        *_since_last_checks(features),
        _at_most("customer transactions before with a time or an amount alone", halves, 0),
        _at_most("customer transactions before out of order", unordered, 0),
        _at_most(f"customer transactions before other than {count.name} says", unlike, 0),
    ]


def _since_last_checks(features: pd.DataFrame) -> list[Check]:
    """The time since the customer's last transaction is that of the first of the last ones, null or not."""
    (newest,) = (feature for feature in VELOCITY if feature.name == SEQUENCE_SECONDS[0])
    checks = []
    for feature in VELOCITY:
        if (feature.entity, feature.measure) != ("customer", "seconds_since_last"):
            continue
        both = min(feature.window, newest.window).total_seconds()
        ours, first = (features[each.name].where(features[each.name] <= both) for each in (feature, newest))
        unlike = int((ours.notna() | first.notna()).sum() - (ours == first).sum())
        checks.append(_at_most(f"{feature.name} other than {newest.name} says", unlike, 0))
    return checks


def _longest_count(entity: Entity) -> Feature:
    counts = (feature for feature in VELOCITY if (feature.entity, feature.measure) == (entity, "count"))
    return max(counts, key=lambda feature: feature.window)


def counts_before(transactions: pd.DataFrame, key: str, window: timedelta) -> pd.Series:
    """For each transaction, how many of its key came in time in [t - window, t)."""
    moment = transactions["event_time"].astype("datetime64[us, UTC]").astype("int64").to_numpy()
    ends = pd.to_datetime(transactions["day"], utc=True) + timedelta(days=1)
    in_time = (transactions["available_at"] <= ends).to_numpy()
    keys = transactions[key].to_numpy()
    # one number for key and time, so that both ends of every window are found by one search
    span = int(moment.max() - moment.min()) + window // timedelta(microseconds=1) + 2 if len(moment) else 1
    place = pd.factorize(keys)[0].astype("int64") * span + moment - (moment.min() if len(moment) else 0)
    there = np.sort(place[in_time])
    # a window that begins before the data must not reach into the key before
    begin = np.maximum(place - window // timedelta(microseconds=1), place // span * span)
    counted = np.searchsorted(there, place, "left") - np.searchsorted(there, begin, "left")
    return pd.Series(counted, index=transactions.index)


def _row_checks(what: str, keys: pd.Series, wanted: set[int]) -> list[Check]:
    """One row for each key that must have one, and no other."""
    return [
        _at_most(f"{what} rows missing", len(wanted - set(keys)), 0),
        _at_most(f"{what} rows of nobody active", len(set(keys) - wanted), 0),
        _at_most(f"{what} keys repeated", int(keys.duplicated().sum()), 0),
        _check(f"{what} rows", bool(len(keys)), len(keys), 1, "no rows at all"),
    ]


def _column_checks(features: pd.DataFrame, declared: tuple[Feature, ...]) -> list[Check]:
    """Every column null where its declaration says so, in its range, and counts that grow with the window."""
    checks = []
    counts: dict[str, list[Feature]] = {}
    for feature in declared:
        column = features[feature.name]
        if feature.measure == "count":
            counts.setdefault(feature.entity, []).append(feature)
        if feature.nulls is Nulls.NEVER:
            checks.append(_at_most(f"{feature.name} nulls", int(column.isna().sum()), 0))
        elif feature.measure in FEWEST and (count := f"{feature.entity}_count_{feature.label}") in features:
            few = features[count] < FEWEST[feature.measure]
            unlike = int((column.isna() != few).sum())
            checks.append(_at_most(f"{feature.name} not null {feature.nulls.value}", unlike, 0))
        high = HIGHEST.get(feature.measure, float("inf"))
        if feature.measure in ("seconds_since_last", "seconds_before"):
            high = feature.window.total_seconds()
        outside = column.notna() & ~column.between(0.0, high)
        checks.append(_at_most(f"{feature.name} out of range", int(outside.sum()), 0))
    for entity, windows in counts.items():
        columns = [features[each.name] for each in sorted(windows, key=lambda each: each.window)]
        shrinking = sum(int((a > b).sum()) for a, b in pairwise(columns))
        checks.append(_at_most(f"{entity} counts that shrink in a longer window", shrinking, 0))
    return checks


def active_keys(transactions: pd.DataFrame, entity: Entity, as_of: pd.Timestamp, days: int) -> set[int]:
    """Keys with a transaction in [as_of - days, as_of) that was available by as_of."""
    moment = transactions["event_time"]
    inside = (moment >= as_of - pd.Timedelta(days=days)) & (moment < as_of)
    inside &= transactions["available_at"] <= as_of
    return set(transactions.loc[inside, f"{entity}_id"].tolist())


def day_verdict(
    day: date, transactions: pd.DataFrame, versions: dict[str, int], lake: Lake, settings: Settings
) -> tuple[Verdict, int]:
    """The verdict on one day, and the rows that were checked."""
    as_of = pd.Timestamp(midnight(day + timedelta(days=1)))
    windows: dict[Entity, int] = {
        "customer": longest_window("customer", 0),
        "terminal": longest_window("terminal", contract_of(settings).labels.delay_days),
    }
    checks = []
    rows = 0
    for entity, table in FEATURE_TABLES.items():
        features = lake.read(table, first=day, last=day, version=versions.get(table.name)).to_pandas()
        rows += len(features)
        active = active_keys(transactions, entity, as_of, windows[entity])
        allowed = policy_of(settings).quality.null_share_fail
        checks += checks_of(features, entity, active, allowed)
    version = versions.get(TRANSACTION_VELOCITY.name)
    velocity = lake.read(TRANSACTION_VELOCITY, first=day, last=day, version=version).to_pandas()
    recent = transactions[transactions["day"].between(day - timedelta(days=VELOCITY_DAYS), day)]
    checks += velocity_checks(velocity, recent, day)
    rows += len(velocity)
    return Verdict.of(checks), rows


def built_from(settings: Settings, day: date) -> dict[str, int]:
    """Versions that the day's last whole build read and wrote; empty where that is not known.

    Both sides are read there: what is published or built again meanwhile is not the fault of these features.
    """
    record = last_record(settings, day)
    return record.versions if record else {}


def with_transactions(
    versions: dict[date, dict[str, int]], lake: Lake, settings: Settings
) -> Iterator[tuple[date, pd.DataFrame]]:
    """Each day with the transactions in its reach, as it was built from them: one build is one read."""
    delay_days = contract_of(settings).labels.delay_days
    for version, together in groupby(versions, lambda day: versions[day].get(TRANSACTIONS.name)):
        built = list(together)
        try:
            rows = lake.read(
                TRANSACTIONS,
                first=first_input(built[0], delay_days),
                last=built[-1],
                columns=COLUMNS,
                version=version,
            ).sort_by("day")
        except SluiceError as error:
            raise SluiceError(
                f"features of {built[0]}: {error}; run `sluice build_features --day {built[0]}` again"
            ) from None
        dates, transactions = rows["day"].to_numpy(), rows.to_pandas()
        for day in built:
            begin = np.searchsorted(dates, np.datetime64(first_input(day, delay_days)), "left")
            end = np.searchsorted(dates, np.datetime64(day), "right")
            yield day, transactions.iloc[begin:end]


def run(params: Params, settings: Settings) -> Receipt:
    """Check the features of each day, keep the evidence, close the gate where a check of any day fails."""
    watch = Stopwatch()
    lake = lake_of(settings)
    closed: dict[date, Verdict] = {}
    rows = checks = 0
    versions = {day: built_from(settings, day) for day in params.ascending()}
    for day, transactions in with_transactions(versions, lake, settings):
        verdict, checked = day_verdict(day, transactions, versions[day], lake, settings)
        keep_verdict(settings, day, verdict, versions[day])
        rows += checked
        checks += len(verdict.checks)
        if verdict.outcome is not Outcome.PASS:
            closed[day] = verdict
    if closed:
        day, verdict = next(iter(closed.items()))
        others = f" (and of {len(closed) - 1} later days)" if len(closed) > 1 else ""
        raise GateClosed(verdict, f"features of {day}{others}")
    return Receipt(
        job="check_features",
        table="feature_checks",
        partition=str(params.day),
        rows=rows,
        seconds=watch.seconds,
        facts={
            "checks": checks,
            "days": len(params.ascending()),
            "evidence": str(_evidence(settings, params.day)),
        },
    )


def _evidence(settings: Settings, day: date) -> Path:
    return settings.work / "features" / str(day) / "checks.json"


def _at_most(name: str, value: float, threshold: float) -> Check:
    detail = f"{name}: {value:g}, allowed {threshold:g}"
    return _check(name, value <= threshold, value, threshold, detail)


def _check(name: str, passed: bool, value: float, threshold: float, detail: str) -> Check:
    return Check(
        name=name,
        outcome=Outcome.PASS if passed else Outcome.FAIL,
        value=value,
        threshold=threshold,
        detail="" if passed else f"{name}: {detail}" if name not in detail else detail,
    )


def keep_verdict(settings: Settings, day: date, verdict: Verdict, versions: dict[str, int]) -> None:
    """Write what was found, and of which build."""
    _keep(settings, day, {**verdict.model_dump(mode="json"), "versions": versions})


def _keep(settings: Settings, day: date, evidence: dict[str, Any]) -> None:
    write_whole(_evidence(settings, day), json.dumps(evidence, indent=1))


def carry_verdict(staged: Settings, settings: Settings, day: date, versions: dict[str, int]) -> None:
    """Take over a staged day's verdict: its rows are in production now, at these versions."""
    try:
        evidence = json.loads(_evidence(staged, day).read_text())
    except FileNotFoundError:
        drop_verdict(settings, day)
        return
    _keep(settings, day, evidence | {"versions": evidence["versions"] | versions})


def drop_verdict(settings: Settings, day: date) -> None:
    """Forget what was found: the day's features are others now."""
    _evidence(settings, day).unlink(missing_ok=True)


def judged_versions(settings: Settings, day: date) -> dict[str, int] | None:
    """The versions at which the day's features passed their last check; None where they are others by now.

    They are where another run has built the day since, or is about to: that run checks and serves it.
    """
    record = last_record(settings, day)
    if record is not None and record.inputs.feature_version != FEATURE_VERSION:
        raise SluiceError(
            f"features of {day}: they were built when features were declared otherwise; run "
            f"`sluice build_features --day {day}` first"
        )
    versions = record.versions if record else {}
    try:
        evidence = json.loads(_evidence(settings, day).read_text())
    except FileNotFoundError:
        return versions  # served by hand, before any check
    if is_being_built(settings, day) or evidence["outcome"] != Outcome.PASS.value:
        return None
    return versions if evidence.get("versions") == versions else None
