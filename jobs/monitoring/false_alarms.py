"""Drift-free days played again: how often each rule alarms on them, and the smallest shift that it sees.

In: history, whole days of rows without drift (model features, score, event_time UTC, amount_minor; is_fraud
where it is known). Out: for each rule its false alarms a month with a bound, and the smallest shift that it
catches. NOT_COUNTED names the rules that such days say nothing of.
Each day is held against other days of the history, drawn with replacement: a bootstrap over days, because
days differ more than rows do. The functions that judge are those that run daily, not a copy of them.
Source: Clopper and Pearson 1934 for the bound; its sample size is the number of different days.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import date, timedelta
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from jobs.conf.policy import Drift, Policy
from jobs.core import StrictModel
from jobs.features.declarations import PRESENCE
from jobs.monitoring import statistics
from jobs.monitoring.comparison import SCORE, measure_columns
from jobs.monitoring.figures import ALERT, PAGE, RETRAIN, UNKNOWN, Figure
from jobs.monitoring.interval import event_times
from jobs.monitoring.other_days import Share, share_beside
from jobs.monitoring.service import (
    FLAG,
    answers_figure,
    missing_figures,
    null_figure,
    score_figures,
)

MONTH = 30  # days
FEATURE, SECOND_DAY, PREDICTION, SLICE, NOT_MEASURED, ANY = (
    "feature drift alerts", "feature drift retrains (second day)", "prediction drift alerts",
    "a slice alerts", "a figure is unknown", "any of them",
)  # fmt: skip
CONFIDENCE, ALERTS, VOLUME, ONLINE, DISPUTES = (
    "confidence alerts", "alerts of the day alert", "volume alerts", "features online alert",
    "early disputes alert",
)  # fmt: skip
RULES = (FEATURE, SECOND_DAY, PREDICTION, SLICE, CONFIDENCE, ALERTS, VOLUME, ONLINE, DISPUTES, NOT_MEASURED,
         ANY)  # fmt: skip
RULE_OF = {
    "psi": FEATURE, "prediction_psi": PREDICTION, "slice_psi": SLICE, "unsure_share": CONFIDENCE,
    "mean_score": CONFIDENCE, "alert_share": ALERTS, "answers": VOLUME, "missing_online": ONLINE,
    "null_share_online": ONLINE, "early_disputes": DISPUTES,
}  # fmt: skip
NOT_COUNTED = ("performance, business and label figures", "errors", "latency", "quarantined rows",
               "served features that differ")  # fmt: skip
SHIFTS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 1.5, 2.0)  # standard deviations of the column
MISSING = (0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.4)
CAUGHT = 0.9  # of the days on which a shift was put in
YEAR = timedelta(days=364)  # keeps the weekday


class RuleFigures(StrictModel):
    """One rule at its threshold."""

    rule: str
    false_alarms_a_month: float
    at_most_a_month: float  # with 95 % confidence
    smallest_shift: float | None = None  # that is caught on 90 % of days, for the middle column
    worst_shift: float | None = None  # the same for the column where it is largest; nothing where none is
    worst_column: str = ""
    unit: str = ""


class Quiet(NamedTuple):
    """What the rules said of one day."""

    day: date
    alarms: frozenset[str]
    retraining: frozenset[str]  # features whose PSI is in the band of retraining


def by_day(history: pd.DataFrame) -> dict[date, pd.DataFrame]:
    """The rows of each day."""
    days = event_times(history).dt.date
    return dict(iter(history.groupby(days, sort=True)))


def drawn_reference(
    days: Mapping[date, pd.DataFrame], without: date, rows_kept: int, generator: np.random.Generator
) -> pd.DataFrame:
    """As many other days as there are, drawn with replacement; a copy of a day is a day of its own.

    An even sample of `rows_kept` rows of them, as a version keeps of its test rows.
    """
    others = [day for day in days if day != without]
    copies: dict[date, int] = {}
    frames = []
    for place in generator.integers(0, len(others), len(others)):
        day = others[int(place)]
        rows = days[day]
        times = event_times(rows) + YEAR * copies.get(day, 0)
        frames.append(rows.assign(event_time=times))
        copies[day] = copies.get(day, 0) + 1
    return thinned(pd.concat(frames, ignore_index=True), rows_kept)


def thinned(rows: pd.DataFrame, kept: int) -> pd.DataFrame:
    """An even sample."""
    if len(rows) <= kept:
        return rows
    return rows.iloc[np.linspace(0, len(rows) - 1, kept).astype(int)]


def rules_broken(figures: Iterable[Figure]) -> frozenset[str]:
    """Which rules alarm by the figures of a day; a retraining needs a second one."""
    found = set()
    for figure in figures:
        if figure.status == UNKNOWN:
            found.add(NOT_MEASURED)
        elif figure.metric in RULE_OF and figure.status in (ALERT, RETRAIN, PAGE):
            found.add(RULE_OF[figure.metric])
    return frozenset(found)


def service_figures(
    days: Mapping[date, pd.DataFrame], day: date, reference: pd.DataFrame, policy: Policy
) -> list[Figure]:
    """What measure_service would say of a day, as far as its rows tell."""
    rows = days[day]
    others = {each: found for each, found in days.items() if each != day}
    weeks = [len(found) for each, found in others.items() if each.weekday() == day.weekday()]
    figures = [answers_figure(len(rows), weeks[-policy.quality.volume_weeks :], policy)]
    if all(FLAG.format(row) in rows for row in PRESENCE):
        figures += [null_figure(rows, policy), *missing_figures(reference, rows, day, policy)]
    figures += score_figures(reference, rows, day, policy)
    if "is_fraud" in rows:
        before = [disputed(found, policy) for found in others.values()]
        figures.append(share_beside("early_disputes", disputed(rows, policy), before, policy))
    return figures


def disputed(rows: pd.DataFrame, policy: Policy) -> Share:
    """What was approved of labelled rows, and turned out to be fraud."""
    approved = rows[rows[SCORE] <= policy.decisions.review_above]
    return Share(int(approved["is_fraud"].sum()), len(approved))


def quiet_days(
    days: Mapping[date, pd.DataFrame],
    since: Mapping[str, date],
    policy: Policy,
    slices: Sequence[str],
    rounds: int,
    rows_kept: int,
    generator: np.random.Generator,
) -> Iterator[list[Quiet]]:
    """Each round: every day of the history in order, against days that are drawn again for each."""
    for _ in range(rounds):
        found = []
        for day, rows in days.items():
            reference = drawn_reference(days, day, rows_kept, generator)
            figures = measure_columns(reference, rows, day, since, policy.drift, slices)
            figures += service_figures(days, day, reference, policy)
            retraining = {each.subject for each in figures if each.metric == "psi" and each.status == RETRAIN}
            found.append(Quiet(day, rules_broken(figures), frozenset(retraining)))
        yield found


def with_second_days(found: Sequence[Quiet]) -> list[frozenset[str]]:
    """The rules that alarm on each day, the retraining of a second day in a row included."""
    broken = []
    for place, quiet in enumerate(found):
        before = found[place - 1] if place else None
        again = before is not None and quiet.day - before.day == timedelta(days=1)
        twice = again and before is not None and before.retraining & quiet.retraining
        alarms = quiet.alarms | ({SECOND_DAY} if twice else set())
        broken.append(frozenset(alarms | ({ANY} if alarms else set())))
    return broken


def false_alarms(rounds: Sequence[Sequence[Quiet]]) -> list[RuleFigures]:
    """False alarms a month: days with an alarm, and the most that it may be with 95 % confidence."""
    broken = [with_second_days(each) for each in rounds]
    days = len(broken[0])
    figures = []
    for rule in RULES:
        share = float(np.mean([[rule in each for each in found] for found in broken]))
        count = share * days
        bound = 1.0 if count >= days else float(stats.beta.ppf(0.95, count + 1, days - count))
        month, most = round(share * MONTH, 4), round(bound * MONTH, 4)
        figures.append(RuleFigures(rule=rule, false_alarms_a_month=month, at_most_a_month=most))
    return figures


def moved(rows: pd.DataFrame, columns: Sequence[str], by: float) -> pd.DataFrame:
    """The rows with each column moved by so many of its standard deviations; one without values stays so."""
    return rows.assign(**{name: rows[name] + by * rows[name].std(ddof=0) for name in columns})


def emptied(rows: pd.DataFrame, columns: Sequence[str], share: float) -> pd.DataFrame:
    """The rows with a share of each column missing."""
    gone = np.zeros(len(rows), dtype=np.bool_)
    gone[: round(share * len(rows))] = True
    gone = np.random.default_rng(len(rows)).permutation(gone)
    return rows.assign(**{name: rows[name].mask(gone) for name in columns})


def smallest_caught(
    days: Mapping[date, pd.DataFrame],
    since: Mapping[str, date],
    policy: Drift,
    change: Callable[[pd.DataFrame, Sequence[str], float], pd.DataFrame],
    sizes: Sequence[float],
    sample: int,
) -> dict[str, float]:
    """By column, the smallest change of it that is caught on 90 % of the days; absent where none is.

    Columns are changed all at once: each is judged by itself.
    """
    history = pd.concat(days.values(), ignore_index=True)
    columns = [
        name
        for name in (*since, SCORE)
        if not statistics.has_categories(statistics.as_floats(history[name]), policy.bins)
    ]
    chosen = list(days)[:: max(1, len(days) // sample)][:sample]
    found: dict[str, float] = {}
    for size in sizes:
        caught = dict.fromkeys(columns, 0)
        for day in chosen:
            reference = pd.concat([rows for each, rows in days.items() if each != day], ignore_index=True)
            rows = change(days[day], [name for name in columns if name not in found], size)
            for figure in measure_columns(reference, rows, day, since, policy):
                judged = figure.metric in ("psi", "prediction_psi") and figure.subject in caught
                if judged and figure.status in (ALERT, RETRAIN):
                    caught[figure.subject] += 1
        for name, times in caught.items():
            if times >= CAUGHT * len(chosen):
                found.setdefault(name, size)
    return {name: found.get(name, float("inf")) for name in columns}


def smallest_in_slices(
    days: Mapping[date, pd.DataFrame],
    since: Mapping[str, date],
    policy: Drift,
    masks: Mapping[str, Callable[[pd.DataFrame], pd.Series]],
    sizes: Sequence[float],
    sample: int,
) -> dict[str, float]:
    """By slice, the smallest move of all columns within it alone that alerts on 90 % of the days."""
    chosen = list(days)[:: max(1, len(days) // sample)][:sample]
    found: dict[str, float] = {}
    for name, mask in masks.items():
        for size in sizes:
            caught = 0
            for day in chosen:
                reference = pd.concat([rows for each, rows in days.items() if each != day], ignore_index=True)
                rows, inside = days[day], mask(days[day])
                columns = [each for each in since if each in rows]
                rows = rows.copy()
                rows.loc[inside, columns] = moved(rows, columns, size).loc[inside, columns]
                found_here = measure_columns(reference, rows, day, since, policy, (name,))
                # another rule may see it too, which says nothing of this one
                caught += SLICE in rules_broken(found_here)
            if caught >= CAUGHT * len(chosen):
                found[name] = size
                break
        found.setdefault(name, float("inf"))
    return found


def with_shift(figures: RuleFigures, shifts: Mapping[str, float], unit: str) -> RuleFigures:
    """The rule with the smallest shift of the middle column and of the worst one."""
    if not shifts:
        return figures
    middle = float(np.median(list(shifts.values())))
    worst = max(shifts, key=lambda name: shifts[name])
    return figures.model_copy(
        update={
            "smallest_shift": middle if np.isfinite(middle) else None,
            "worst_shift": shifts[worst] if np.isfinite(shifts[worst]) else None,
            "worst_column": worst,
            "unit": unit,
        }
    )
