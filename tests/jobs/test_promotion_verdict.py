"""The verdict on a step: its error rates on simulated logs, and each figure's own example."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from jobs.conf.policy import Policy
from jobs.conf.settings import Settings
from jobs.core import Check, Outcome
from jobs.evaluation.metrics import Ranking
from jobs.features.declarations import MODEL_FEATURES
from jobs.lake.store import lake_of
from jobs.lake.tables import PREDICTIONS
from jobs.promotion.evidence import paired
from jobs.promotion.look import StepEvidence, no_rows
from jobs.promotion.state import steps_of
from jobs.promotion.verdict import judge
from tests import promotion_logs, promotion_trials
from tests.faults.canaries import SECONDS_ALLOWED
from tests.promotion_trials import CORRECTS, CUSTOMERS, DEMO, FAULTY, RATE, promotion, seen

BLUE_GREEN = DEMO.model_copy(update={"canary": DEMO.canary.model_copy(update={"mode": "blue_green"})})


def check_named(evidence: StepEvidence, name: str, policy: Policy = DEMO) -> Check:
    return next(check for check in judge(evidence, policy).checks if check.name.startswith(name))


def some(customers: range, **columns: float) -> pd.DataFrame:
    """One request of each customer, approved, without any trouble, but for `columns`."""
    plain = {"score": 0.01, "failed": 0.0, "latency_ms": 3.0, "passed": 1.0, "disputed": 0.0}
    numbers = list(customers)
    rows = pd.DataFrame({"request_id": [f"r{number}" for number in numbers], "customer_id": numbers})
    rows = rows.assign(compared=1.0, requests=1.0, hour=12.0)
    return rows.assign(seconds=np.linspace(0, 10, len(rows)), decision="approve", **(plain | columns))


def beside(challenger: pd.DataFrame, champion: pd.DataFrame, step: str = "canary_50") -> StepEvidence:
    return StepEvidence(
        step=step, elapsed_minutes=9.0, has_champion=True, challenger=challenger, champion=champion
    )


@pytest.mark.parametrize("kind", promotion_logs.GOOD)
def test_promotions_of_a_good_version_survive_every_look_at_their_log(kind: str) -> None:
    ended = [promotion_logs.promotion(seed, kind) for seed in range(1000, 1002)]
    assert [each.reason for each in ended if each.step] == []
    assert min(each.looks for each in ended) > 20


def test_the_better_version_of_the_logs_is_a_little_better_and_both_are_calibrated() -> None:
    rows, fraud = promotion_logs.Town(1).payments(100_000, promotion_logs.BEGUN, 1.0)
    matrix = rows[list(MODEL_FEATURES)].to_numpy(dtype=np.float32)
    scores = {kind: bundle.score(matrix) for kind, bundle in promotion_logs.bundles().items()}
    precision = {
        kind: Ranking(each, fraud.astype(float)).average_precision() for kind, each in scores.items()
    }
    assert 1.02 < precision["better"] / precision["identical"] < 1.1
    for kind in promotion_logs.GOOD:
        each = scores[kind]
        assert each.mean() == pytest.approx(fraud.mean(), rel=0.05)
        assert fraud[each > 0.5].mean() == pytest.approx(each[each > 0.5].mean(), abs=0.03)


def test_a_version_that_knows_nothing_of_what_the_champion_knows_is_taken_back_by_its_log() -> None:
    ended = promotion_logs.promotion(1, "blind")
    assert ended.step == "shadow"
    assert ended.seconds < SECONDS_ALLOWED


def test_the_logs_of_the_trials_hold_what_the_service_writes(home: Settings) -> None:
    running = promotion_logs.Promotion(lake_of(home), 1, "identical", DEMO)
    next(running.looks("canary_50"))
    log = lake_of(home).read(PREDICTIONS).to_pandas()
    assert set(log["variant"]) == {"champion", "canary", "shadow"}
    assert log["request_id"].nunique() == RATE * promotion_logs.APPENDED_SECONDS
    asked = log[log["model_version"].eq(promotion_logs.CHALLENGER)]
    assert set(asked["request_id"]) == set(log["request_id"]), "the challenger has scored every request once"
    assert len(asked) == asked["request_id"].nunique()


@pytest.mark.parametrize("kind", FAULTY)
def test_a_faulty_version_is_out_within_seconds_of_the_step_that_shows_it(kind: str) -> None:
    for seed in (2000, 2001):
        ended = promotion(seed, kind)
        assert ended.step, kind
        assert ended.seconds < SECONDS_ALLOWED, ended


def test_a_good_canary_passes_once_its_time_and_its_sample_are_there() -> None:
    verdicts = [judge(seen(seed), DEMO) for seed in range(10)]
    assert sum(verdict.outcome is Outcome.PASS for verdict in verdicts) >= 9


@pytest.mark.parametrize("requests", [25, 60])
def test_a_model_that_is_30_ms_slower_is_caught_before_its_sample_is_full(requests: int) -> None:
    caught = 0
    for seed in range(20):
        evidence = seen(seed)
        slow = evidence.challenger.head(requests)
        evidence = replace(
            evidence, elapsed_minutes=0.01, challenger=slow.assign(latency_ms=slow["latency_ms"] + 30),
            champion=evidence.champion[evidence.champion["seconds"] <= slow["seconds"].max()],
        )  # fmt: skip
        caught += judge(evidence, DEMO).outcome is Outcome.FAIL
    assert caught >= (18 if requests == 25 else 19)


def test_a_canary_with_shifted_scores_is_caught() -> None:
    for seed in range(5):
        evidence = seen(seed)
        moved = evidence.challenger.assign(score=(evidence.challenger["score"] + 0.3).clip(0, 1))
        verdict = judge(replace(evidence, challenger=moved), DEMO)
        assert verdict.outcome is Outcome.FAIL
        assert "score PSI" in verdict.reason


def test_a_shadow_that_scores_otherwise_than_offline_is_caught() -> None:
    evidence = seen(3, "shadow")
    moved = evidence.challenger.assign(score=evidence.challenger["score"] ** 0.5)
    verdict = judge(replace(evidence, challenger=moved), DEMO)
    assert verdict.outcome is Outcome.FAIL
    assert "offline" in verdict.reason


def test_a_world_that_moves_both_models_is_not_the_challengers_fault() -> None:
    evidence = seen(4, "shadow")
    moved = evidence.challenger.assign(score=evidence.challenger["score"] ** 0.5)
    verdict = judge(replace(evidence, challenger=moved, champion=moved), DEMO)
    assert verdict.outcome is Outcome.PASS


@pytest.mark.parametrize("requests", [3, 60])
def test_a_canary_that_raises_is_caught_at_once(requests: int) -> None:
    evidence = seen()
    broken = evidence.challenger.head(requests).assign(failed=1.0, score=np.nan)
    verdict = judge(replace(evidence, elapsed_minutes=0.0, challenger=broken), DEMO)
    assert verdict.outcome is Outcome.FAIL
    assert "error rate" in verdict.reason


def test_errors_of_both_variants_are_not_the_challengers_fault() -> None:
    mine, others = some(range(300), failed=0.0), some(range(300, 600), failed=0.0)
    mine.loc[::10, "failed"] = others.loc[::10, "failed"] = 1.0
    assert check_named(beside(mine, others), "error rate").outcome is not Outcome.FAIL
    assert check_named(beside(mine, others.assign(failed=0.0)), "error rate").outcome is Outcome.FAIL


def test_rules_that_answered_for_want_of_a_champion_excuse_no_errors() -> None:
    evidence = beside(some(range(60), failed=1.0), some(range(60), failed=1.0), "shadow")
    assert check_named(replace(evidence, has_champion=False), "error rate").outcome is Outcome.FAIL


def test_one_error_in_sixty_holds_the_step_and_does_not_roll_back() -> None:
    evidence = seen()
    rows = evidence.challenger.head(60).copy()
    rows.iloc[0, rows.columns.get_loc("failed")] = 1.0
    verdict = judge(replace(evidence, challenger=rows), DEMO)
    assert verdict.outcome is Outcome.INCONCLUSIVE


def test_no_traffic_holds_the_step_whatever_the_time() -> None:
    evidence = replace(seen(), challenger=no_rows(), elapsed_minutes=10_000)
    verdict = judge(evidence, DEMO)
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert "no traffic" in verdict.reason


def test_a_step_does_not_advance_before_its_time() -> None:
    assert judge(replace(seen(), elapsed_minutes=0.05), DEMO).outcome is Outcome.INCONCLUSIVE


def test_a_canary_without_a_champion_beside_it_is_not_passed() -> None:
    assert judge(replace(seen(), champion=no_rows()), DEMO).outcome is not Outcome.PASS


def test_a_split_other_than_the_intended_one_is_a_mismatch() -> None:
    half = seen(5, "canary_50", seconds=9.0)
    verdict = judge(replace(half, step="canary_25"), DEMO)
    assert check_named(half, "sample ratio").outcome is Outcome.PASS
    assert verdict.outcome is Outcome.FAIL
    assert "mismatch" in verdict.reason


def test_a_split_that_is_hardly_by_chance_holds_the_step_and_takes_nothing_back() -> None:
    evidence = beside(some(range(120)), some(range(1000, 1070)))  # 120 of 190, intended half: p 0.0004
    check = check_named(evidence, "sample ratio")
    assert check.outcome is Outcome.INCONCLUSIVE
    assert check.value is not None
    assert 1e-5 < check.value < 1e-3


def test_many_requests_of_few_customers_are_no_mismatch() -> None:
    evidence = seen(step="canary_50")
    eager = evidence.challenger[evidence.challenger["customer_id"] % 10 == 0]
    rows = pd.concat([evidence.challenger, *[eager] * 8])
    assert check_named(replace(evidence, challenger=rows), "sample ratio").outcome is Outcome.PASS


@pytest.mark.parametrize(("stopped", "outcome"), [(60, Outcome.FAIL), (30, Outcome.PASS), (0, Outcome.FAIL)])
def test_a_version_that_stops_many_more_or_many_fewer_customers_is_caught(
    stopped: int, outcome: Outcome
) -> None:
    mine, others = some(range(400)), some(range(400))
    mine.loc[: stopped - 1, "decision"] = "review"
    others.loc[:13, "decision"] = "review"
    if stopped == 0:
        others.loc[:29, "decision"] = "review"
    assert check_named(beside(mine, others, "shadow"), "customers stopped").outcome is outcome


def test_many_blocks_of_one_customer_are_one_blocked_customer() -> None:
    mine, others = some(range(400)), some(range(400, 800))
    angry = pd.concat([some(range(1)).assign(decision="block", passed=0.0)] * 50)
    check = check_named(beside(pd.concat([mine, angry]), others), "customers blocked")
    assert check.outcome is Outcome.PASS


@pytest.mark.parametrize("step", ["shadow", "canary_50"])
def test_a_version_that_blocks_seven_times_as_much_is_seen_also_where_customers_come_again_and_again(
    step: str,
) -> None:
    """Of 400 customers who pay 12 times, those who were blocked once are 97 beside 34 %: no three times."""
    chance = np.random.default_rng(3)
    sides = []
    for share in (0.25, 0.034):
        rows = pd.concat([some(range(400)) for _ in range(12)], ignore_index=True)
        rows["request_id"] = [f"r{number}" for number in range(len(rows))]
        rows["seconds"] = np.linspace(0, 600, len(rows))
        sides.append(rows.assign(decision=np.where(chance.random(len(rows)) < share, "block", "approve")))
    assert check_named(beside(*sides, step), "customers blocked").outcome is Outcome.FAIL


def test_what_a_rule_stopped_is_no_decision_of_the_champion() -> None:
    others = some(range(400)).assign(decision="block", compared=0.0)
    others.loc[100:, ["decision", "compared"]] = ["approve", 1.0]
    mine, others = paired(some(range(400)), others)
    assert mine["compared"].sum() == others["compared"].sum() == 300
    check = check_named(beside(mine, others, "shadow"), "customers blocked")
    assert check.outcome is Outcome.PASS


def test_customers_with_more_disputes_than_the_champions_are_seen() -> None:
    mine, others = some(range(300)), some(range(300, 600))
    mine.loc[:29, "disputed"] = others.loc[:3, "disputed"] = 1.0
    failing = check_named(beside(mine, others), "disputed customers")
    assert failing.outcome is Outcome.FAIL
    assert "30 of 300" in failing.detail
    assert check_named(beside(others, mine), "disputed customers").outcome is Outcome.PASS
    blocked = mine.assign(decision="block")  # its disputes are those of a holdout
    assert check_named(beside(blocked, others), "disputed customers").outcome is Outcome.PASS


@pytest.mark.parametrize(
    ("score", "outcome", "word"),
    [
        (0.1, Outcome.PASS, ""),
        (0.02, Outcome.FAIL, "scores promise too little"),
        (0.5, Outcome.INCONCLUSIVE, "or the champion's too little"),
    ],
)
def test_scores_that_promise_another_share_of_frauds_than_the_champions_are_seen(
    score: float, outcome: Outcome, word: str
) -> None:
    mine, others = some(range(900), score=score), some(range(900, 1800), score=0.1)
    for rows in (mine, others):
        rows.loc[:44, "disputed"] = 1.0  # half of 90 frauds are known by now
    check = check_named(beside(mine, others), "known frauds")
    assert check.outcome is outcome
    assert word in check.detail


def test_a_version_that_promises_no_less_than_came_true_is_held_beside_a_champion_that_promises_more() -> (
    None
):
    mine, others = some(range(9000), score=0.055), some(range(9000, 18_000), score=0.1)
    for rows in (mine, others):
        rows.loc[:449, "disputed"] = 1.0
    check = check_named(beside(mine, others), "known frauds")
    assert check.outcome is Outcome.INCONCLUSIVE
    assert "or the champion's too much" in check.detail


def test_a_champion_with_more_frauds_than_it_promised_is_no_measure_of_a_promise() -> None:
    mine, others = some(range(900), score=0.2), some(range(900, 1800), score=0.02)
    for rows in (mine, others):
        rows.loc[:89, "disputed"] = 1.0
    check = check_named(beside(mine, others), "known frauds")
    assert (check.outcome, check.detail[:31]) == (Outcome.PASS, "the champion promises too littl")
    assert check_named(beside(others, mine), "known frauds").outcome is Outcome.FAIL


def test_a_version_that_corrects_a_champion_from_before_a_drift_is_not_rolled_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(promotion_trials, "RATE", 800)  # as many frauds as show that the two differ
    for seed in range(3):
        evidence = seen(seed, "canary_50", seconds=59.0, kind=CORRECTS)
        assert judge(evidence, DEMO).outcome is Outcome.INCONCLUSIVE
        assert "or the champion's too little" in check_named(evidence, "known frauds").detail


@pytest.mark.parametrize(("score", "outcome"), [(0.01, Outcome.FAIL), (0.1, Outcome.PASS)])
def test_without_a_champion_only_too_many_known_frauds_tell_anything(score: float, outcome: Outcome) -> None:
    rows = some(range(900), score=score)
    rows.loc[:44, "disputed"] = 1.0
    assert check_named(beside(rows, no_rows(), "canary_100"), "known frauds").outcome is outcome


def test_blue_green_goes_from_shadow_to_everybody() -> None:
    assert steps_of(BLUE_GREEN) == ("shadow", "canary_100")
    assert promotion(7, "identical", BLUE_GREEN).step == ""
    assert promotion(7, "raises", BLUE_GREEN).step == "canary_100"
    assert promotion(7, "shuffled", BLUE_GREEN).step == "shadow"


def test_a_slow_version_that_blue_green_gives_to_everybody_is_stopped_and_good_ones_are_not() -> None:
    slow = [promotion(seed, "slow", BLUE_GREEN) for seed in range(3)]
    assert {each.step for each in slow} == {"canary_100"}
    assert all("latency" in each.reason and each.seconds < SECONDS_ALLOWED for each in slow)
    assert {promotion(seed, "identical", BLUE_GREEN, held=20).step for seed in range(8)} == {""}


def test_a_busier_hour_than_the_one_before_is_not_the_challengers_fault() -> None:
    evidence = seen(7, "canary_100")
    busy = evidence.challenger["seconds"].mod(3.0).lt(1.0)  # a third of the time, where it was a tenth
    slower = evidence.challenger["latency_ms"].where(~busy, evidence.challenger["latency_ms"] * 6)
    evidence = replace(evidence, challenger=evidence.challenger.assign(latency_ms=slower))
    judged = [check for check in judge(evidence, BLUE_GREEN).checks if "latency" in check.name]
    assert [check.outcome for check in judged] == [Outcome.PASS]


def test_the_trials_have_customers_who_pay_often() -> None:
    rows = seen(step="shadow").challenger
    assert rows["customer_id"].value_counts().max() >= 3
    assert rows["customer_id"].nunique() < CUSTOMERS
