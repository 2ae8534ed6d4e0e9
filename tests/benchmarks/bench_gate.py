"""The gate's error rates: how often it lets a better model through, and stops a worse one.

50 seeded samples for each true PR-AUC ratio, with the policy's own bootstrap, on as many test rows as the
handbook and the simulated source have in 28 days; then on fewer rows, and for models that agree less or more.
"""

from __future__ import annotations

import os
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial

import numpy as np
from sklearn.metrics import average_precision_score

from jobs.conf.policy import Policy, load_policy
from jobs.evaluation.resampled import BOOTSTRAP_SEED, scored_models
from jobs.training.gate import GateResult
from tests.benchmarks.__main__ import Case, console
from tests.benchmarks.gate_trials import BETTER, EQUAL, FRAUD_SHARE, WORSE, Tally, World, draw, tally, trial

TRIALS = 50
HANDBOOK_ROWS, SIMULATED_ROWS, FEW_ROWS = 268_000, 70_000, 15_000
LIKE = 0.9  # correlation of the noise of two trainings of one family
SETTINGS = (  # rows, correlation, bootstrap samples where not the policy's
    (FEW_ROWS, LIKE, None),
    (SIMULATED_ROWS, LIKE, None),
    (HANDBOOK_ROWS, LIKE, None),
    (SIMULATED_ROWS, 0.5, 200),
    (SIMULATED_ROWS, 0.98, 200),
)
PLAIN_RESAMPLES = 5


def run() -> list[Case]:
    """Every figure of the gate."""
    policy = load_policy()
    cases = [bootstrap_seconds(policy)]
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        for rows, correlation, samples in SETTINGS:
            own = policy if samples is None else with_samples(policy, samples)
            for ratio in (BETTER, EQUAL, WORSE):
                world = World(ratio, rows, correlation)
                found = tally(pool.map(partial(verdict, world, own), range(TRIALS)))
                console.print(world, dict(found.verdicts), dict(found.blocking))
                cases += cases_of(world, found)
    return cases


def verdict(world: World, policy: Policy, seed: int) -> GateResult:
    """One trial, in a process of the pool."""
    return trial(world, seed, policy)


def with_samples(policy: Policy, samples: int) -> Policy:
    """The policy with fewer resamples: enough for a rate, not for a verdict."""
    return policy.model_copy(update={"gate": policy.gate.model_copy(update={"bootstrap_samples": samples})})


def cases_of(world: World, found: Tally) -> list[Case]:
    """The verdicts of one world; goals stand for the handbook's rows, the rest shows what they depend on."""
    automatic = found.verdicts["automatic"]
    passed = automatic + found.verdicts["person decides"]
    decides = world.rows == HANDBOOK_ROWS
    share = round(world.rows * FRAUD_SHARE)
    what = f"truly {world.ratio - 1:+.0%}, {share} frauds, correlation {world.correlation}"
    limits = {  # fewest and most that may pass, and that may be automatic
        BETTER: ((45, TRIALS), (0, TRIALS)),
        EQUAL: ((0, TRIALS), (0, 2)),
        WORSE: ((0, 0), (0, 0)),
    }
    cases = []
    for name, number, (low, high) in zip(
        ("not blocked", "automatic"), (passed, automatic), limits[world.ratio], strict=True
    ):
        goal = f">= {low}" if low else f"<= {high}" if high < TRIALS else ""
        goal = goal if decides else ""
        met = not goal or low <= number <= high
        cases.append(Case(f"{name}: {what}", number, None, f"of {TRIALS}", goal, met))
    return cases


def bootstrap_seconds(policy: Policy) -> Case:
    """Seconds for one model's intervals on the handbook's rows, beside scikit-learn on resampled rows."""
    rows, scores, _ = draw(World(EQUAL, HANDBOOK_ROWS, LIKE), 0)
    labels, samples = rows["is_fraud"].to_numpy(), policy.gate.bootstrap_samples
    start = time.perf_counter()
    scored_models({"challenger": scores}, labels, {}, samples)
    ours = time.perf_counter() - start
    generator = np.random.default_rng(BOOTSTRAP_SEED)
    start = time.perf_counter()
    for _ in range(PLAIN_RESAMPLES):
        drawn = generator.integers(0, len(labels), len(labels))
        average_precision_score(labels[drawn], scores[drawn])
    plain = (time.perf_counter() - start) * samples / PLAIN_RESAMPLES
    return Case(
        f"{samples} resamples of {HANDBOOK_ROWS:,} rows, beside average_precision_score of scikit-learn",
        ours, plain, "s", "ratio <= 0.2", ours <= 0.2 * plain,
    )  # fmt: skip
