"""A day beside reference days: the counts behind every drift figure, numbers in, figures out.

In: reference rows (model features, score, event_time UTC, amount_minor; whole days) and the day's rows with
the same columns. Out: `Figure`s of each feature, of each slice and of the score.
The reference is cut by whole days. Expected are its days of the same weekday, where these have enough rows,
else those of the same kind (working day or weekend), else all; how much days differ by themselves is read off
all days of the kind. Each column is put into bins once; every figure is a sum of the same counts.
A feature is above `investigate` only where its PSI, less what the samples' sizes explain, exceeds by
`psi_investigate` that of the most unusual reference day, and the distribution test agrees after Holm's
correction. See docs/decisions/0008-drift-and-canary-guards.md and 0027-a-budget-of-false-alarms.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from jobs.conf.policy import Drift
from jobs.features.declarations import FEATURES, Feature, Nulls
from jobs.monitoring import statistics
from jobs.monitoring.figures import ALERT, INVESTIGATE, OK, RETRAIN, SEVERITY, UNKNOWN, Figure, finite
from jobs.monitoring.interval import event_times
from jobs.monitoring.slice_members import Members, crossed, members_of
from jobs.monitoring.statistics import Floats

CALENDAR = ("is_weekend",)  # it selects the reference rows, so it says nothing
NULL_BY_WINDOW = {
    feature.name for feature in FEATURES if feature.nulls in (Nulls.EMPTY, Nulls.FEW, Nulls.FEWER)
}
RARE = 0.01  # share of rows with a value
SCORE = "score"
FEWEST_ROWS_A_DAY = 30
SATURDAY = 5
Mask = npt.NDArray[np.bool_]


class Days(NamedTuple):
    """The reference rows of one kind of day, and what tells their days apart."""

    rows: pd.DataFrame
    codes: npt.NDArray[np.int64]  # of each row, into `names`
    names: tuple[date, ...]
    weekday: Mask  # [days] those of the same weekday

    def chosen(self, since: date) -> Mask:
        """[days] from a day on."""
        return np.array([name >= since for name in self.names], dtype=np.bool_)


class Counts(NamedTuple):
    """One column in bins, of all rows or with an axis of slices; the last bin holds what is missing."""

    usual: Floats  # [..., days, bins] each day of the kind
    expected: Floats  # [..., bins] what the day is held against
    actual: Floats  # [..., bins] the day


class Distance(NamedTuple):
    """How far a day is, how far the most unusual reference day is from the others, the test's p-value."""

    psi: float
    excess: float
    usual: float
    p_value: float


class Compared(NamedTuple):
    """What the figures of one column say."""

    distance: Distance
    jensen_shannon: float
    kullback_leibler: float


def reference_days(reference: pd.DataFrame, day: date, minimum: int) -> Days:
    """The reference rows that a day is compared with."""
    times = event_times(reference)
    alike = (times.dt.weekday >= SATURDAY) == (day.weekday() >= SATURDAY)
    rows = reference[alike] if alike.sum() >= minimum else reference
    codes, dates = pd.factorize(event_times(rows).dt.normalize(), sort=True)
    names = tuple(each.date() for each in dates)
    weekday = np.array([name.weekday() == day.weekday() for name in names], dtype=np.bool_)
    return Days(rows, codes.astype(np.int64), names, weekday)


def days_until_full(feature: Feature, delay_days: int) -> int:
    """Days of history before a feature's window is full."""
    return feature.window.days + (delay_days if feature.delayed else 0)


def expected_of(by_day: Floats, weekday: Mask, minimum: int) -> Floats:
    """[..., bins] The counts of the same weekday, where they are enough, else of all days."""
    same = by_day[..., weekday, :].sum(axis=-2)
    enough = same.sum(axis=-1, keepdims=True) >= minimum
    return np.asarray(np.where(enough, same, by_day.sum(axis=-2)))


def usual_excess(by_day: Floats, floor: float) -> Floats:
    """[...] The largest excess PSI of a reference day against the other ones; 0 where there is one only."""
    rest = by_day.sum(axis=-2, keepdims=True) - by_day
    large = np.minimum(by_day.sum(axis=-1), rest.sum(axis=-1)) >= FEWEST_ROWS_A_DAY
    found = np.where(large, statistics.excess_psi(rest, by_day, floor), 0.0)
    return np.asarray(found.max(axis=-1, initial=0.0))


