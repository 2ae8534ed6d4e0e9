"""How often the gate errs: models whose true PR-AUC is known, and a group that is treated differently."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from jobs.conf.policy import load_policy
from jobs.evaluation.metrics import interval
from jobs.evaluation.resampled import scored_models
from jobs.training.evaluate import paired
from tests.benchmarks.gate_trials import (
    BETTER,
    EQUAL,
    WORSE,
    World,
    draw,
    population_pr_auc,
    strength_for,
    tally,
    trial,
)

POLICY = load_policy()
QUICK = POLICY.model_copy(update={"gate": POLICY.gate.model_copy(update={"bootstrap_samples": 100})})
ROWS, TRIALS = 60_000, 8  # 500 frauds, as the simulated source has in 28 days
RESAMPLES = 400


@pytest.mark.parametrize("ratio", [BETTER, WORSE])
def test_the_generator_has_the_pr_auc_that_it_says(ratio: float) -> None:
    rows, challenger, champion = draw(World(ratio, 400_000, 0.9), seed=1)
    labels = rows["is_fraud"].to_numpy()
    own, old = (average_precision_score(labels, scores) for scores in (challenger, champion))
    assert own == pytest.approx(population_pr_auc(strength_for(ratio)), abs=0.02)
    assert own / old == pytest.approx(ratio, abs=0.01)
    for scores in (challenger, champion):  # and the probabilities are such
        assert float(scores.sum()) == pytest.approx(float(labels.sum()), rel=0.05)


def test_the_gate_passes_what_is_better_and_stops_what_is_worse() -> None:
    found = {
        ratio: tally(trial(World(ratio, ROWS, 0.9), seed, QUICK) for seed in range(TRIALS))
        for ratio in (BETTER, EQUAL, WORSE)
    }
    assert found[BETTER].verdicts["blocked"] == 0, found[BETTER].blocking
    assert found[BETTER].verdicts["automatic"] >= 0.5 * TRIALS
    assert found[EQUAL].verdicts["automatic"] <= 1
    assert found[WORSE].verdicts == {"blocked": TRIALS}
    assert found[WORSE].blocking["pr_auc_gain"] == TRIALS


def test_the_paired_interval_is_that_of_a_plain_bootstrap() -> None:
    rows, challenger, champion = draw(World(BETTER, 4_000, 0.9), seed=3)
    labels = rows["is_fraud"].to_numpy()
    generator, plain = np.random.default_rng(99), []
    for _ in range(RESAMPLES):
        drawn = generator.integers(0, len(labels), len(labels))
        own, old = (
            average_precision_score(labels[drawn], scores[drawn]) for scores in (challenger, champion)
        )
        plain.append(own - old)
    models = scored_models({"challenger": challenger, "champion": champion}, labels, {}, RESAMPLES)
    ours = paired(models["challenger"].pr_auc, models["champion"].pr_auc, 0.0)
    # the ends of a 95 % interval of 400 draws are known within some 0.15 standard deviations each
    assert (ours.low, ours.high) == pytest.approx(interval(plain), abs=0.5 * float(np.std(plain)))
