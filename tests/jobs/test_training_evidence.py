"""The figures of the evidence and the reasons of scores, each against something else."""

from __future__ import annotations

import json
from datetime import date, timedelta

import numpy as np
import pandas as pd
import pytest
import xgboost
from sklearn.metrics import average_precision_score

from jobs.conf.contract import ErrorCosts, contract_of
from jobs.conf.policy import OperatingPoint, load_policy
from jobs.conf.settings import Settings
from jobs.evaluation import metrics
from jobs.evaluation.decision_bands import decision_figures
from jobs.evaluation.slices import SLICES
from jobs.evaluation.stability import week_figures, week_masks
from jobs.features.declarations import MODEL_FEATURES
from jobs.serving.bundle import ModelBundle, decide
from jobs.training import evaluate, explain
from jobs.training.boosting import BOOSTER_FILE, fit_booster, load_booster, probabilities
from jobs.training.evidence import Evidence, Reason
from jobs.training.frame import FrameFacts, matrix_of
from jobs.training.run_folder import RunFolder
from tests.judged_run import judged

pytest_plugins = ("tests.judged_run",)
POLICY = load_policy("demo")


@pytest.fixture(scope="module")
def scores(folder: RunFolder, rows: pd.DataFrame) -> np.ndarray:
    return ModelBundle.load(folder.path / "bundle", POLICY.decisions).score(matrix_of(rows, MODEL_FEATURES))


@pytest.fixture(scope="module")
def evidence(folder: RunFolder, settings: Settings) -> Evidence:
    return judged(folder, settings)


def test_the_bands_of_the_day_share_out_all_hours_and_night_is_one_of_them(rows: pd.DataFrame) -> None:
    bands = [SLICES[name](rows).to_numpy() for name in ("night", "morning", "afternoon", "evening")]
    assert (np.sum(bands, axis=0) == 1).all()


def test_an_entity_is_new_quiet_or_settled() -> None:
    rows = pd.DataFrame({"customer_missing": [1, 0, 0, 0, 0], "customer_count_30d": [np.nan, 0, 1, 29, 30]})
    assert SLICES["new_customer"](rows).tolist() == [True, True, False, False, False]
    assert SLICES["quiet_customer"](rows).tolist() == [False, False, True, True, False]


def test_rows_kept_with_a_model_that_knew_no_pairs_have_no_new_pair() -> None:
    rows = pd.DataFrame({"amount_minor": [1, 2]})
    assert SLICES["new_pair"](rows).tolist() == [False, False]
    assert SLICES["new_pair"](rows.assign(pair_is_new_30d=[1.0, np.nan])).tolist() == [True, False]


def test_a_slice_has_an_interval_of_its_own_around_the_figure_of_sklearn(
    evidence: Evidence, rows: pd.DataFrame, scores: np.ndarray, settings: Settings
) -> None:
    assert {each.name for each in evidence.slices} == set(contract_of(settings).slices)
    for each in evidence.slices:
        mask = SLICES[each.name](rows).to_numpy()
        assert (each.rows, each.positives) == (mask.sum(), rows["is_fraud"][mask].sum())
        if each.positives >= 20:
            expected = average_precision_score(rows["is_fraud"][mask], scores[mask])
            assert each.pr_auc == pytest.approx(expected, abs=1e-9)
            assert each.pr_auc_low is not None
            assert each.pr_auc_high is not None
            assert each.pr_auc_low < expected < each.pr_auc_high


def test_weeks_are_counted_from_the_first_test_day_and_the_last_may_be_shorter() -> None:
    first = date(2026, 1, 5)
    days = pd.Series([first + timedelta(days=offset) for offset in range(16)])
    masks = week_masks(days, first, first + timedelta(days=15))
    assert {name: int(mask.sum()) for name, mask in masks.items()} == {
        "2026-01-05": 7,
        "2026-01-12": 7,
        "2026-01-19": 2,
    }