def compared(counts: Counts, p_value: float, floor: float) -> Compared:
    """The distances of one column."""
    pair = statistics.shares_of_counts(counts.expected, counts.actual, floor)
    used = (pair[0] > 0) & (pair[1] > 0)
    expected, actual = pair[0][used], pair[1][used]
    return Compared(
        Distance(
            psi=float(statistics.psi_of_counts(counts.expected, counts.actual, floor)),
            excess=float(statistics.excess_psi(counts.expected, counts.actual, floor)),
            usual=float(usual_excess(counts.usual, floor)),
            p_value=p_value,
        ),
        jensen_shannon=statistics.jensen_shannon(expected, actual),
        kullback_leibler=statistics.kullback_leibler(actual, expected),
    )


def psi_status(psi: float, policy: Drift) -> str:
    """The policy's bands."""
    if not np.isfinite(psi):
        return UNKNOWN
    if psi < policy.psi_investigate:
        return OK
    if psi < policy.psi_alert:
        return INVESTIGATE
    return ALERT if psi < policy.psi_retrain else RETRAIN


def guarded(status: str, found: Distance, margin: float, policy: Drift) -> tuple[str, str]:
    """A status above `investigate` only where the day is unusual and the distribution test agrees."""
    if SEVERITY.index(status) <= SEVERITY.index(UNKNOWN):
        return status, ""
    told = f"PSI {found.psi:.2f}"
    if found.excess <= found.usual + margin:
        return INVESTIGATE, f"{told}, days of the reference reach {found.usual:.2f} among themselves"
    if not found.p_value < policy.significance:
        return INVESTIGATE, f"{told}, p {found.p_value:.2g} of the distribution test"
    return status, f"{told} against at most {found.usual:.2f} among the reference's own days"


def measure(
    reference: pd.DataFrame,
    current: pd.DataFrame,
    day: date,
    first_day: date,
    delay_days: int,
    policy: Drift,
    slices: Sequence[str] = (),
) -> list[Figure]:
    """Figures of every feature, of the slices of a contract and of the score.

    `first_day` is the first day of history: before a feature's window was full its values were others.
    """
    if len(current) < policy.minimum_rows or len(reference) < policy.minimum_rows:
        detail = f"{len(reference)} reference and {len(current)} current rows, needed {policy.minimum_rows}"
        return [Figure(metric="psi", subject="all", status=UNKNOWN, detail=detail,
                       threshold=policy.psi_retrain)]  # fmt: skip
    return measure_columns(reference, current, day, first_full_days(first_day, delay_days), policy, slices)


def first_full_days(first_day: date, delay_days: int) -> dict[str, date]:
    """By feature, the first day of a history on which its window is full."""
    return {
        feature.name: first_day + timedelta(days=days_until_full(feature, delay_days))
        for feature in FEATURES
        if feature.name not in CALENDAR
    }


def measure_columns(
    reference: pd.DataFrame,
    current: pd.DataFrame,
    day: date,
    since: Mapping[str, date],
    policy: Drift,
    slices: Sequence[str] = (),
) -> list[Figure]:
    """`measure` for any columns: each with the first day from which the reference holds it as it is now."""
    days = reference_days(reference, day, policy.minimum_rows)
    members, small = members_of(days.rows, current, slices, policy.slice_rows_min)
    figures = [
        Figure(metric="slice_psi", subject=name, detail=f"{sizes[0]} reference and {sizes[1]} current rows, "
               f"needed {policy.slice_rows_min}: not compared")
        for name, sizes in small.items()
    ]  # fmt: skip
    columns: dict[str, Compared] = {}
    within: dict[str, Counts] = {}
    for name, first in since.items():
        found = compare_column(name, days, current, first, policy, members)
        if isinstance(found, Figure):
            figures.append(found)
            continue
        columns[name], within[name] = found
    adjusted = statistics.holm([each.distance.p_value for each in columns.values()])
    loud: set[str] = set()
    for (name, each), p_value in zip(columns.items(), adjusted, strict=True):
        corrected = each._replace(distance=each.distance._replace(p_value=p_value))
        of_column = feature_figures(name, corrected, policy)
        loud |= {name} if of_column[0].status in (ALERT, RETRAIN) else set()
        figures += of_column
    scores = compare_column(SCORE, days, current, days.names[0], policy, members)
    figures += score_figures(scores, policy)
    if isinstance(scores, tuple):
        within[SCORE] = scores[1]
    quiet = {name: counts for name, counts in within.items() if name not in loud}
    return [*figures, *slice_figures(members.names, quiet, policy)]


