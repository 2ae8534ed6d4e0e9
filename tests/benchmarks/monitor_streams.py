"""Streams of days with a change put in, on the simulator's own features: what monitoring must find.

A change begins at noon of its first day, so that changed rows make up about half of it. Feed delay: the rows
from an hour on are missing, which is drawn anew each day. Subgroup only: a column moves within a slice, both
by the seed. Concept change: half of the frauds that were stopped are scored like good transactions from then
on, which no input shows. Creep: a twentieth of a deviation more each day.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from typing import NamedTuple

import numpy as np
import pandas as pd

from jobs.conf.policy import Policy
from jobs.evaluation.slices import SLICES
from jobs.monitoring.comparison import measure_columns
from jobs.monitoring.false_alarms import disputed as known_disputes
from jobs.monitoring.figures import LOUD
from jobs.monitoring.other_days import share_beside
from jobs.monitoring.service import answers_figure

ABRUPT = ("mean", "variance", "missing", "new category", "feed delay", "concept change", "subgroup only")
KINDS = (*ABRUPT, "slow creep")
CREEP_A_DAY = 0.05
DELAY_DAYS = 2  # until most chargebacks of a day are there
SUBGROUPS = ("quiet_customer", "night", "new_pair", "evening", "morning")  # of 100 rows a day and more
WITHIN = (
    "amount",
    "amount_to_mean_30d",
    "customer_amount_mean_7d",
    "customer_amount_sum_30d",
    "terminal_count_7d",
    "terminal_amount_mean_30d",
)  # none of which a subgroup is chosen by
NUMBERS = ("amount", "amount_to_mean_30d", "customer_amount_mean_7d", "customer_count_30d",
           "customer_amount_sum_30d", "terminal_count_7d", "terminal_amount_mean_30d", "hour")  # fmt: skip
CODES = ("is_night", "pair_is_new_30d")


class Stream(NamedTuple):
    """Reference rows, and the days after them."""

    reference: pd.DataFrame
    past: dict[date, pd.DataFrame]
    days: dict[date, pd.DataFrame]


def changed(
    rows: pd.DataFrame, kind: str, age: int, generator: np.random.Generator, name: str, subgroup: str
) -> pd.DataFrame:
    """A day's rows `age` days after the change of a column began, where it is one within the subgroup."""
    afternoon = (rows["hour"] >= 12).to_numpy() if age == 0 else np.ones(len(rows), dtype=np.bool_)
    values, found = rows[name], rows.copy()
    deviation = float(np.nanstd(values))
    if kind == "mean":
        found[name] = values + deviation * afternoon
    elif kind == "variance":
        found[name] = np.where(afternoon, values.mean() + 2 * (values - values.mean()), values)
    elif kind == "missing":
        found[name] = values.mask(afternoon & (generator.random(len(rows)) < 0.2))
    elif kind == "new category":
        found[name] = values.mask(afternoon & (generator.random(len(rows)) < 0.2), 2.0)
    elif kind == "feed delay":
        found = rows[(rows["hour"] < generator.integers(9, 17)).to_numpy()]
    elif kind == "concept change":
        missed = afternoon & (rows["is_fraud"] == 1) & (generator.random(len(rows)) < 0.5)
        found["score"] = rows["score"].mask(missed, 0.001)
    elif kind == "subgroup only":
        inside = afternoon & SLICES[subgroup](rows).to_numpy()
        found[name] = values + deviation * inside
    elif kind == "slow creep":
        found[name] = values + deviation * CREEP_A_DAY * (age + 1)
    return found


def alarms(
    stream: Stream, day: date, rows: pd.DataFrame, disputed: pd.DataFrame | None, since: dict[str, date],
    slices: tuple[str, ...], policy: Policy,
) -> list[str]:  # fmt: skip
    """What our rules say of a day: drift, volume, and early disputes of the day whose chargebacks are in."""
    figures = measure_columns(stream.reference, rows, day, since, policy.drift, slices)
    same = [len(each) for name, each in stream.past.items() if name.weekday() == day.weekday()]
    figures.append(answers_figure(len(rows), same[-policy.quality.volume_weeks :], policy))
    if disputed is not None:
        usual = [known_disputes(each, policy) for each in stream.past.values()]
        figures.append(share_beside("early_disputes", known_disputes(disputed, policy), usual, policy))
    return [f"{each.metric} {each.subject}" for each in figures if each.status in LOUD]


def played(
    stream: Stream, kind: str, seed: int
) -> Iterator[tuple[int, date, pd.DataFrame, pd.DataFrame | None]]:
    """Age, day, its rows, and the rows whose chargebacks are known by then."""
    generator = np.random.default_rng([seed, KINDS.index(kind)])
    pool = {"new category": CODES, "subgroup only": WITHIN}.get(kind, NUMBERS)
    name, subgroup = pool[seed % len(pool)], SUBGROUPS[seed % len(SUBGROUPS)]
    seen: list[pd.DataFrame] = []
    for age, (day, rows) in enumerate(stream.days.items()):
        seen.append(changed(rows, kind, age, generator, name, subgroup))
        yield age, day, seen[-1], seen[age - DELAY_DAYS] if age >= DELAY_DAYS else None
