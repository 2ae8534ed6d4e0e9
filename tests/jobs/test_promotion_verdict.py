"""The verdict on a step: its error rates on simulated logs, and each figure's own example."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from jobs.conf.policy import load_policy
from jobs.core import Outcome
from jobs.promotion.state import percent_of, steps_of
from jobs.promotion.verdict import StepEvidence, judge, no_rows
from jobs.serving.routing import in_canary

DEMO = load_policy("demo")
CUSTOMERS = 500


class World:
    """Customers with habits of their own, a model's scores, and a machine that is busy in bursts."""

    def __init__(self, seed: int) -> None:
        self.generator = np.random.default_rng(seed)
        self.habit = self.generator.normal(0, 1.0, CUSTOMERS)
        self.reference = self.scores(self.generator.integers(0, CUSTOMERS, 5000))

    def scores(self, customers: np.ndarray) -> np.ndarray:
        spread = self.habit[customers] + self.generator.normal(0, 1.0, len(customers))
        fraud = self.generator.random(len(customers)) < 0.02
        return np.round(1 / (1 + np.exp(5.5 - spread - 6 * fraud)), 6)

    def latencies(self, seconds: np.ndarray) -> np.ndarray:
        """A few milliseconds with a heavy tail; in bursts of a tenth of the time, six times as long."""
        busy = self.generator.random(200) < 0.1
        burst = busy[(seconds * 4).astype(int) % 200]
        return self.generator.lognormal(1.2, 0.5, len(seconds)) * np.where(burst, 6.0, 1.0)

    def rows(self, requests: int) -> pd.DataFrame:
        customers = self.generator.integers(0, CUSTOMERS, requests)
        seconds = np.sort(self.generator.random(requests) * requests / 60)
        return pd.DataFrame(
            {
                "customer_id": customers,
                "score": self.scores(customers),
                "failed": 0.0,
                "latency_ms": self.latencies(seconds),
                "seconds": seconds,
            }
        )

    def evidence(self, step: str, shadow: pd.DataFrame, requests: int, salt: str) -> StepEvidence:
        rows = self.rows(requests)
        percent = percent_of(step)
        chosen = np.array([in_canary(customer, percent, salt) for customer in range(CUSTOMERS)])
        mine = pd.Series(chosen[rows["customer_id"]], index=rows.index)
        canary = rows[mine] if percent else rows
        return StepEvidence(
            step=step,
            elapsed_minutes=5.0,
            has_champion=True,
            challenger=canary,
            champion=rows[~mine] if percent else rows,
            champion_before=shadow if percent else no_rows(),
            shadow=shadow if percent else rows,
            challenger_reference=self.reference,
            champion_reference=self.reference,
        )