def compare_column(
    name: str,
    days: Days,
    current: pd.DataFrame,
    since: date,
    policy: Drift,
    members: Members | None = None,
) -> tuple[Compared, Counts] | Figure:
    """One column against the days that held it as it is now, and its counts [slices, …] within the slices.

    A figure instead, where there is nothing to compare.
    """
    chosen = days.chosen(since)
    kept = chosen[days.codes]
    if name not in days.rows or kept.sum() < policy.minimum_rows:
        # nothing is wrong with the day: the reference is too young to say what is usual
        status = INVESTIGATE if name in days.rows else UNKNOWN
        detail = f"{int(kept.sum())} reference rows with a full window: not compared"
        return Figure(metric=_metric(name), subject=name, status=status, detail=detail)
    if members is None:
        members, _ = members_of(days.rows, current, (), policy.slice_rows_min)
    expected = statistics.as_floats(days.rows[name])
    actual, codes = statistics.as_floats(current[name]), members.current
    if name == SCORE:
        expected, actual = np.round(expected, 6), np.round(actual, 6)
        there = ~np.isnan(actual)
        actual, codes = actual[there], codes[there]  # an answer of another version has no score of this one
        if actual.size < policy.minimum_rows:
            detail = f"{actual.size} scores, needed {policy.minimum_rows}"
            return Figure(metric=_metric(name), subject=name, status=UNKNOWN, detail=detail)
    if np.isnan(expected[kept]).all() or actual.size == 0 or np.isnan(actual).all():
        return _without_values(name, expected[kept], actual)
    edges = statistics.quantile_edges(expected[kept], policy.bins if name != SCORE else policy.score_buckets)
    bins = len(edges) + 2
    places, mine = statistics.bin_places(expected, edges), statistics.bin_places(actual, edges)
    by_day = crossed((members.reference[kept], members.codes), (days.codes[kept], len(days.names)),
                     (places[kept], bins))[:, chosen]  # fmt: skip
    now = crossed((codes, members.codes), (mine, bins))
    enough, weekday = policy.minimum_rows, days.weekday[chosen]

    def counted(usual: Floats, actual: Floats, enough: int) -> Counts:
        return Counts(usual, expected_of(usual, weekday, enough), actual)

    counts = counted(by_day.sum(axis=0), now.sum(axis=0), enough)
    if name == SCORE or statistics.has_categories(expected[kept], policy.bins):
        p_value = _chi_square(counts)  # the bins say all that there is
    else:
        same = kept & days.weekday[days.codes]
        held = expected[same if same.sum() >= enough else kept]
        if np.isnan(held).all():  # other days of the kind have values, and the test would have none
            return _without_values(name, held, actual)
        p_value = _distribution_p(held, actual)
    inside = np.tensordot(members.inside, by_day, 1), members.inside @ now
    of_slices = counted(*inside, policy.slice_rows_min)
    return compared(counts, p_value, policy.bin_floor), of_slices


def _without_values(name: str, expected: Floats, actual: Floats) -> Figure:
    # a window that hardly ever holds enough has no value in many a sample, and nothing is wrong with it
    rare = name in NULL_BY_WINDOW and max(_share_there(expected), _share_there(actual)) <= RARE
    detail = "hardly ever has a value: not compared" if rare else "no value in the reference or in the day"
    return Figure(metric=_metric(name), subject=name, status=INVESTIGATE if rare else UNKNOWN, detail=detail)


def _metric(name: str) -> str:
    return "prediction_psi" if name == SCORE else "psi"


def _share_there(values: Floats) -> float:
    return float(np.mean(~np.isnan(values))) if len(values) else 0.0