def test_a_week_s_figure_is_that_of_its_rows(
    evidence: Evidence, rows: pd.DataFrame, scores: np.ndarray
) -> None:
    assert [(each.last - each.first).days for each in evidence.weeks] == [6, 0]
    assert sum(each.rows for each in evidence.weeks) == len(rows)
    for each in evidence.weeks:
        mask = rows["day"].between(each.first, each.last).to_numpy()
        expected = average_precision_score(rows["is_fraud"][mask], scores[mask])
        assert each.pr_auc == pytest.approx(expected, abs=1e-9)
        assert each.pr_auc_low is not None
        assert each.pr_auc_low < expected


def test_a_week_without_rows_is_left_out_and_one_without_fraud_has_no_figure() -> None:
    first = date(2026, 1, 5)
    masks = week_masks(pd.Series([first, first]), first, first + timedelta(days=13))
    nothing = [float("nan")] * 100
    found = week_figures(masks, np.array([0.1, 0.2]), np.array([0, 0]), dict.fromkeys(masks, nothing), first)
    assert [(each.first, each.rows, each.pr_auc, each.pr_auc_low) for each in found] == [
        (first, 2, None, None)
    ]


def test_decision_bands_are_those_by_which_the_service_decides(
    evidence: Evidence, rows: pd.DataFrame, scores: np.ndarray
) -> None:
    decided = [decide(float(score), POLICY.decisions) for score in scores]
    table = (
        rows.assign(decision=decided).groupby(["decision", "is_fraud"])["amount_minor"].agg(["size", "sum"])
    )
    expected = {key: (int(size), int(total)) for key, size, total in table.itertuples()}
    assert [each.decision for each in evidence.decisions] == ["approve", "review", "challenge", "block"]
    for each in evidence.decisions:
        assert (each.frauds, each.fraud_amount_minor) == expected.get((each.decision, 1), (0, 0))
        assert (each.good, each.good_amount_minor) == expected.get((each.decision, 0), (0, 0))
    assert sum(each.frauds > 0 for each in evidence.decisions) > 1, "all in one band shows nothing"


def test_the_champion_is_held_against_the_challenger_by_its_own_scores(
    folder: RunFolder, settings: Settings, rows: pd.DataFrame, scores: np.ndarray
) -> None:
    facts, bundle = folder.read_model("frame.json", FrameFacts), ModelBundle.load(folder.path / "bundle")
    champion = evaluate.Champion("7", "digest", scores[::-1].copy())
    found, _ = evaluate.gather(facts, folder.read_frame("frame.parquet"), bundle, champion, settings)
    days = (facts.split.test_last - facts.split.test_first).days + 1
    costs, expected, blocks = contract_of(settings).costs, [], []
    for each in (scores, champion.scores):
        assert each is not None
        decided = pd.Series([decide(float(score), POLICY.decisions) for score in each])
        stopped, fraud = decided.ne("approve"), rows["is_fraud"].eq(1)
        lost = costs.false_alarm_minor * (stopped & ~fraud).sum()
        expected.append(
            (costs.missed_fraud_share * rows["amount_minor"][stopped & fraud].sum() - lost) / days
        )
        blocks.append(int(decided.eq("block").sum()))
    assert found.saved is not None
    assert found.saved.challenger_minor == pytest.approx(expected[0])
    assert found.saved.champion_minor == pytest.approx(expected[1])
    assert found.saved.difference.value == pytest.approx(expected[0] - expected[1])
    assert found.saved.difference.low < expected[0] - expected[1] < found.saved.difference.high
    for bands, blocked in zip((found.decisions, found.champion_decisions), blocks, strict=True):
        assert bands[-1].frauds + bands[-1].good == blocked


