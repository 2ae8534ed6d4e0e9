"""Whole promotions of faulty versions on simulated requests: how fast the verdict's own code takes them back.

Good versions go through the log itself: tests/promotion_logs.py.

Customers have habits of their own and differ in how often they pay; the machine is busy in bursts; frauds
become known late, and only where they were let through. A step is looked at every second and held for as many
looks as `held` says after it could have passed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from jobs.conf.policy import Policy, load_policy
from jobs.core import Outcome
from jobs.promotion.look import StepEvidence, no_rows
from jobs.promotion.state import SHADOW_STEP, percent_of, steps_of
from jobs.promotion.verdict import judge
from jobs.serving.routing import in_canary

Floats = npt.NDArray[np.float64]
DEMO = load_policy("demo")
CUSTOMERS = 3000
RATE = 100  # requests a second
SECONDS_AT_MOST = 60
HOUR = 12.0  # of the day, in which a trial passes
FAULTY = ("raises", "slow", "nan", "spoilt", "miscalibrated", "shuffled")
CORRECTS = "corrects"  # no fault: many payments are of a new kind, which only the champion does not know
CANARY_ONLY = ("raises", "slow", "nan")  # what its shadow does not show


@dataclass(frozen=True)
class Ended:
    """How a promotion ended."""

    step: str = ""  # where it was rolled back; "" for champion
    reason: str = ""
    seconds: float = 0.0  # from that step's start
    looks: int = 0


def latencies(generator: np.random.Generator, seconds: Floats) -> Floats:
    """A few milliseconds with a heavy tail; in bursts of a tenth of the time, six times as long."""
    busy = generator.random(4 * SECONDS_AT_MOST) < 0.1
    burst = busy[(seconds * 4).astype(int)]
    return np.asarray(generator.lognormal(1.2, 0.5, len(seconds)) * np.where(burst, 6.0, 1.0))


def moved(scores: Floats, shift: float) -> Floats:
    """Scores with other log-odds."""
    logits = np.log(scores + 1e-6) - np.log(1 - scores + 1e-6)
    return np.asarray(np.round(1 / (1 + np.exp(-(logits + shift))), 6))


class World:
    """Customers, their payments, a champion that is calibrated, and a challenger with one kind of fault."""

    def __init__(self, seed: int, kind: str) -> None:
        self.generator = np.random.default_rng([seed, *kind.encode()])
        self.kind, self.salt = kind, f"salt{seed}"
        self.habit = self.generator.normal(0, 1.0, CUSTOMERS)
        weights = self.generator.gamma(0.7, 1.0, CUSTOMERS)
        self.activity = weights / weights.sum()
        good, _ = self.scored(self.customers(6000))
        offline = self.spoilt(good) if kind != "spoilt" else good
        self.references = [pd.DataFrame({"score": each, "hour": HOUR}) for each in (good, offline)]

    def customers(self, requests: int) -> npt.NDArray[np.int64]:
        return self.generator.choice(CUSTOMERS, requests, p=self.activity)

    def scored(self, customers: npt.NDArray[np.int64]) -> tuple[Floats, Floats]:
        """Calibrated scores, and the frauds."""
        suspicious = self.generator.random(len(customers)) < 0.025
        logits = -5.5 + self.habit[customers] + self.generator.normal(0, 1, len(customers)) + 6.0 * suspicious
        good = 1 / (1 + np.exp(-logits))
        fraud = (self.generator.random(len(customers)) < good).astype(float)
        return np.round(good, 6), fraud

    def spoilt(self, scores: Floats) -> Floats:
        """What a faulty model makes of a good one's scores."""
        if self.kind in ("spoilt", "miscalibrated"):
            # its own test rows show what was spoilt after them; what was wrong from the start must hurt
            shift = 2.5 if self.kind == "spoilt" else 4.0
            return moved(scores, shift)
        if self.kind == "shuffled":
            return np.asarray(np.round(self.generator.beta(20, 700, len(scores)), 6))
        return scores

    def answers(
        self, scores: Floats, base: pd.DataFrame, fraud: Floats, policy: Policy, *, faults: bool
    ) -> pd.DataFrame:
        """Rows of the log by one variant, with the instant at which a fraud becomes known."""
        bands, count = policy.decisions, len(base)
        limits = [bands.block_above, bands.challenge_above, bands.review_above]
        names = ["block", "challenge", "review"]
        decision = np.select([scores > limit for limit in limits], names, "approve").astype(object)
        passed = (decision != "block") | (self.generator.random(count) < 0.005)
        known = self.generator.random(count) < 0.5
        known_at = base["seconds"] + self.generator.exponential(3.0, count)
        share = {"raises": 1.0, "nan": 0.3}.get(self.kind, 0.0) if faults else 0.0
        failed = self.generator.random(count) < share
        latency = latencies(self.generator, base["seconds"].to_numpy()) + 30.0 * (
            faults and self.kind == "slow"
        )
        return base.assign(
            score=np.where(failed, np.nan, scores),
            failed=failed.astype(float),
            latency_ms=latency,
            decision=np.where(failed, "", decision),
            hour=HOUR,
            compared=1.0,
            requests=1.0,
            passed=passed.astype(float),
            known_at=np.where((fraud > 0) & passed & known & ~failed, known_at, np.inf),
        )

    def step(self, step: str, policy: Policy) -> tuple[pd.DataFrame, pd.DataFrame]:
        """All rows of a step, of the challenger and of the champion."""
        percent, requests = percent_of(step), RATE * SECONDS_AT_MOST
        customers = self.customers(requests)
        seconds = np.sort(self.generator.random(requests) * SECONDS_AT_MOST)
        names = [f"{step}-{number}" for number in range(requests)]
        base = pd.DataFrame({"request_id": names, "customer_id": customers, "seconds": seconds})
        good, fraud = self.scored(customers)
        faults = bool(percent) and self.kind in CANARY_ONLY
        mine = self.answers(self.spoilt(good), base, fraud, policy, faults=faults)
        theirs = good
        if self.kind == CORRECTS:
            theirs = np.where(self.generator.random(requests) < 0.6, moved(good, -4.0), good)
        others = self.answers(theirs, base, fraud, policy, faults=False)
        if percent:
            drawn = np.unique(customers)
            chosen = np.isin(customers, [each for each in drawn if in_canary(int(each), percent, self.salt)])
            mine, others = mine[chosen], others[~chosen]
        return mine, others


