"""Scores of a step are held against scores of the same hours of the day: nights are no days."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.core import Check, Outcome
from jobs.promotion import score_checks
from jobs.promotion.look import StepEvidence
from jobs.promotion.score_checks import at_the_same_hours
from jobs.promotion.verdict import judge
from tests.promotion_trials import DEMO, moved

NIGHT, DAY = 2.0, 12.0
SUSPICIOUS_BY_NIGHT = 0.24  # mean score of the night's payments: this version has learnt a fraud of the night


def payments(rows: int, nights: int, seed: int, shift: float = 0.0, by_day: float = DAY) -> pd.DataFrame:
    """One request of each of so many customers, the first `nights` of them by night; `shift` in log-odds."""
    draw = np.random.default_rng(seed)
    by_night = np.arange(rows) < nights
    mean = np.where(by_night, SUSPICIOUS_BY_NIGHT, 0.008)
    return pd.DataFrame(
        {
            "request_id": [f"{seed}-{number}" for number in range(rows)], "decision": "approve",
            "customer_id": np.arange(rows) + 10_000 * seed,
            "score": moved(draw.beta(40 * mean, 40 * (1 - mean)), shift),
            "failed": 0.0, "latency_ms": 3.0, "seconds": np.linspace(0, 10, rows),
            "hour": np.where(by_night, NIGHT, by_day),
            "compared": 1.0, "passed": 1.0, "disputed": 0.0, "requests": 1.0,
        }
    )  # fmt: skip


def step(answered: pd.DataFrame, shadow: pd.DataFrame, offline: pd.DataFrame | None) -> StepEvidence:
    return StepEvidence(
        step="canary_50", elapsed_minutes=9.0, has_champion=True, challenger=answered,
        champion=payments(len(answered), 0, 9), shadow=shadow, challenger_reference=offline,
    )  # fmt: skip


def score_checks_of(evidence: StepEvidence) -> dict[str, Check]:
    checks = judge(evidence, DEMO).checks
    return {
        check.name.removeprefix("score PSI against own "): check for check in checks if "PSI" in check.name
    }


@pytest.mark.parametrize("nights", [0, 38, 200, 400])
def test_a_step_that_begins_by_night_is_held_against_the_nights(nights: int) -> None:
    evidence = step(payments(400, nights, 1), payments(900, 150, 2), payments(3000, 500, 3))
    found = score_checks_of(evidence)
    assert [check.outcome for check in found.values()] == [Outcome.PASS, Outcome.PASS]
    assert max(check.value for check in found.values() if check.value is not None) < 0.1
    blind = evidence.challenger.assign(hour=DAY), evidence.shadow.assign(hour=DAY)
    unknown = score_checks_of(replace(evidence, challenger=blind[0], shadow=blind[1]))
    assert unknown["shadow"].outcome is (Outcome.PASS if nights == 38 else Outcome.FAIL), "why hours matter"


@pytest.mark.parametrize("shift", [2.5, -2.5])
@pytest.mark.parametrize("nights", [38, 200, 400])
def test_nights_that_a_version_scores_otherwise_than_its_nights_are_seen(nights: int, shift: float) -> None:
    broken = payments(nights, nights, 1, shift)
    found = score_checks_of(step(broken, payments(900, 150, 2), payments(3000, 500, 3)))
    assert [check.outcome for check in found.values()] == [Outcome.FAIL, Outcome.FAIL]


@pytest.mark.parametrize(("shift", "outcome"), [(0.0, Outcome.PASS), (3.0, Outcome.FAIL)])
def test_hours_that_the_shadow_has_not_seen_are_held_against_the_offline_scores_of_these_hours(
    shift: float, outcome: Outcome
) -> None:
    by_night, by_day = payments(100, 100, 1, shift), payments(900, 0, 2)
    found = score_checks_of(step(by_night, by_day, payments(3000, 500, 3)))
    assert {name: check.outcome for name, check in found.items()} == {"offline scores": outcome}


def test_hours_that_neither_shadow_nor_test_rows_have_hold_the_step() -> None:
    by_night, by_day = payments(100, 100, 1), payments(900, 0, 2)
    for offline in (None, payments(3000, 0, 3), payments(3000, score_checks.HOUR_AT_LEAST - 1, 3)):
        found = score_checks_of(step(by_night, by_day, offline))
        assert {name: check.outcome for name, check in found.items()} == {"shadow": Outcome.INCONCLUSIVE}
        assert "of the same hours" in found["shadow"].detail


def test_a_night_that_moves_both_models_is_not_the_challengers_fault() -> None:
    by_night = payments(100, 100, 1, 2.0)
    evidence = step(by_night, payments(900, 0, 2), payments(3000, 500, 3))
    assert score_checks_of(evidence)["offline scores"].outcome is Outcome.FAIL
    both = replace(evidence, champion=payments(100, 100, 4, 2.0), champion_reference=payments(3000, 500, 5))
    assert score_checks_of(both)["offline scores"].outcome is Outcome.PASS


hours_of_rows = st.lists(st.integers(0, 3), min_size=0, max_size=120)


@given(hours_of_rows, hours_of_rows)
def test_a_pool_has_the_hours_of_what_is_held_against_it_and_weighs_no_more_than_its_rows(
    pool_hours: list[int], answered_hours: list[int]
) -> None:
    pool, answered = at_the_same_hours(
        pd.DataFrame({"hour": np.array(pool_hours, dtype=float)}),
        pd.DataFrame({"hour": np.array(answered_hours, dtype=float)}),
    )
    covered = {hour for hour in set(answered_hours) if pool_hours.count(hour) >= score_checks.HOUR_AT_LEAST}
    assert len(answered) == sum(hour in covered for hour in answered_hours), "no hour goes uncompared unseen"
    assert set(pool["hour"]) == covered
    assert pool["weight"].sum() <= len(pool) + 1e-9
    for hour in covered:
        share = pool.loc[pool["hour"].eq(hour), "weight"].sum() / pool["weight"].sum()
        assert share == pytest.approx(answered["hour"].eq(hour).mean())
    if covered and set(pool["hour"]) == set(answered["hour"]) and pool["weight"].nunique() == 1:
        assert pool["weight"].sum() == pytest.approx(len(pool)), "equal weights tell as much as all rows"
