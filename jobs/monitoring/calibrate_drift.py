"""Job calibrate_drift: false alarms a month of each drift rule, and the smallest shift that it catches.

In: days without drift, the champion's reference days or, where two days are given, those of the prediction
log. Out: reports/drift/calibration.json; the receipt says whether the budget of the policy
(`alerts.false_alarms` in `alerts.budget_days`) is kept.
Errors: SluiceError where there is no champion, no reference or too few days; a broken budget is a result.
"""

from __future__ import annotations

import json
from datetime import date

import numpy as np
import pandas as pd
from pydantic import Field

from jobs.conf.contract import contract_of
from jobs.conf.policy import Policy, policy_of
from jobs.conf.settings import Settings
from jobs.core import JobParams, Receipt, SluiceError, Stopwatch, days_between
from jobs.evaluation.slices import SLICES
from jobs.files import write_whole
from jobs.lake.store import lake_of
from jobs.monitoring import false_alarms as replayed
from jobs.monitoring.comparison import SCORE, first_full_days
from jobs.monitoring.drift import history_start, live_rows
from jobs.monitoring.false_alarms import RuleFigures
from jobs.monitoring.figures import read_champion
from jobs.monitoring.interval import Interval, event_times
from jobs.monitoring.reference import load_reference

READS = ("reference", "predictions", "transactions")
WRITES = ("drift_calibration",)
FEWEST_DAYS = 7


class Params(JobParams):
    """Which days are known to be without drift, and how long to look."""

    first_day: date | None = Field(None, description="first day of the log without drift; empty: reference")
    last_day: date | None = Field(None, description="last such day, included")
    rounds: int = Field(10, ge=1, le=1000, description="how often all days are played again")
    sample_days: int = Field(6, ge=1, description="days into which each shift is put")
    seed: int = Field(7, ge=0, description="same seed, same figures")


def calibrate(
    history: pd.DataFrame,
    since: dict[str, date],
    policy: Policy,
    slices: tuple[str, ...],
    *,
    rounds: int,
    sample_days: int,
    rows_kept: int,
    seed: int,
) -> list[RuleFigures]:
    """Every rule's figures on a history without drift, with references of `rows_kept` rows."""
    days, drift = replayed.by_day(history), policy.drift
    generator = np.random.default_rng(seed)
    found = replayed.false_alarms(
        list(replayed.quiet_days(days, since, policy, slices, rounds, rows_kept, generator))
    )  # fmt: skip
    rules = {each.rule: each for each in found}
    shifts = replayed.smallest_caught(days, since, drift, replayed.moved, replayed.SHIFTS, sample_days)
    missing = replayed.smallest_caught(days, since, drift, replayed.emptied, replayed.MISSING, sample_days)
    score = {name: each for name, each in shifts.items() if name == SCORE}
    inside = replayed.smallest_in_slices(
        days, since, drift, {name: SLICES[name] for name in slices}, replayed.SHIFTS[4::2], sample_days
    )
    features = {name: each for name, each in shifts.items() if name not in score}
    emptied = {name: each for name, each in missing.items() if name not in score}
    deviations = "standard deviations"
    rules[replayed.FEATURE] = replayed.with_shift(rules[replayed.FEATURE], features, deviations)
    rules[replayed.PREDICTION] = replayed.with_shift(rules[replayed.PREDICTION], score, deviations)
    rules[replayed.SLICE] = replayed.with_shift(rules[replayed.SLICE], inside, f"{deviations} of all columns")
    also = rules[replayed.FEATURE].model_copy(update={"rule": f"{replayed.FEATURE}: values gone missing"})
    return [*rules.values(), replayed.with_shift(also, emptied, "share of rows")]


def compared_slices(history: pd.DataFrame, slices: tuple[str, ...], minimum: int) -> list[str]:
    """The slices that are large enough on half of the days; the others are hardly ever compared."""
    days = replayed.by_day(history).values()
    return [name for name in slices if np.median([int(SLICES[name](rows).sum()) for rows in days]) >= minimum]


def within_budget(rules: list[RuleFigures], policy: Policy) -> bool:
    """Whether alarms of any rule stay within the policy's budget."""
    alarms = next(each for each in rules if each.rule == replayed.ANY).false_alarms_a_month
    return alarms / replayed.MONTH * policy.alerts.budget_days <= policy.alerts.false_alarms


def quiet_history(params: Params, settings: Settings) -> pd.DataFrame:
    """The days without drift: the champion's reference, or days of the log."""
    champion = read_champion(settings)
    if champion is None:
        raise SluiceError("calibrate_drift: there is no champion; promote a version first")
    if params.first_day is None or params.last_day is None:
        reference = load_reference(settings, champion.run_id)
        if reference is None:
            raise SluiceError(f"calibrate_drift: version {champion.version} keeps no reference")
        return reference
    lake, span = lake_of(settings), days_between(params.first_day, params.last_day)
    frames = [live_rows(lake, Interval(day), champion.version) for day in span]
    return pd.concat([frame for frame in frames if len(frame)] or [pd.DataFrame({"event_time": []})])


def run(params: Params, settings: Settings) -> Receipt:
    from jobs.training.evaluate import REFERENCE_ROWS  # heavy, and needed only here

    watch = Stopwatch()
    policy, contract = policy_of(settings), contract_of(settings)
    history = quiet_history(params, settings)
    days = event_times(history).dt.date.nunique()
    if days < FEWEST_DAYS:
        raise SluiceError(
            f"calibrate_drift: {days} days without drift, needed {FEWEST_DAYS}; "
            "give --first-day and --last-day of a quiet time in the prediction log"
        )
    start = history_start(lake_of(settings), settings)
    rules = calibrate(
        history, first_full_days(start, contract.labels.delay_days), policy, contract.slices,
        rounds=params.rounds, sample_days=params.sample_days,
        rows_kept=REFERENCE_ROWS, seed=params.seed,
    )  # fmt: skip
    kept = within_budget(rules, policy)
    path = settings.reports / "drift" / "calibration.json"
    large = compared_slices(history, contract.slices, policy.drift.slice_rows_min)
    document = {
        "days": days, "rows": len(history), "rows_a_day": len(history) // days, "rounds": params.rounds,
        "slices_compared": large, "slices_too_small": [each for each in contract.slices if each not in large],
        "not_counted": replayed.NOT_COUNTED, "within_budget": kept,
        "budget": f"{policy.alerts.false_alarms:g} in {policy.alerts.budget_days} days",
        "rules": [each.model_dump() for each in rules],
    }  # fmt: skip
    write_whole(path, json.dumps(document, indent=1, allow_nan=False))
    facts = {each.rule: each.false_alarms_a_month for each in rules}
    return Receipt(
        job="calibrate_drift", table=WRITES[0], partition="", rows=days, seconds=watch.seconds,
        facts={"within_budget": kept, "budget": document["budget"], "path": str(path),
               "false_alarms_a_month": facts},
    )  # fmt: skip
