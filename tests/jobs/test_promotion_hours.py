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
from jobs.promotion.look import StepEvidence, no_rows
from jobs.promotion.score_checks import at_the_same_hours, weighted_to
from jobs.promotion.verdict import judge
from tests.promotion_trials import DEMO, moved

NIGHT, DAY = 2.0, 12.0
SUSPICIOUS_BY_NIGHT = 0.24  # mean score of the night's payments: this version has learnt a fraud of the night


def payments(rows: int, nights: int, seed: int, shift: float = 0.0) -> pd.DataFrame:
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
            "hour": np.where(by_night, NIGHT, DAY),
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
@pytest.mark.parametrize(("rows", "nights"), [(38, 38), (200, 200), (400, 200), (400, 380)])
@pytest.mark.parametrize("nights_before", [0.07, 0.2])
def test_nights_that_a_version_scores_otherwise_than_its_nights_are_seen(
    rows: int, nights: int, shift: float, nights_before: float
) -> None:
    plain, broken = payments(rows, nights, 1), payments(rows, nights, 1, shift)
    night = plain["hour"].eq(NIGHT)
    answered = plain.assign(score=broken["score"].where(night, plain["score"]))
    shadow, offline = payments(900, int(900 * nights_before), 2), payments(9000, int(9000 * nights_before), 3)
    found = score_checks_of(step(answered, shadow, offline))
    assert [check.outcome for check in found.values()] == [Outcome.FAIL, Outcome.FAIL]


@pytest.mark.parametrize(("shift", "outcome"), [(0.0, Outcome.PASS), (3.0, Outcome.FAIL)])
@pytest.mark.parametrize("seen", [0, 40])
def test_hours_that_the_shadow_has_not_seen_are_held_against_the_offline_scores_of_these_hours(
    shift: float, outcome: Outcome, seen: int
) -> None:
    """Also where it has seen a few of them, at which the version was still sound."""
    by_night = pd.concat([payments(seen, 0, 4), payments(100, 100, 1, shift)], ignore_index=True)
    found = score_checks_of(step(by_night, payments(900, 0, 2), payments(3000, 500, 3)))
    assert {name: check.outcome for name, check in found.items()} == {"offline scores": outcome}


@pytest.mark.parametrize("at", ["canary_50", "shadow"])
def test_hours_that_neither_shadow_nor_test_rows_have_hold_the_step(at: str) -> None:
    by_night, by_day = payments(100, 100, 1), payments(900, 0, 2)
    none, few = payments(3000, 0, 3), payments(3000, score_checks.HOUR_AT_LEAST - 1, 3)
    for offline in (none, few):
        found = score_checks_of(replace(step(by_night, by_day, offline), step=at))
        asked = "shadow" if at != "shadow" else "offline scores"
        assert {name: check.outcome for name, check in found.items()} == {asked: Outcome.INCONCLUSIVE}
        assert "of the same hours" in found[asked].detail
    without = score_checks_of(replace(step(by_night, by_day, None), step=at))
    assert [check.outcome for check in without.values()] == [Outcome.INCONCLUSIVE] * (at != "shadow")


@pytest.mark.parametrize("days_before", [0, 900])
def test_a_night_that_moves_both_models_is_not_the_challengers_fault(days_before: int) -> None:
    by_night, offline = payments(100, 100, 1, 2.0), payments(3000, 500, 3)
    evidence = step(by_night, payments(900, 0, 2), offline)
    assert score_checks_of(evidence)["offline scores"].outcome is Outcome.FAIL
    moved_too, sound = payments(100, 100, 4, 2.0), payments(100, 100, 4)
    theirs = payments(3000, 500, 5)
    before = payments(days_before, 0, 6) if days_before else no_rows()
    for champion, outcome in ((moved_too, Outcome.PASS), (sound, Outcome.FAIL)):
        both = replace(evidence, champion=champion, champion_before=before, champion_reference=theirs)
        assert score_checks_of(both)["offline scores"].outcome is outcome
    days_moved = replace(
        evidence, champion=sound, champion_before=payments(900, 0, 6, 2.0), champion_reference=theirs
    )
    assert score_checks_of(days_moved)["offline scores"].outcome is Outcome.FAIL, "days excuse no night"


