"""Pairs of models whose true PR-AUC is known, and what the gate says of a sample of their scores.

A row has a latent value: noise, and for a fraud a shift (most are easy to see, some hardly). Champion and
challenger see the same row: their noises correlate, and the challenger sees shifts `strength` times as
large. The score is the probability of fraud given the latent value, so both models are calibrated. PR-AUC of
the population follows from the normal distribution; the strength is solved for the wanted ratio.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, timedelta
from functools import cache

import numpy as np
import pandas as pd
from scipy.optimize import brentq
from scipy.stats import norm

from jobs.conf.contract import ErrorCosts, Group
from jobs.conf.policy import Policy
from jobs.evaluation.decision_bands import decision_figures, savings
from jobs.evaluation.groups import group_figures
from jobs.evaluation.resampled import scored_models
from jobs.training.evaluate import figures_of, paired, slice_figures
from jobs.training.evidence import Evidence
from jobs.training.gate import GateResult, judge
from tests.complete_evidence import SHOWN

FRAUD_SHARE = 0.0084  # of the handbook's rows
SHIFTS, PARTS = np.array([1.5, 4.5]), np.array([0.3, 0.7])
TEST_DAYS = 28
DAYS = [date(2026, 1, 30) + timedelta(days=number) for number in range(TEST_DAYS)]
COSTS = ErrorCosts(false_alarm_minor=500, missed_fraud_share=1.0)
BETTER, EQUAL, WORSE = 1.03, 1.0, 0.97
SLICES = ("slice_a", "slice_b")
GROUPS = {"third": Group(column="third", starts=(1, 2))}


@dataclass(frozen=True)
class World:
    """How good the challenger truly is, and how much the sample can tell."""

    ratio: float
    rows: int
    correlation: float


def population_pr_auc(strength: float) -> float:
    """PR-AUC over infinitely many rows."""
    thresholds = np.linspace(16, -8, 48_001)
    caught = PARTS @ norm.sf(thresholds - strength * SHIFTS[:, None])
    alarms = norm.sf(thresholds)
    precision = FRAUD_SHARE * caught / (FRAUD_SHARE * caught + (1 - FRAUD_SHARE) * alarms)
    return float(np.sum(np.diff(caught) * (precision[1:] + precision[:-1]) / 2))


@cache
def strength_for(ratio: float) -> float:
    """The strength whose population PR-AUC is `ratio` times that of strength 1."""
    goal = ratio * population_pr_auc(1.0)
    return float(brentq(lambda strength: population_pr_auc(strength) - goal, 0.5, 2.0, xtol=1e-12))


def posterior(latent: np.ndarray, strength: float) -> np.ndarray:
    """Probability of fraud given the latent value."""
    fraud = FRAUD_SHARE * (PARTS @ norm.pdf(latent - strength * SHIFTS[:, None]))
    good = (1 - FRAUD_SHARE) * norm.pdf(latent)
    return np.asarray(fraud / (fraud + good))


def draw(world: World, seed: int) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    """Test rows, and the scores that the challenger and the champion give them."""
    generator = np.random.default_rng(seed)
    size = world.rows
    labels = (generator.random(size) < FRAUD_SHARE).astype(int)
    shift = labels * generator.choice(SHIFTS, size, p=PARTS)
    shared = np.sqrt(world.correlation) * generator.normal(size=size)
    scores = []
    for strength in (strength_for(world.ratio), 1.0):
        noise = shared + np.sqrt(1 - world.correlation) * generator.normal(size=size)
        scores.append(posterior(strength * shift + noise, strength))
    rows = pd.DataFrame(
        {
            "is_fraud": labels,
            "customer_id": generator.integers(0, max(size // 60, 1), size),
            "day": np.array(DAYS)[np.arange(size) * TEST_DAYS // size],
            "third": generator.integers(0, 3, size),
            "slice_a": generator.random(size) < 0.25,
            "slice_b": generator.random(size) < 0.10,
            "amount_minor": generator.gamma(2.0, 40_00, size).astype(int) * np.where(labels == 1, 3, 1),
        }
    )
    return rows, scores[0], scores[1]


def evidence_of(world: World, seed: int, policy: Policy) -> Evidence:
    """The evidence that evaluate_model would gather."""
    rows, own, old = draw(world, seed)
    labels, samples = rows["is_fraud"].to_numpy(), policy.gate.bootstrap_samples
    masks = {name: rows[name].to_numpy(dtype=bool) for name in SLICES}
    models = scored_models({"challenger": own, "champion": old}, labels, masks, samples)
    challenger, champion = models["challenger"], models["champion"]
    value = challenger.ranking.average_precision() - champion.ranking.average_precision()
    amounts = rows["amount_minor"].to_numpy()
    decided = {
        "decisions": decision_figures(own, labels, amounts, policy.decisions),
        "champion_decisions": decision_figures(old, labels, amounts, policy.decisions),
        "saved": savings(own, old, rows, DAYS, policy.decisions, COSTS),
    }
    return Evidence(
        run=f"trial-{seed}",
        day=date(2026, 3, 1),
        test_first=DAYS[0],
        test_last=DAYS[-1],
        rows=len(rows),
        positives=int(labels.sum()),
        bundle_digest="challenger",
        challenger=figures_of(challenger, rows, policy),
        champion=figures_of(champion, rows, policy),
        champion_version="1",
        champion_digest="champion",
        difference=paired(challenger.pr_auc, champion.pr_auc, value),
        slices_named=SLICES,
        slices=tuple(slice_figures(name, mask, labels, challenger, champion) for name, mask in masks.items()),
        groups_named=tuple(GROUPS),
        groups=group_figures(GROUPS, rows, own, old, policy.decisions.review_above),
        **SHOWN | decided,
    )


def trial(world: World, seed: int, policy: Policy) -> GateResult:
    """The gate's verdict on one seeded sample."""
    return judge(evidence_of(world, seed, policy), policy)


@dataclass(frozen=True)
class Tally:
    """Verdicts of many trials, and which rules blocked."""

    verdicts: Counter[str]
    blocking: Counter[str]


def tally(results: Iterable[GateResult]) -> Tally:
    """Count verdicts and the rules that failed."""
    verdicts: Counter[str] = Counter()
    blocking: Counter[str] = Counter()
    for result in results:
        verdicts[result.classification] += 1
        blocking.update(check.name for check in result.checks if check.outcome == "fail")
    return Tally(verdicts, blocking)