def known_by(rows: pd.DataFrame, seconds: float) -> pd.DataFrame:
    """The log, and the labels, as they are at an instant."""
    found = rows[rows["seconds"] <= seconds]
    return found.assign(disputed=found["known_at"].le(seconds).astype(float))


def evidence_at(
    world: World,
    step: str,
    rows: tuple[pd.DataFrame, pd.DataFrame],
    seconds: float,
    shadow: pd.DataFrame,
    before: pd.DataFrame,
) -> StepEvidence:
    """What is known so many seconds after the step began; `rows` are the challenger's, the champion's."""
    challenger, champion = (known_by(each, seconds) for each in rows)
    return StepEvidence(
        step=step,
        elapsed_minutes=seconds / 60,
        has_champion=True,
        challenger=challenger,
        champion=champion,
        champion_before=before,
        shadow=challenger if step == SHADOW_STEP else shadow,
        challenger_reference=world.references[1],
        champion_reference=world.references[0],
    )


def seen(
    seed: int = 1, step: str = "canary_5", seconds: float = 20.0, kind: str = "identical"
) -> StepEvidence:
    """One step of one promotion, after six seconds of shadow."""
    world = World(seed, kind)
    shadow = evidence_at(world, SHADOW_STEP, world.step(SHADOW_STEP, DEMO), 6.0, no_rows(), no_rows())
    if step == SHADOW_STEP:
        return shadow
    rows = world.step(step, DEMO)
    return evidence_at(world, step, rows, seconds, shadow.challenger, shadow.champion)


def promotion(seed: int, kind: str, policy: Policy = DEMO, held: int = 3) -> Ended:
    """One version from its shadow to champion, or to where it was rolled back."""
    world, looks = World(seed, kind), 0
    shadow = before = no_rows()
    for step in steps_of(policy):
        mine, others = world.step(step, policy)
        left = held
        for second in range(1, SECONDS_AT_MOST):
            evidence = evidence_at(world, step, (mine, others), second, shadow, before)
            verdict, looks = judge(evidence, policy), looks + 1
            if verdict.outcome is Outcome.FAIL:
                return Ended(step, verdict.reason, float(second), looks)
            left -= verdict.outcome is Outcome.PASS
            if left < 0:
                break
        if step == SHADOW_STEP:
            shadow = evidence.challenger
        before = pd.concat([before, evidence.champion]) if len(before) else evidence.champion
    return Ended(looks=looks)
