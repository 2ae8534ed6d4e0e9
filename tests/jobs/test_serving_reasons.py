"""Reason codes: exact Shapley values of the trees, checked against XGBoost's own, and POST /explain."""

from __future__ import annotations

from itertools import combinations
from math import factorial
from pathlib import Path

import numpy as np
import pytest
import xgboost
from fastapi.testclient import TestClient

from jobs.conf.policy import load_policy
from jobs.conf.settings import Settings
from jobs.core import SluiceError
from jobs.serving.app import Service, create_app
from jobs.serving.bundle import Calibration, Calibrations, ModelBundle
from jobs.serving.follower import ServingState
from jobs.serving.loading import ServedModel
from jobs.serving.tree_reasons import TREES, Trees, paths_of
from jobs.training.bundle_writer import copy_with_drill, write_bundle
from jobs.training.onnx_files import probe_rows, write_checked
from jobs.training.train_xgboost import to_onnx
from jobs.training.tree_file import write_trees
from tests.served_bundles import PlainFeatures, logistic_graph
from tests.served_bundles import write_bundle as plain_bundle

POLICY = load_policy()
EVEN = Calibration(x=(0.0, 1.0), y=(0.0, 1.0))
BODY = {
    "transaction_id": 11,
    "event_time": "2026-01-31T12:00:00Z",
    "customer_id": 1,
    "terminal_id": 4,
    "amount_minor": 250,
}


@pytest.fixture(scope="module")
def rows() -> np.ndarray:
    """Three columns as PlainFeatures has them, with gaps."""
    random = np.random.default_rng(5)
    found = random.normal(2.0, 2.0, size=(3000, 3)).astype(np.float32)
    found[random.random(found.shape) < 0.2] = np.nan
    return found


@pytest.fixture(scope="module")
def booster(rows: np.ndarray) -> xgboost.Booster:
    chance = np.random.default_rng(6).random(len(rows))
    odds = np.nan_to_num(rows[:, 0]) + np.nan_to_num(rows[:, 1]) * np.nan_to_num(rows[:, 2]) - 5
    labels = (chance < 1 / (1 + np.exp(-odds))).astype(int)
    return xgboost.train(
        {"objective": "binary:logistic", "max_depth": 5, "nthread": 1, "scale_pos_weight": 3.0},
        xgboost.QuantileDMatrix(rows, labels),
        40,
    )


