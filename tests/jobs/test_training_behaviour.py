"""Behavioural tests and leak checks: each finds the model, or the data, that is made to be found."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from jobs.conf.policy import load_policy
from jobs.features.declarations import MODEL_FEATURES
from jobs.serving.bundle import ModelBundle
from jobs.training import behaviour
from jobs.training.evidence import BEHAVIOURS, LEAK_CHECKS
from jobs.training.frame import role_rows
from jobs.training.run_folder import RunFolder

pytest_plugins = ("tests.judged_run",)
POLICY = load_policy("demo")


def test_the_trained_model_behaves(folder: RunFolder, rows: pd.DataFrame) -> None:
    bundle = ModelBundle.load(folder.path / "bundle", POLICY.decisions)
    figures = behaviour.behaviour_figures(bundle.score, rows, bundle.features)
    found = {each.name: each for each in figures}
    assert tuple(found) == BEHAVIOURS
    assert all(found[name].held for name in list(found)[:4]), found
    assert found["riskiest_terminal"].rows > 1_000
    change = found["riskiest_terminal"].change
    assert change is not None
    assert change > 0.01


def column(matrix: np.ndarray, name: str) -> np.ndarray:
    return np.nan_to_num(matrix[:, MODEL_FEATURES.index(name)])


def test_a_model_with_inverted_risk_is_caught(rows: pd.DataFrame) -> None:
    def inverted(matrix: np.ndarray) -> np.ndarray:
        return 1 / (1 + column(matrix, "terminal_risk_7d"))

    risk, amount = behaviour.direction_figures(inverted, rows, MODEL_FEATURES)
    assert not risk.held
    assert risk.change is not None
    assert risk.change < -0.05
    assert risk.share_wrong is not None
    assert risk.share_wrong > 0.9
    assert amount.held
    assert amount.share_wrong == 0.0


def test_a_model_that_likes_large_amounts_is_caught_on_all_that_is_computed_of_them(
    rows: pd.DataFrame,
) -> None:
    for name in ("amount", "amount_to_mean_30d"):

        def inverted(matrix: np.ndarray, name: str = name) -> np.ndarray:
            return 1 / (1 + np.abs(column(matrix, name)))

        _, amount = behaviour.direction_figures(inverted, rows, MODEL_FEATURES)
        assert not amount.held, name


def test_the_larger_amount_changes_the_amount_s_own_features_and_no_other(rows: pd.DataFrame) -> None:
    seen: list[np.ndarray] = []

    def watching(matrix: np.ndarray) -> np.ndarray:
        seen.append(matrix)
        return np.zeros(len(matrix))

    behaviour.direction_figures(watching, rows, MODEL_FEATURES)
    after, before = seen[2:]
    differ = ~((after == before) | (np.isnan(after) & np.isnan(before))).all(axis=0)
    assert {name for name, moved in zip(MODEL_FEATURES, differ, strict=True) if moved} == {
        "amount", "amount_to_mean_7d", "amount_to_mean_30d", "amount_z_score_7d", "amount_z_score_30d",
    }  # fmt: skip
    assert np.allclose(column(after, "amount"), 5 * column(before, "amount"), rtol=1e-6)


def test_no_row_that_could_be_raised_is_no_proof(rows: pd.DataFrame) -> None:
    gone = rows.assign(**dict.fromkeys(behaviour.RISK, np.nan))
    risk, _ = behaviour.direction_figures(lambda matrix: np.zeros(len(matrix)), gone, MODEL_FEATURES)
    assert (risk.rows, risk.change, risk.held) == (0, None, False)


def test_a_model_that_reads_identifiers_is_caught(rows: pd.DataFrame) -> None:
    features = ("amount", "terminal_id")
    found = behaviour.invariance_figures(lambda matrix: matrix[:, 1] / 1_000, rows, features)
    assert [each.held for each in found] == [False, True, True]


def test_a_model_that_scores_by_position_or_by_company_is_caught(rows: pd.DataFrame) -> None:
    by_place = behaviour.invariance_figures(lambda matrix: np.arange(len(matrix)) / 1e4, rows, MODEL_FEATURES)
    assert [each.held for each in by_place] == [True, False, False]

    def by_company(matrix: np.ndarray) -> np.ndarray:
        amount = column(matrix, "amount")
        return amount / amount.max()

    found = behaviour.invariance_figures(by_company, rows, MODEL_FEATURES)
    assert [each.held for each in found] == [True, True, False]


def test_shuffled_labels_give_chance_and_true_ones_would_not(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    frame = folder.read_frame("frame.parquet")
    found = behaviour.shuffled_labels(frame, MODEL_FEATURES, 7)
    assert found.held
    assert found.chance == pytest.approx(role_rows(frame, "validation")["is_fraud"].mean())
    assert found.value == pytest.approx(found.chance, abs=0.05)

    # a shuffle that shuffles nothing: what a check of the wrong columns would do
    class Unshuffled:
        def permutation(self, labels: np.ndarray) -> np.ndarray:
            return labels

    monkeypatch.setattr(np.random, "default_rng", lambda _: Unshuffled())
    leaking = behaviour.shuffled_labels(frame, MODEL_FEATURES, 7)
    assert not leaking.held
    assert leaking.low is not None
    assert leaking.low > 2 * found.chance


def test_a_planted_leak_is_found_also_where_most_rows_do_not_have_it(rows: pd.DataFrame) -> None:
    planted = {each.name: each for each in behaviour.planted_leaks(rows, {"amount": 0.7}, 7)}
    assert [(name, each.held) for name, each in planted.items()] == [
        ("planted", True),
        ("planted_with_gaps", True),
    ]
    assert planted["planted"].value == 1.0
    assert ("labels_shuffled", *planted) == LEAK_CHECKS


def test_the_check_of_planted_leaks_fails_where_the_real_features_leak_or_nothing_is_found(
    rows: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    leaking = behaviour.planted_leaks(rows, {"amount": 0.999}, 7)
    assert [each.held for each in leaking] == [False, False]
    monkeypatch.setattr(behaviour, "single_feature_auc", lambda frame, names: dict.fromkeys(names, 0.5))
    assert [each.held for each in behaviour.planted_leaks(rows, {}, 7)] == [False, False]
