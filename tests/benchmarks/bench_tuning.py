"""Successive halving beside the same sampler without pruning, and beside random search.

In: the handbook's days: 28 to tune on, seven of embargo, seven that validate; the published features. Of the
tuning days one card in four, so that no search takes longer than minutes; validation rows are all there.
Every way is the search of `tune_model` itself with another policy: 50 trials of at most 64 units of 4 rounds,
in a process of its own with one thread, two at a time. Unpruned means every trial uses all units.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from datetime import date
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from statistics import mean

import optuna
import pandas as pd
from optuna.trial import TrialState

from jobs.conf.policy import Policy, load_policy
from jobs.conf.settings import Settings
from jobs.training import tune
from jobs.training.boosting import boost
from jobs.training.frame import TUNING, split_days
from jobs.training.run_folder import RunFolder
from tests.benchmarks.__main__ import Case
from tests.benchmarks.features_data import DELAY_DAYS, HANDBOOK, handbook_days
from tests.benchmarks.features_process import CORES, same_cores
from tests.benchmarks.features_published import COLUMNS

LAST = date(2018, 8, 14)  # the last day of the test rows, which no search sees
TUNING_DAYS, VALIDATION_DAYS, TEST_DAYS = 28, 7, 7
CARDS = 4  # one of so many is tuned on
FEATURES = ("TX_AMOUNT", *COLUMNS)
LOWER = 0.003  # PR-AUC that pruning may cost
SHARE = 0.45  # of the rounds and of the time
CHOSEN = {"max_depth": 6, "eta": 0.1}

OURS, TWO, PATIENCE, UNPRUNED, RANDOM = "ours", "two workers", "patience only", "unpruned", "random"


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    seeds: tuple[int, ...] = (7, 17, 27, 37, 47)
    trials: int = 50


@dataclass(frozen=True)
class Way:
    """A search: what differs from the policy, and whether trials are pruned."""

    prunes: bool = True
    differs: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Found:
    """What a search of one seed came to."""

    pr_auc: float
    rounds: int
    seconds: float
    pruned: int
    impatient: int


def ways(trials: int) -> dict[str, Way]:
    """What is compared."""
    every_unit = {"patience_units": load_policy().tuning.max_units}
    return {
        OURS: Way(),
        TWO: Way(differs={"workers": 2}),
        PATIENCE: Way(prunes=False),
        UNPRUNED: Way(prunes=False, differs=every_unit),
        RANDOM: Way(prunes=False, differs=every_unit | {"random_trials": trials}),
    }


def run(sizes: Sizes | None = None) -> list[Case]:
    """Every figure of the tuning."""
    sizes = sizes or Sizes()
    if not handbook_days():
        print(f"skipped: there is no data set at {HANDBOOK}")
        return [Case("tuning: no data set", 0.0, None, "s", "the handbook's data", met=False)]
    same_cores()
    os.environ["OMP_NUM_THREADS"] = "1"  # of every process that is started here
    print(f"load average at the start: {os.getloadavg()[0]:.1f} on {CORES} of {os.cpu_count()} cores")
    with tempfile.TemporaryDirectory(prefix="bench_tuning") as folder:
        home = Path(folder)
        write_frame(home)
        tasks = [(home, way, seed, sizes.trials) for seed in sizes.seeds for way in ways(sizes.trials)]
        with ProcessPoolExecutor(CORES, mp_context=get_context("spawn")) as pool:
            done = list(pool.map(search, *zip(*tasks, strict=True)))
        with_units, without = units_cost(home)
    found: dict[str, list[Found]] = {way: [] for way in ways(sizes.trials)}
    for (_, way, seed, _), result in zip(tasks, done, strict=True):
        found[way].append(result)
        print(
            f"seed {seed}, {way}: PR-AUC {result.pr_auc:.4f}, {result.rounds} rounds in "
            f"{result.seconds:.0f} s, {result.pruned} pruned, {result.impatient} gained nothing more"
        )
    return [
        *beside(found, UNPRUNED, "the same sampler unpruned", goal=True),
        *beside(found, RANDOM, "random search", goal=True),
        *beside(found, PATIENCE, "the same sampler with patience only", goal=False),
        *beside(found, TWO, "two workers with half of the trials each", goal=False),
        Case("256 rounds with the validation's PR-AUC after every 4, beside without", with_units, without,
             "s", "shown", met=True),
    ]  # fmt: skip


def beside(found: dict[str, list[Found]], peer: str, name: str, *, goal: bool) -> list[Case]:
    """Score, rounds and time of ours beside a peer's, the mean of all seeds."""

    def figures(value: Callable[[Found], float]) -> tuple[float, float]:
        return mean(map(value, found[OURS])), mean(map(value, found[peer]))

    score = figures(lambda one: one.pr_auc)
    costs = {"rounds": figures(lambda one: one.rounds), "s": figures(lambda one: one.seconds)}
    wanted = f">= peer - {LOWER}" if goal else "shown"
    return [
        Case(f"best validation PR-AUC, beside {name}", *score, "", wanted,
             not goal or score[0] >= score[1] - LOWER),
        *(
            Case(f"{'boosting rounds' if unit == 'rounds' else 'wall time'}, beside {name}", *pair, unit,
                 f"ratio <= {SHARE}" if goal else "shown", not goal or pair[0] <= SHARE * pair[1])
            for unit, pair in costs.items()
        ),
    ]  # fmt: skip