@pytest.fixture(scope="module")
def bundle(rows: np.ndarray, booster: xgboost.Booster, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle as training writes it; the trees stand for the second model too."""
    home = tmp_path_factory.mktemp("explained")
    probe = probe_rows(rows)
    write_checked(to_onnx(booster, 3), booster.inplace_predict(probe), probe, home / "model.onnx")
    write_trees(booster, home / TREES)
    write_bundle(
        home / "bundle",
        xgboost=home / "model.onnx",
        torch=home / "model.onnx",
        calibrations=Calibrations(xgboost=EVEN, torch=EVEN),
        trees=home / TREES,
        features=PlainFeatures.names,
        feature_version="test",
    )
    return home / "bundle"


def test_the_contributions_are_those_that_xgboost_gives(
    rows: np.ndarray, booster: xgboost.Booster, bundle: Path
) -> None:
    trees = Trees.load(bundle / TREES)
    asked = np.vstack([rows[:200], [[np.nan] * 3, [1e6, -1e6, 0.0]]]).astype(np.float32)
    expected = booster.predict(xgboost.DMatrix(asked), pred_contribs=True)
    for row, parts in zip(asked, expected, strict=True):
        found, base = trees.contributions(row)
        assert found == pytest.approx(parts[:-1], abs=2e-5)
        assert base == pytest.approx(parts[-1], abs=2e-5)


def test_the_contributions_are_the_shapley_values_of_a_tree_written_out() -> None:
    # x0 < 1 ? (x1 < 2 ? 10 : 20) : (x0 < 3 ? 30 : 40); weights 8 -> 6 (2, 4), 2 (1, 1)
    tree = {
        "left": [1, 3, 5, -1, -1, -1, -1], "right": [2, 4, 6, -1, -1, -1, -1],
        "feature": [0, 1, 0, 0, 0, 0, 0], "threshold": [1, 2, 3, 10, 20, 30, 40],
        "gaps_left": [True, False, True, False, False, False, False], "weight": [8, 6, 2, 2, 4, 1, 1],
    }  # fmt: skip
    stored = {name: np.array(values) for name, values in tree.items()}
    stored |= {"roots": np.array([0]), "base_score": np.float64(0.5), "columns": np.int32(3)}
    row = np.array([0.0, np.nan, 7.0], dtype=np.float32)  # left, then a gap: right

    def known(features: set[int], node: int = 0) -> float:
        if tree["left"][node] < 0:
            return float(tree["threshold"][node])
        left, right, name = tree["left"][node], tree["right"][node], tree["feature"][node]
        if name in features:
            goes_left = (
                tree["gaps_left"][node] if np.isnan(row[name]) else row[name] < tree["threshold"][node]
            )
            return known(features, left if goes_left else right)
        shares = [tree["weight"][child] / tree["weight"][node] for child in (left, right)]
        return shares[0] * known(features, left) + shares[1] * known(features, right)

    expected = []
    for name in range(3):
        others = {0, 1, 2} - {name}
        expected.append(
            sum(
                factorial(size) * factorial(2 - size) / factorial(3) * (known({*them, name}) - known({*them}))
                for size in range(3)
                for them in combinations(others, size)
            )
        )
    found, base = paths_of(stored).contributions(row)
    assert found == pytest.approx(expected)
    assert base == pytest.approx(0.5 + known(set()))


def test_a_damaged_file_of_trees_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / TREES).write_bytes(b"PK no archive")
    with pytest.raises(SluiceError, match="no trees that could be explained"):
        Trees.load(tmp_path / TREES)


def test_a_bundle_that_is_registered_keeps_its_trees(bundle: Path, tmp_path: Path) -> None:
    copy_with_drill(bundle, tmp_path / "bundle", "shifted_scores")
    assert (tmp_path / "bundle" / TREES).read_bytes() == (bundle / TREES).read_bytes()


def explained(home: Settings, state: ServingState, *, broken: bool = False) -> tuple[int, dict, Service]:  # type: ignore[type-arg]
    """POST /explain of BODY: status, answer, and the service afterwards."""
    features = PlainFeatures()
    settings = home.model_copy(update={"mlflow_uri": "http://127.0.0.1:9"})
    app = create_app(settings, policy=POLICY, features=features)
    with TestClient(app) as client:
        app.state.service.follower.state = state
        features.broken = broken
        answer = client.post("/explain", json=BODY)
        assert features.asked == []  # nothing is recorded
        assert app.state.service.log.counters()["queued"] == 0
        return answer.status_code, answer.json(), app.state.service


def test_explain_names_the_largest_contributions_in_order(
    home: Settings, booster: xgboost.Booster, bundle: Path
) -> None:
    state = ServingState(ServedModel("3", ModelBundle.load(bundle, POLICY.decisions)))
    status, answer, service = explained(home, state)
    row = xgboost.DMatrix(np.array([[2.5, 0.0, np.nan]], dtype=np.float32))  # PlainFeatures' values of BODY
    parts = booster.predict(row, pred_contribs=True)[0]
    assert status == 200
    assert answer["method"] == "tree_shap"
    assert answer["margin"] == pytest.approx(booster.predict(row, output_margin=True)[0], abs=2e-5)
    assert answer["base"] == pytest.approx(parts[-1], abs=2e-5)
    order = np.argsort(-np.abs(parts[:-1]))
    assert [reason["feature"] for reason in answer["reasons"]] == [PlainFeatures.names[i] for i in order]
    assert [reason["contribution"] for reason in answer["reasons"]] == pytest.approx(parts[order], abs=2e-5)
    gap = next(reason for reason in answer["reasons"] if reason["feature"] == "gap")
    assert (gap["value"], gap["code"]) == (None, "GAP")
    assert gap["text"].startswith("gap: missing; ")
    assert service.scorer.counts.by_variant() == {}


def test_a_bundle_without_trees_is_explained_by_what_goes_missing(home: Settings, tmp_path: Path) -> None:
    folder = plain_bundle(tmp_path / "plain", PlainFeatures.names, logistic_graph({0: 2.0, 1: 1.0}, -3.0, 3))
    state = ServingState(ServedModel("3", ModelBundle.load(folder, POLICY.decisions)))
    _, answer, _ = explained(home, state)
    assert answer["method"] == "occlusion"
    assert answer["margin"] == pytest.approx(2.0, abs=1e-4)  # 2 * 2.5 + 1 * 0 - 3
    assert [(reason["feature"], reason["contribution"]) for reason in answer["reasons"]] == [
        ("amount", pytest.approx(5.0, abs=1e-4))
    ]


def test_what_cannot_be_explained_is_said(home: Settings, bundle: Path) -> None:
    status, answer, _ = explained(home, ServingState())
    assert (status, answer) == (503, {"detail": "no model answers: no_model"})
    state = ServingState(ServedModel("3", ModelBundle.load(bundle, POLICY.decisions)))
    status, answer, _ = explained(home, state, broken=True)
    assert (status, answer) == (503, {"detail": "features: the store is down"})
