"""Job check_features: the gate between building a day's features and serving them.

In: each day's rows of customer_features and terminal_features, and the transactions they were built from.
Out: settings.work/features/DAY/checks.json with every check. Raises GateClosed when one fails.
Counted here with numpy from the transactions, apart from Spark.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from datetime import date, timedelta
from itertools import groupby, pairwise
from pathlib import Path

import pandas as pd

from jobs.conf.contract import contract_of
from jobs.conf.policy import policy_of
from jobs.conf.settings import Settings
from jobs.core import Check, GateClosed, Outcome, Receipt, SluiceError, Stopwatch, Verdict, midnight
from jobs.features.days import SeveralDays
from jobs.features.declarations import Entity, longest_window, stored_features
from jobs.features.inputs import first_input, is_being_built, last_record
from jobs.features.tables import FEATURE_TABLES
from jobs.lake.store import Lake, lake_of
from jobs.lake.tables import TRANSACTIONS

READS = ("customer_features", "terminal_features")
WRITES = ("feature_checks",)


class Params(SeveralDays):
    """The days whose features are checked."""


def checks_of(
    features: pd.DataFrame, entity: Entity, active: set[int], null_share_fail: float
) -> list[Check]:
    """Every check of one entity's rows; `active` are the keys that must have one."""
    keys = features[f"{entity}_id"]
    checks = [
        _at_most(f"{entity} rows missing", len(active - set(keys)), 0),
        _at_most(f"{entity} rows of nobody active", len(set(keys) - active), 0),
        _at_most(f"{entity} keys repeated", int(keys.duplicated().sum()), 0),
        _check(f"{entity} rows", bool(len(features)), len(features), 1, "no rows at all"),
    ]
    named: dict[str, list[tuple[int, pd.Series]]] = {}
    for feature in stored_features(entity):
        column = features[feature.name]
        named.setdefault(feature.measure, []).append((feature.window_days, column))
        if feature.measure != "amount_mean":
            checks.append(_at_most(f"{feature.name} nulls", int(column.isna().sum()), 0))
        low, high = (0.0, 1.0) if feature.measure == "risk" else (0.0, float("inf"))
        outside = column.notna() & ~column.between(low, high)
        checks.append(_at_most(f"{feature.name} out of range", int(outside.sum()), 0))
    counts = [column for _, column in sorted(named["count"], key=lambda pair: pair[0])]
    shrinking = sum(int((a > b).sum()) for a, b in pairwise(counts))
    checks.append(_at_most(f"{entity} counts that shrink in a longer window", shrinking, 0))
    by_days = dict(named["count"])
    for days, mean in named.get("amount_mean", []):
        unlike = int((mean.isna() != (by_days[days] == 0)).sum())
        checks.append(_at_most(f"{entity} means of {days}d not null where empty", unlike, 0))
    if named.get("amount_mean"):
        _, longest = max(named["amount_mean"], key=lambda pair: pair[0])
        share = float(longest.isna().mean()) if len(longest) else 1.0
        checks.append(_at_most(f"{entity} share of null means", share, null_share_fail))
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
    """Each day with the transactions it was built from: days of one build share one read."""
    delay_days = contract_of(settings).labels.delay_days
    for version, together in groupby(versions, lambda day: versions[day].get(TRANSACTIONS.name)):
        built = list(together)
        try:
            transactions = lake.read(
                TRANSACTIONS,
                first=first_input(built[0], delay_days),
                last=built[-1],
                columns=["event_time", "available_at", "customer_id", "terminal_id"],
                version=version,
            ).to_pandas()
        except SluiceError as error:
            raise SluiceError(
                f"features of {built[0]}: {error}; run `sluice build_features --day {built[0]}` again"
            ) from None
        for day in built:
            yield day, transactions


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
    path = _evidence(settings, day)
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_suffix(f".{os.getpid()}")
    evidence = {**verdict.model_dump(mode="json"), "versions": versions}
    scratch.write_text(json.dumps(evidence, indent=1))
    scratch.replace(path)


def judged_versions(settings: Settings, day: date) -> dict[str, int] | None:
    """The versions at which the day's features passed their last check; None where they are others by now.

    They are where another run has built the day since, or is about to: that run checks and serves it.
    """
    versions = built_from(settings, day)
    try:
        evidence = json.loads(_evidence(settings, day).read_text())
    except FileNotFoundError:
        return versions  # served by hand, before any check
    if is_being_built(settings, day) or evidence["outcome"] != Outcome.PASS.value:
        return None
    return versions if evidence.get("versions") == versions else None