def write_frame(home: Path) -> None:
    """The rows as `build_frame` splits them."""
    from tests.benchmarks.handbook_features import published_frame, raw_transactions

    training = load_policy().training.model_copy(
        update={
            "window_days": TUNING_DAYS + DELAY_DAYS + VALIDATION_DAYS,
            "validation_days": VALIDATION_DAYS,
            "test_days": TEST_DAYS,
        }
    )
    split = split_days(LAST, training, DELAY_DAYS)
    rows = raw_transactions()
    rows = rows[rows["day"].between(pd.Timestamp(split.fit_first), pd.Timestamp(split.test_last))]
    roles = {day: split.role(day.date()) for day in rows["day"].unique()}
    rows = rows.merge(published_frame(), on="TRANSACTION_ID", validate="one_to_one")
    rows = rows.assign(
        role=rows["day"].map(roles), is_fraud=rows["TX_FRAUD"], training_label=rows["TX_FRAUD"]
    )
    rows = rows[(rows["role"] != TUNING) | (rows["CUSTOMER_ID"] % CARDS == 0)]
    counts = rows.groupby("role")["is_fraud"].agg(["size", "sum"]).to_dict("index")
    print(f"rows and frauds: {counts}")
    RunFolder(Settings(home=home), "frame").write_frame(
        "frame.parquet", rows[["role", "is_fraud", "training_label", *FEATURES]]
    )


@cache
def rows_of(home: Path) -> tune.Rows:
    return tune.Rows(RunFolder(Settings(home=home), "frame").read_frame("frame.parquet"), FEATURES)


def policy_of_way(way: Way, seed: int, trials: int) -> Policy:
    policy = load_policy()
    tuning = policy.tuning.model_copy(update={"workers": 1, "trials": trials} | way.differs)
    training = policy.training.model_copy(update={"seeds": (seed,)})
    return policy.model_copy(update={"tuning": tuning, "training": training})


def search(home: Path, name: str, seed: int, trials: int) -> Found:
    """A whole search of one way and seed; its workers, where it has several, one after the other."""
    way = ways(trials)[name]
    policy = policy_of_way(way, seed, trials)
    rows, folder = rows_of(home), RunFolder(Settings(home=home), f"{name} {seed}")
    start = time.perf_counter()
    done = []
    for worker in range(policy.tuning.workers):
        study = tune.open_study(folder, worker, policy.tuning)
        if not way.prunes:
            study.pruner = optuna.pruners.NopPruner()
        done += list(tune.search(study, rows, policy, worker, threads=1))
    seconds = time.perf_counter() - start
    return Found(
        pr_auc=tune.winner(folder, policy.tuning).validation_pr_auc,
        rounds=sum(len(trial.intermediate_values) for trial in done) * policy.tuning.rounds_per_unit,
        seconds=seconds,
        pruned=sum(trial.state is TrialState.PRUNED for trial in done),
        impatient=sum(trial.user_attrs["stopped"].startswith("nothing") for trial in done),
    )


def units_cost(home: Path) -> tuple[float, float]:
    """Seconds of one full trial, and of the same rounds without a look at the validation rows."""
    policy, rows = policy_of_way(ways(1)[UNPRUNED], 7, 1), rows_of(home)
    study = tune.open_study(RunFolder(Settings(home=home), "units"), 0, policy.tuning)
    study.pruner = optuna.pruners.NopPruner()
    rounds = policy.tuning.max_units * policy.tuning.rounds_per_unit

    def seconds(watched: bool) -> float:
        looks = [tune.UnitCallback(study.ask(), rows, policy.tuning, 1)] if watched else []
        start = time.perf_counter()
        boost(rows.binned(1)[0], rows.labels, CHOSEN, rounds, seed=7, threads=1, callbacks=looks)
        return time.perf_counter() - start

    return min(seconds(True) for _ in range(3)), min(seconds(False) for _ in range(3))