def test_a_score_on_an_edge_is_in_the_milder_band_and_the_strictest_band_that_applies_counts() -> None:
    edges = np.array([0.5, 0.7, 0.9, 0.95])
    ones, amounts = np.ones(4, dtype=int), np.array([1, 2, 4, 8])
    found = decision_figures(edges, ones, amounts, POLICY.decisions)
    assert [each.fraud_amount_minor for each in found] == [1, 2, 4, 8]
    odd = POLICY.decisions.model_copy(update={"block_above": 0.1})
    found = decision_figures(edges, ones, amounts, odd)
    assert [each.fraud_amount_minor for each in found] == [0, 0, 0, 15]
    assert [each.decision for each in found if each.frauds] == [decide(0.5, odd)]


def test_the_cost_of_a_threshold_is_what_stopping_from_it_up_costs(
    rows: pd.DataFrame, scores: np.ndarray
) -> None:
    costs = ErrorCosts(false_alarm_minor=500, missed_fraud_share=0.8)
    labels, amounts = rows["is_fraud"].to_numpy(), rows["amount_minor"].to_numpy(dtype=float)
    curve = metrics.cost_curve(scores, labels, amounts, costs)
    assert curve is not None
    assert len(curve.threshold) == len(np.unique(scores))
    for place in range(0, len(curve.threshold), 97):
        stopped = scores >= curve.threshold[place]
        missed = 0.8 * amounts[(labels == 1) & ~stopped].sum()
        false_alarms = int((stopped & (labels == 0)).sum())
        assert curve.cost_minor[place] == pytest.approx(missed + 500 * false_alarms)
        assert curve.false_positive_rate[place] == pytest.approx(false_alarms / (labels == 0).sum())
        assert curve.fraud_caught[place] == pytest.approx(labels[stopped].sum() / labels.sum())


def test_there_is_no_curve_and_no_operating_point_without_frauds() -> None:
    costs = ErrorCosts(false_alarm_minor=500, missed_fraud_share=1.0)
    curve = metrics.cost_curve(np.array([0.1, 0.2]), np.zeros(2), np.ones(2), costs)
    assert curve is None
    wanted = OperatingPoint(false_positive_rate_max=0.1, fraud_caught_min=0.5)
    assert metrics.operating_points(curve, wanted) == {}


def test_the_evidence_keeps_the_curve_and_what_it_costs_to_stop_nothing(
    evidence: Evidence, rows: pd.DataFrame
) -> None:
    thresholds = [each.threshold for each in evidence.cost_curve]
    assert thresholds == sorted(thresholds, reverse=True)
    assert 20 <= len(thresholds) <= evaluate.COST_POINTS
    assert evidence.cost_curve[-1].fraud_caught == 1.0
    lost = float(rows.loc[rows["is_fraud"] == 1, "amount_minor"].sum())
    assert evidence.operating_point["nothing_stopped_cost_minor"] == lost
    assert evidence.operating_point["cheapest_cost_minor"] <= lost


def test_the_kept_booster_answers_as_the_graph_that_is_served(folder: RunFolder, rows: pd.DataFrame) -> None:
    matrix = matrix_of(rows, MODEL_FEATURES)[:200]
    kept = probabilities(load_booster(folder.existing(BOOSTER_FILE)), matrix)
    served = ModelBundle.load(folder.path / "bundle")._first
    calibrated = np.interp(kept, served._x, served._y)
    assert np.allclose(served.calibrated(matrix), calibrated, atol=1e-5)


def test_contributions_and_base_sum_to_the_margin(folder: RunFolder, rows: pd.DataFrame) -> None:
    booster, matrix = load_booster(folder.existing(BOOSTER_FILE)), matrix_of(rows, MODEL_FEATURES)
    moved, base = explain.contributions(booster, matrix)
    margin = booster.predict(xgboost.DMatrix(matrix), output_margin=True)
    assert moved.shape == matrix.shape
    assert np.allclose(moved.sum(axis=1) + base, margin, atol=1e-4)


