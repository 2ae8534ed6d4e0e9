"""Customers, terminals and a day of honest transactions.

In: a `SimulatorConfig` and a day. Out: a frame of honest rows, columns `BASE_COLUMNS`, amounts in minor
units, `second` counted from midnight UTC. Every random draw comes from a generator of its own, seeded by
(seed, stream, day), so any day can be made without the days before it.
Source: own design.
"""

from __future__ import annotations

from datetime import date
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field

from jobs.core import StrictModel

BASE_COLUMNS = ("second", "customer_id", "terminal_id", "amount_minor", "pattern")
DAY_SECONDS = 86_400
HONEST = "none"

# streams of random numbers; a new one never disturbs the others
WORLD, HONEST_ROWS, TERMINALS, CARDS, NIGHT, TESTING, REPORTS, FAULTS = range(8)

NEAR_TERMINALS = 12  # a customer's usual terminals
UNUSUAL_SHARE = 0.04  # honest rows at any other terminal
NIGHT_SHARE = 0.035  # honest rows at a time that does not follow the day's rhythm
LARGE_SHARE = 0.008  # honest rows that are larger than the customer's habit
WEEKDAY_FACTOR = (0.94, 0.95, 0.98, 1.02, 1.12, 1.13, 0.86)  # Monday first, mean 1


class SimulatorConfig(StrictModel):
    """Everything that decides what a day looks like."""

    seed: int = Field(7, ge=0, description="same seed, same data")
    rows_per_day: int = Field(2500, ge=50, description="transactions of an average day")
    customers: int = Field(1250, ge=20, description="number of card holders")
    terminals: int = Field(600, ge=20, description="number of payment terminals")
    new_pattern_from: date | None = Field(
        None, description="first day of the new fraud pattern (card testing)"
    )
    broken_day: date | None = Field(None, description="a day with about 2 % broken rows")
    failing_day: date | None = Field(None, description="a day whose feed fails the quality gate")


class World(NamedTuple):
    """Who exists; arrays by customer (n) or terminal (m)."""

    near: NDArray[np.int64]  # (n, NEAR_TERMINALS) indices of terminals, nearest first
    spending: NDArray[np.float64]  # (n,) usual amount in minor units
    activity: NDArray[np.float64]  # (n,) share of a day's transactions, sums to 1
    popularity: NDArray[np.float64]  # (m,) share of the draws of unusual terminals, sums to 1


def generator(seed: int, stream: int, day: date | None = None) -> np.random.Generator:
    """The random numbers of one stream on one day."""
    return np.random.default_rng([seed, stream, day.toordinal() if day else 0])


@lru_cache(maxsize=4)
def build_world(seed: int, customers: int, terminals: int) -> World:
    """Customers and terminals on a square of 100 by 100, each customer with the terminals near home."""
    random = generator(seed, WORLD)
    homes = random.uniform(0, 100, size=(customers, 2))
    places = random.uniform(0, 100, size=(terminals, 2))
    distance = ((homes[:, None, :] - places[None, :, :]) ** 2).sum(axis=2)
    near = np.argsort(distance, axis=1, kind="stable")[:, :NEAR_TERMINALS]
    spending = 3500.0 * random.lognormal(0.0, 0.55, size=customers)
    activity = random.gamma(1.6, 1.0, size=customers) + 0.15
    popularity = random.gamma(2.0, 1.0, size=terminals)
    return World(near.astype(np.int64), spending, activity / activity.sum(), popularity / popularity.sum())


def world_of(config: SimulatorConfig) -> World:
    return build_world(config.seed, config.customers, config.terminals)


def seconds_of_day(random: np.random.Generator, count: int) -> NDArray[np.int64]:
    """Two busy times, noon and early evening, and a few purchases at any hour."""
    evening = random.random(count) < 0.45
    hours = np.where(evening, random.normal(18.4, 2.0, count), random.normal(12.2, 2.6, count))
    anytime = random.random(count) < NIGHT_SHARE
    hours = np.where(anytime, random.uniform(0, 24, count), np.clip(hours, 6.0, 23.99))
    return np.minimum((hours * 3600).astype(np.int64), DAY_SECONDS - 1)


def rows_frame(
    second: NDArray[np.int64],
    customer: NDArray[np.int64],
    terminal: NDArray[np.int64],
    amount: NDArray[np.float64],
    pattern: str,
) -> pd.DataFrame:
    """Rows from indices (from 0) and amounts; identifiers start at 1, amounts at 0.50."""
    return pd.DataFrame(
        {
            "second": second,
            "customer_id": customer + 1,
            "terminal_id": terminal + 1,
            "amount_minor": np.clip(np.rint(amount), 50, 1_500_000).astype(np.int64),
            "pattern": pattern,
        }
    )


def honest_rows(config: SimulatorConfig, day: date) -> pd.DataFrame:
    """A day of customers at the terminals near them."""
    world, random = world_of(config), generator(config.seed, HONEST_ROWS, day)
    expected = config.rows_per_day * WEEKDAY_FACTOR[day.weekday()]
    per_customer = random.poisson(world.activity * expected)
    customer = np.repeat(np.arange(config.customers), per_customer)
    count = len(customer)
    rank = np.minimum(random.geometric(0.22, size=count) - 1, NEAR_TERMINALS - 1)
    terminal = world.near[customer, np.minimum(rank, world.near.shape[1] - 1)]
    unusual = random.random(count) < UNUSUAL_SHARE
    elsewhere = random.choice(config.terminals, size=count, p=world.popularity)
    terminal = np.where(unusual, elsewhere, terminal)
    amount = world.spending[customer] * random.lognormal(-0.12, 0.5, size=count)
    large = random.random(count) < LARGE_SHARE
    amount = np.where(large, amount * random.uniform(2.0, 5.0, size=count), amount)
    return rows_frame(seconds_of_day(random, count), customer, terminal, amount, HONEST)
