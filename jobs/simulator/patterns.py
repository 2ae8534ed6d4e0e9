"""The fraud patterns: what a fraudster adds to a day of honest transactions.

In: a config and a day. Out: frames of extra rows in the shape of `world.BASE_COLUMNS`, `pattern` naming
the fraud. Who is compromised when follows from the seed and the day on which it began, so a day needs no
state of the days before.
Source: own design.
"""

from __future__ import annotations

import math
from datetime import date, timedelta

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from jobs.simulator.world import (
    CARDS,
    NIGHT,
    TERMINALS,
    TESTING,
    SimulatorConfig,
    generator,
    rows_frame,
    seconds_of_day,
    world_of,
)

FRAUD_SHARE = 0.0115  # frauds over honest rows, all old patterns together
TERMINAL_PART, CARD_PART, NIGHT_PART = 0.45, 0.32, 0.23
NEW_PATTERN_SHARE = 0.008
TERMINAL_DAYS = (8, 13)  # a compromised terminal stays so for 8 to 12 days
CARD_DAYS = (4, 7)
FRAUDS_PER_TERMINAL = 2.0  # frauds a day over the terminal's usual transactions a day
FRAUDS_PER_CARD = 2.0  # frauds a day


def compromised(
    seed: int, stream: int, day: date, population: int, started: float, days: tuple[int, int]
) -> NDArray[np.int64]:
    """Indices that are compromised on a day, when `started` of them are hit on an average day."""
    hit: list[NDArray[np.int64]] = []
    for age in range(days[1] - 1):
        begun = day - timedelta(days=age)
        random = generator(seed, stream, begun)
        # evenly spread over the days: fraud comes and goes without luck deciding a month's figures
        count = math.floor(begun.toordinal() * started) - math.floor((begun.toordinal() - 1) * started)
        who = random.integers(0, population, size=count)
        lasts = random.integers(days[0], days[1], size=count)
        hit.append(who[lasts > age])
    return np.unique(np.concatenate(hit))


def terminal_fraud(config: SimulatorConfig, day: date) -> pd.DataFrame:
    """Copied cards used at a compromised terminal: rows that look like the terminal's others."""
    world = world_of(config)
    usual = config.rows_per_day / config.terminals
    frauds = max(1.0, FRAUDS_PER_TERMINAL * usual)
    duration = (TERMINAL_DAYS[0] + TERMINAL_DAYS[1] - 1) / 2
    started = config.rows_per_day * FRAUD_SHARE * TERMINAL_PART / frauds / duration
    hit = compromised(config.seed, TERMINALS, day, config.terminals, started, TERMINAL_DAYS)
    random = generator(config.seed + 1, TERMINALS, day)
    terminal = np.repeat(hit, random.poisson(frauds, size=len(hit)))
    count = len(terminal)
    customer = random.choice(config.customers, size=count, p=world.activity)
    amount = world.spending[customer] * random.lognormal(0.0, 0.6, size=count)
    return rows_frame(seconds_of_day(random, count), customer, terminal, amount, "terminal")


def card_fraud(config: SimulatorConfig, day: date) -> pd.DataFrame:
    """A stolen card for some days: three to six times the usual amount, at terminals anywhere."""
    world = world_of(config)
    duration = (CARD_DAYS[0] + CARD_DAYS[1] - 1) / 2
    started = config.rows_per_day * FRAUD_SHARE * CARD_PART / FRAUDS_PER_CARD / duration
    hit = compromised(config.seed, CARDS, day, config.customers, started, CARD_DAYS)
    random = generator(config.seed + 1, CARDS, day)
    customer = np.repeat(hit, random.poisson(FRAUDS_PER_CARD, size=len(hit)))
    count = len(customer)
    terminal = random.integers(0, config.terminals, size=count)
    habit = world.spending[customer] * random.lognormal(-0.12, 0.4, size=count)
    amount = habit * random.uniform(3.0, 6.0, size=count)
    return rows_frame(seconds_of_day(random, count), customer, terminal, amount, "card")


def night_fraud(config: SimulatorConfig, day: date) -> pd.DataFrame:
    """A card emptied in one night: two to four large amounts within an hour."""
    world, random = world_of(config), generator(config.seed, NIGHT, day)
    bursts = random.poisson(config.rows_per_day * FRAUD_SHARE * NIGHT_PART / 3.0)
    sizes = random.integers(2, 5, size=bursts)
    customer = np.repeat(random.integers(0, config.customers, size=bursts), sizes)
    start = np.repeat(random.integers(0, 5 * 3600, size=bursts), sizes)
    count = len(customer)
    second = start + random.integers(0, 3600, size=count)
    terminal = random.integers(0, config.terminals, size=count)
    amount = 9000 * random.lognormal(0.0, 0.5, size=count) + world.spending[customer]
    return rows_frame(second, customer, terminal, amount, "night")


def card_testing(config: SimulatorConfig, day: date) -> pd.DataFrame:
    """The new pattern: stolen numbers tried with tiny amounts by night, at other terminals every day."""
    random = generator(config.seed, TESTING, day)
    count = random.poisson(config.rows_per_day * NEW_PATTERN_SHARE)
    places = random.integers(0, config.terminals, size=max(3, config.terminals // 50))
    customer = random.integers(0, config.customers, size=count)
    terminal = random.choice(places, size=count)
    second = random.integers(3600, 6 * 3600, size=count)
    return rows_frame(second, customer, terminal, random.uniform(50, 400, size=count), "testing")


def fraud_rows(config: SimulatorConfig, day: date) -> list[pd.DataFrame]:
    """The frauds of a day, one frame a pattern."""
    frames = [terminal_fraud(config, day), card_fraud(config, day), night_fraud(config, day)]
    if config.new_pattern_from is not None and day >= config.new_pattern_from:
        frames.append(card_testing(config, day))
    return frames