def test_contributions_of_two_features_are_their_shapley_values_worked_out_by_hand() -> None:
    # four rows of two switches: only both together are fraud, as in a table of truth
    matrix = np.array([[0, 0], [0, 1], [1, 0], [1, 1]] * 50, dtype=np.float32)
    labels = (matrix.sum(axis=1) == 2).astype(int)
    booster = fit_booster(matrix, labels, {"max_depth": 2, "eta": 1.0}, 1, seed=1, threads=1)
    margin = booster.predict(xgboost.DMatrix(matrix[:4]), output_margin=True)
    moved, base = explain.contributions(booster, matrix[:4])
    # both columns are even and independent: what is known of a coalition is the mean over the other column
    nothing, first, second, both = margin.mean(), margin[2:].mean(), margin[1::2].mean(), margin[3]
    expected = [
        (first - nothing + both - second) / 2,
        (second - nothing + both - first) / 2,
    ]
    assert base[3] == pytest.approx(nothing, abs=1e-5)
    assert moved[3] == pytest.approx(expected, abs=1e-5)


def test_the_summary_ranks_by_size_and_tells_the_direction(evidence: Evidence) -> None:
    sizes = [each.mean_absolute for each in evidence.contributions]
    assert sizes == sorted(sizes, reverse=True)
    assert {each.feature for each in evidence.contributions} == set(MODEL_FEATURES)
    by_name = {each.feature: each for each in evidence.contributions[:3]}
    # the made-up frauds come of these two, and more of either is worse
    for name in ("terminal_risk_7d", "amount_to_mean_30d"):
        rises = by_name[name].rises
        assert rises is not None
        assert rises > 0.5


def test_at_most_so_many_rows_are_explained_from_the_first_to_the_last() -> None:
    rows = pd.DataFrame({"n": range(10_000)})
    sample = explain.even_sample(rows)
    assert len(sample) == explain.EXPLAINED_ROWS
    assert sample["n"].is_unique
    assert (sample["n"].iloc[0], sample["n"].iloc[-1]) == (0, 9_999)
    assert explain.even_sample(rows.head(10))["n"].tolist() == list(range(10))


def test_the_reasons_of_the_highest_scores_are_the_largest_contributions(
    evidence: Evidence, folder: RunFolder, rows: pd.DataFrame, scores: np.ndarray
) -> None:
    assert [each.score for each in evidence.cases] == sorted(scores, reverse=True)[: explain.CASES]
    booster = load_booster(folder.existing(BOOSTER_FILE))
    for case in evidence.cases:
        row = rows[rows["transaction_id"] == case.transaction_id]
        assert bool(row["is_fraud"].iloc[0]) == case.is_fraud
        moved = explain.contributions(booster, matrix_of(row, MODEL_FEATURES))[0][0]
        expected = sorted(zip(MODEL_FEATURES, moved, strict=True), key=lambda item: -item[1])[:4]
        assert [reason.feature for reason in case.reasons] == [name for name, _ in expected]
        assert case.reasons[0].value == pytest.approx(float(row[case.reasons[0].feature].iloc[0]), rel=1e-6)


def test_a_reason_reads_as_a_sentence_of_the_feature_s_declaration() -> None:
    risk = Reason(feature="terminal_risk_7d", value=0.25, contribution=1.5)
    assert explain.in_words(risk).endswith("before the label delay, 0 where empty: 0.25")
    count = Reason(feature="customer_count_1d", value=3.0, contribution=0.1)
    assert explain.in_words(count) == "transactions of the customer in the last day: 3"
    gap = Reason(feature="customer_amount_mean_7d", value=None, contribution=0.1)
    assert explain.in_words(gap) == "mean amount of the customer in the last 7 days: missing"


def test_the_evidence_is_plain_json(evidence: Evidence, folder: RunFolder) -> None:
    content = json.loads(folder.existing("evaluation.json").read_text())
    assert Evidence.model_validate(content) == evidence
    assert len(json.dumps(content)) < 100_000