def feature_figures(name: str, found: Compared, policy: Drift) -> list[Figure]:
    """PSI, divergences and the adjusted p-value of one feature."""
    distance = found.distance
    status, detail = guarded(psi_status(distance.psi, policy), distance, policy.psi_investigate, policy)
    return [
        Figure(metric="psi", subject=name, value=finite(distance.psi), threshold=policy.psi_retrain,
               status=status, detail=detail),
        Figure(metric="psi_usual", subject=name, value=finite(distance.usual)),
        Figure(metric="jensen_shannon", subject=name, value=finite(found.jensen_shannon),
               threshold=policy.jensen_shannon_high,
               status=_high(found.jensen_shannon, policy.jensen_shannon_high, status)),
        Figure(metric="kullback_leibler", subject=name, value=finite(found.kullback_leibler),
               threshold=policy.kullback_leibler_high,
               status=_high(found.kullback_leibler, policy.kullback_leibler_high, status)),
        Figure(metric="ks_p_holm", subject=name, value=finite(distance.p_value),
               threshold=policy.significance),
    ]  # fmt: skip


def _high(value: float, threshold: float, psi_status: str) -> str:
    """The divergences describe the same bins: they never say more than PSI with its guards."""
    return INVESTIGATE if value >= threshold and psi_status != OK else OK


def score_figures(
    found: tuple[Compared, Counts] | Figure, policy: Drift, margin: float | None = None
) -> list[Figure]:
    """Prediction drift: chi-square on counts in the score buckets, together with PSI on the same ones.

    `margin` is how much more unusual than the reference's days it must be; `psi_investigate` for a whole day.
    """
    if isinstance(found, Figure):
        return [found]
    score = found[0].distance
    moved = score.p_value < policy.significance and score.psi >= policy.psi_investigate
    unusual = score.excess > score.usual + (policy.psi_investigate if margin is None else margin)
    status = (ALERT if unusual else INVESTIGATE) if moved else OK
    return [
        Figure(metric="prediction_psi", subject=SCORE, value=finite(score.psi),
               threshold=policy.psi_investigate, status=status,
               detail=f"days of the reference reach {score.usual:.2f} among themselves"),
        Figure(metric="prediction_chi_square_p", subject=SCORE, value=finite(score.p_value),
               threshold=policy.significance),
    ]  # fmt: skip


def slice_figures(names: Sequence[str], within: Mapping[str, Counts], policy: Drift) -> list[Figure]:
    """Of each slice the column that moved most; `within` leaves out those that the whole shows already.

    The rules are those of a feature, but a slice must be more unusual: there are a thousand figures, each of
    few customers. p-values are corrected for all columns of all slices. A slice never retrains.
    """
    if not within or not names:
        return []
    floor = policy.bin_floor
    sizes = [np.minimum(each.expected.sum(axis=-1), each.actual.sum(axis=-1)) for each in within.values()]
    enough = np.stack(sizes) >= policy.slice_rows_min  # [columns, slices], as all that follows
    psi = np.stack([statistics.psi_of_counts(each.expected, each.actual, floor) for each in within.values()])
    excess = np.stack([statistics.excess_psi(each.expected, each.actual, floor) for each in within.values()])
    usual = np.stack([usual_excess(each.usual, floor) for each in within.values()])
    p_values = np.stack([statistics.chi_square(each.expected, each.actual) for each in within.values()])
    p_values[enough] = statistics.holm(p_values[enough].tolist())
    gap = np.where(enough, excess - usual, -np.inf)
    figures = []
    for place in np.flatnonzero(enough.any(axis=0)).tolist():
        column = int(gap[:, place].argmax())
        found = Distance(*(float(each[column, place]) for each in (psi, excess, usual, p_values)))
        status, detail = guarded(psi_status(found.psi, policy), found, policy.slice_margin, policy)
        status = ALERT if status == RETRAIN else status
        told = f"{list(within)[column]}: {detail or f'PSI {found.psi:.2f}'}"
        figures.append(
            Figure(metric="slice_psi", subject=names[place], value=finite(found.psi),
                   threshold=policy.psi_alert, status=status, detail=told)
        )  # fmt: skip
    return figures


def _chi_square(counts: Counts) -> float:
    return float(statistics.chi_square(counts.expected, counts.actual))


def _distribution_p(expected: Floats, actual: Floats) -> float:
    # the test of distributions sees no missing values, so they have one of their own
    both = statistics.kolmogorov_smirnov(expected, actual), _missing_p(expected, actual)
    return min(1.0, 2 * min(both))


def _missing_p(expected: Floats, actual: Floats) -> float:
    """p-value that as large a share is missing."""
    sides = [statistics.bin_counts(each, np.empty(0)) for each in (expected, actual)]
    return float(statistics.chi_square(sides[0], sides[1]))