def promotion(seed: int, looks: int = 1) -> str:
    """An identical model through all steps, looked at once or more a step; where it was rolled back."""
    world = World(seed)
    shadow = world.rows(400)
    for step in steps_of(DEMO):
        percent = percent_of(step)
        full = 400 if not percent else int(80 * 100 / percent)
        for look in range(1, looks + 1):
            evidence = world.evidence(step, shadow, full * look // looks, f"salt{seed}")
            if judge(evidence, DEMO).outcome is Outcome.FAIL:
                return f"{step}: {judge(evidence, DEMO).reason}"
    return ""


def canary(seed: int = 1, step: str = "canary_5", requests: int = 1400) -> StepEvidence:
    world = World(seed)
    return world.evidence(step, world.rows(400), requests, "sluice")


def test_200_promotions_of_an_identical_model_are_rolled_back_in_at_most_2_percent() -> None:
    ended = [promotion(seed) for seed in range(200)]
    rolled_back = [reason for reason in ended if reason]
    assert len(rolled_back) <= 4, rolled_back


def test_a_good_canary_passes_once_its_time_and_its_sample_are_there() -> None:
    verdicts = [judge(canary(seed), DEMO) for seed in range(20)]
    assert sum(verdict.outcome is Outcome.PASS for verdict in verdicts) >= 19


@pytest.mark.parametrize("requests", [25, 60])
def test_a_model_that_is_30_ms_slower_is_caught_before_its_sample_is_full(requests: int) -> None:
    caught = 0
    for seed in range(40):
        evidence = canary(seed)
        slow = evidence.challenger.head(requests)
        evidence = replace(
            evidence, elapsed_minutes=0.01, challenger=slow.assign(latency_ms=slow["latency_ms"] + 30),
            champion=evidence.champion[evidence.champion["seconds"] <= slow["seconds"].max()],
        )  # fmt: skip
        caught += judge(evidence, DEMO).outcome is Outcome.FAIL
    assert caught >= (38 if requests == 25 else 39)


def test_a_canary_with_shifted_scores_is_caught() -> None:
    for seed in range(20):
        evidence = canary(seed)
        moved = evidence.challenger.assign(score=(evidence.challenger["score"] + 0.3).clip(0, 1))
        verdict = judge(replace(evidence, challenger=moved), DEMO)
        assert verdict.outcome is Outcome.FAIL
        assert "score PSI" in verdict.reason


def test_a_shadow_that_scores_otherwise_than_offline_is_caught() -> None:
    world = World(3)
    evidence = world.evidence("shadow", world.rows(300), 300, "sluice")
    moved = evidence.challenger.assign(score=evidence.challenger["score"] ** 0.5)
    verdict = judge(replace(evidence, challenger=moved), DEMO)
    assert verdict.outcome is Outcome.FAIL
    assert "offline" in verdict.reason


def test_a_world_that_moves_both_models_is_not_the_challengers_fault() -> None:
    world = World(4)
    evidence = world.evidence("shadow", world.rows(300), 300, "sluice")
    moved = evidence.challenger.assign(score=evidence.challenger["score"] ** 0.5)
    verdict = judge(replace(evidence, challenger=moved, champion=moved), DEMO)
    assert verdict.outcome is Outcome.PASS


@pytest.mark.parametrize("requests", [3, 60])
def test_a_canary_that_raises_is_caught_at_once(requests: int) -> None:
    evidence = canary()
    broken = evidence.challenger.head(requests).assign(failed=1.0, score=np.nan)
    verdict = judge(replace(evidence, elapsed_minutes=0.0, challenger=broken), DEMO)
    assert verdict.outcome is Outcome.FAIL
    assert "error rate" in verdict.reason


def test_one_error_in_sixty_holds_the_step_and_does_not_roll_back() -> None:
    evidence = canary()
    rows = evidence.challenger.head(60).copy()
    rows.iloc[0, rows.columns.get_loc("failed")] = 1.0
    verdict = judge(replace(evidence, challenger=rows), DEMO)
    assert verdict.outcome is Outcome.INCONCLUSIVE


def test_no_traffic_holds_the_step_whatever_the_time() -> None:
    evidence = replace(canary(), challenger=no_rows(), elapsed_minutes=10_000)
    verdict = judge(evidence, DEMO)
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert "no traffic" in verdict.reason


def test_a_step_does_not_advance_before_its_time() -> None:
    assert judge(replace(canary(), elapsed_minutes=0.05), DEMO).outcome is Outcome.INCONCLUSIVE


def test_a_canary_without_a_champion_beside_it_is_not_passed() -> None:
    assert judge(replace(canary(), champion=no_rows()), DEMO).outcome is not Outcome.PASS


def test_a_split_other_than_the_intended_one_is_a_mismatch() -> None:
    world = World(5)
    evidence = world.evidence("canary_25", world.rows(400), 2000, "sluice")
    half = world.evidence("canary_50", world.rows(400), 2000, "sluice")
    verdict = judge(replace(half, step="canary_25"), DEMO)
    assert judge(evidence, DEMO).outcome is Outcome.PASS
    assert verdict.outcome is Outcome.FAIL
    assert "mismatch" in verdict.reason


def test_many_requests_of_few_customers_are_no_mismatch() -> None:
    evidence = canary(step="canary_50")
    eager = evidence.challenger[evidence.challenger["customer_id"] % 10 == 0]
    rows = pd.concat([evidence.challenger, *[eager] * 8])
    checks = judge(replace(evidence, challenger=rows), DEMO).checks
    ratio = next(check for check in checks if check.name == "sample ratio p")
    assert ratio.outcome is Outcome.PASS