@pytest.mark.parametrize(("day_shift", "outcome"), [(0.0, Outcome.FAIL), (5.0, Outcome.PASS)])
@pytest.mark.parametrize("at", ["canary_50", "canary_100"])
def test_where_the_champion_has_not_answered_at_these_hours_its_other_ones_tell_of_the_world(
    at: str, day_shift: float, outcome: Outcome
) -> None:
    """Nobody would ever know: at 100 % it answers no more."""
    by_day = payments(900, 0, 2, day_shift)
    evidence = step(payments(100, 100, 1, 1.0), payments(900, 0, 7), payments(3000, 500, 3))
    known = {"champion": by_day} if at == "canary_50" else {"champion": no_rows(), "champion_before": by_day}
    evidence = replace(evidence, step=at, champion_reference=payments(3000, 500, 5), **known)
    assert score_checks_of(evidence)["offline scores"].outcome is outcome


def test_nights_that_the_champion_has_not_answered_at_are_held_against_the_offline_scores_all_the_same() -> (
    None
):
    answered = pd.concat([payments(110, 0, 1), payments(100, 100, 8, 2.5)], ignore_index=True)
    evidence = step(answered, payments(900, 0, 2), payments(3000, 500, 3))
    by_day = replace(evidence, champion=payments(900, 0, 4), champion_reference=payments(3000, 500, 5))
    assert score_checks_of(by_day)["offline scores"].outcome is Outcome.FAIL


def test_what_few_answers_of_the_champion_say_of_the_world_takes_no_version_back() -> None:
    """The world moves both; few answers of the champion do not show by how much."""
    found = []
    for seed in range(10, 30):
        evidence = step(payments(400, 0, seed, 2.5), payments(900, 0, 2, 2.5), payments(3000, 0, 3))
        few = payments(25, 0, seed + 100, 2.5)
        evidence = replace(evidence, champion=few, champion_reference=payments(3000, 0, 5))
        found.append(score_checks_of(evidence)["offline scores"].outcome)
    assert Outcome.FAIL not in found
    alone = replace(evidence, champion_reference=None)
    assert score_checks_of(alone)["offline scores"].outcome is Outcome.FAIL


hours_of_rows = st.lists(st.integers(0, 3), min_size=0, max_size=120)


@given(hours_of_rows, hours_of_rows)
def test_a_pool_has_the_hours_of_what_is_held_against_it_and_weighs_no_more_than_its_rows(
    answered_hours: list[int], pool_hours: list[int]
) -> None:
    answered, pool = (
        pd.DataFrame({"hour": np.array(hours, dtype=float)}) for hours in (answered_hours, pool_hours)
    )
    there = set(answered_hours) & set(pool_hours)
    compared = answered[answered["hour"].isin(there)]
    weighted = weighted_to(compared, pool)
    assert set(weighted["hour"]) == there
    assert weighted["weight"].sum() <= len(weighted) + 1e-9
    for hour in there:
        share = weighted.loc[weighted["hour"].eq(hour), "weight"].sum() / weighted["weight"].sum()
        assert share == pytest.approx(compared["hour"].eq(hour).mean())
    if weighted["weight"].nunique() == 1:
        assert weighted["weight"].sum() == pytest.approx(len(weighted)), "equal weights tell as much as rows"
    covered = {hour for hour in there if pool_hours.count(hour) >= score_checks.HOUR_AT_LEAST}
    found = at_the_same_hours(answered, pool)
    if found is not None:
        assert set(found[0]["hour"]) == set(found[1]["hour"]) == covered
        assert 2 * len(found[0]) >= len(answered)


def test_twenty_rows_of_one_hour_are_enough_whatever_their_weights_sum_to() -> None:
    for answered in range(20, 60):
        found = at_the_same_hours(payments(answered, 0, 1), payments(20, 0, 2))
        assert found is not None, answered
