"""A bundle: its scores against arithmetic done by hand, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.conf.policy import load_policy
from jobs.core import SluiceError
from jobs.serving.bundle import (
    CALIBRATION,
    MANIFEST,
    TORCH,
    XGBOOST,
    ModelBundle,
    decide,
    interpolated,
    seal_bundle,
)
from tests.served_bundles import constant_graph, logistic_graph, write_bundle

NAMES = ("amount", "hour", "risk")
DECISIONS = load_policy().decisions


def sigmoid(value: float) -> float:
    return float(1 / (1 + np.exp(-value)))


def test_scores_are_calibrated_and_blended_only_inside_the_band(tmp_path: Path) -> None:
    halved = {"xgboost": {"x": [0.0, 1.0], "y": [0.0, 1.0]}, "torch": {"x": [0, 1], "y": [0, 0.5]}}
    folder = write_bundle(
        tmp_path / "bundle",
        NAMES,
        logistic_graph({0: 1.0}, 0.0, 3),
        logistic_graph({0: -1.0}, 0.0, 3),
        halved,
    )
    bundle = ModelBundle.load(folder, DECISIONS)
    rows = np.array([[0.0, 1, 1], [1.0, 1, 1], [2.0, 1, 1], [-3.0, 1, 1]], dtype=np.float32)
    expected = [
        0.6 * 0.5 + 0.4 * 0.5 * 0.5,
        0.6 * sigmoid(1) + 0.4 * 0.5 * sigmoid(-1),
        sigmoid(2),  # 0.88, above the band
        sigmoid(-3),  # 0.05, below it
    ]
    assert bundle.score(rows) == pytest.approx(expected, abs=1e-6)
    assert bundle.score(rows).dtype == np.float64


def test_one_row_scores_the_same_as_in_a_batch(tmp_path: Path) -> None:
    folder = write_bundle(
        tmp_path / "bundle", NAMES, logistic_graph({0: 0.7, 2: -0.3}, 0.1, 3), constant_graph(0.2, 3)
    )
    bundle = ModelBundle.load(folder, DECISIONS)
    rows = np.random.default_rng(3).normal(size=(50, 3)).astype(np.float32)
    rows[7, 2] = np.nan
    singles = [bundle.score_one([float(value) for value in row]) for row in rows]
    assert bundle.score(rows) == pytest.approx(singles, abs=1e-7)
    assert bundle.score(rows[:0]).shape == (0,)


def test_the_calibration_is_linear_between_its_points_and_flat_outside(tmp_path: Path) -> None:
    maps = {"xgboost": {"x": [0.2, 0.6], "y": [0.1, 0.3]}, "torch": {"x": [0.5], "y": [0.0]}}
    for raw, calibrated in ((0.1, 0.1), (0.4, 0.2), (0.9, 0.3)):
        folder = write_bundle(tmp_path / f"{raw}", NAMES, constant_graph(raw, 3), None, maps)
        score = ModelBundle.load(folder, DECISIONS).score_one([1.0, 2.0, 3.0])
        assert score == pytest.approx(calibrated, abs=1e-6)


@pytest.mark.parametrize(
    ("score", "decision"),
    [
        (0.0, "approve"),
        (0.5, "approve"),
        (0.500001, "review"),
        (0.7, "review"),
        (0.700001, "challenge"),
        (0.9, "challenge"),
        (0.900001, "block"),
        (1.0, "block"),
    ],
)
def test_decisions_change_strictly_above_their_thresholds(score: float, decision: str) -> None:
    assert decide(score, DECISIONS) == decision


@pytest.mark.parametrize("score", [float("nan"), -0.1, 1.1, float("inf")])
def test_no_decision_rests_on_something_that_is_no_probability(score: float) -> None:
    with pytest.raises(SluiceError, match="not a probability"):
        decide(score, DECISIONS)


def test_a_model_that_answers_nan_raises(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "bundle", NAMES, constant_graph(float("nan"), 3))
    with pytest.raises(SluiceError, match="0 of them finite"):
        ModelBundle.load(folder, DECISIONS).try_out()


def test_a_broken_second_model_is_found_before_the_bundle_is_accepted(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "bundle", NAMES, constant_graph(0.1, 3), constant_graph(float("nan"), 3))
    bundle = ModelBundle.load(folder, DECISIONS)
    assert bundle.score_one([1.0, 1.0, 1.0]) == pytest.approx(0.1)
    with pytest.raises(SluiceError):
        bundle.try_out()


@pytest.mark.parametrize("name", [XGBOOST, TORCH, CALIBRATION])
def test_a_changed_or_missing_file_is_refused_by_name(tmp_path: Path, name: str) -> None:
    folder = write_bundle(tmp_path / "bundle", NAMES, constant_graph(0.1, 3))
    with (folder / name).open("ab") as handle:
        handle.write(b" ")
    with pytest.raises(SluiceError, match=name):
        ModelBundle.load(folder, DECISIONS)
    (folder / name).unlink()
    with pytest.raises(SluiceError, match=f"{name} is missing"):
        ModelBundle.load(folder, DECISIONS)
    with pytest.raises(SluiceError, match=f"{name} is missing"):
        seal_bundle(folder, features=NAMES, feature_version="test")


def test_a_manifest_with_an_unknown_key_or_without_digests_is_refused(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "bundle", NAMES, constant_graph(0.1, 3))
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps(manifest | {"surprise": 1}))
    with pytest.raises(SluiceError, match="surprise"):
        ModelBundle.load(folder, DECISIONS)
    (folder / MANIFEST).write_text(json.dumps(manifest | {"files": {}}))
    with pytest.raises(SluiceError, match=XGBOOST):
        ModelBundle.load(folder, DECISIONS)
    (folder / MANIFEST).write_text("{")
    with pytest.raises(SluiceError, match="not JSON"):
        ModelBundle.load(folder, DECISIONS)


def test_a_graph_for_other_columns_is_refused(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "bundle", ("amount", "hour"), constant_graph(0.1, 3))
    with pytest.raises(SluiceError, match="input shape"):
        ModelBundle.load(folder, DECISIONS)


def test_a_falling_calibration_is_refused(tmp_path: Path) -> None:
    falling = {"x": [0.0, 1.0], "y": [1.0, 0.0]}
    folder = write_bundle(
        tmp_path / "bundle",
        NAMES,
        constant_graph(0.1, 3),
        None,
        {"xgboost": falling, "torch": falling},
    )
    with pytest.raises(SluiceError, match="must not fall"):
        ModelBundle.load(folder, DECISIONS)


def test_a_matrix_of_another_width_is_refused(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "bundle", NAMES, constant_graph(0.1, 3))
    with pytest.raises(SluiceError, match="shape"):
        ModelBundle.load(folder, DECISIONS).score(np.zeros((4, 2), dtype=np.float32))


UNIT = st.floats(0, 1)


@given(st.lists(UNIT, min_size=1, max_size=8), st.lists(UNIT, min_size=8, max_size=8), st.data())
def test_one_value_is_calibrated_as_numpy_interpolates(
    x: list[float], y: list[float], data: st.DataObject
) -> None:
    x, y = sorted(x), sorted(y[: len(x)])
    value = data.draw(st.one_of(st.sampled_from(x), UNIT))
    # a machine that multiplies and adds in one step may differ in the last bit
    assert interpolated(value, x, y) == pytest.approx(float(np.interp(value, x, y)), abs=1e-15)


def test_a_row_with_a_feature_too_few_is_refused(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "bundle", NAMES, constant_graph(0.2, 3))
    with pytest.raises(SluiceError, match="2 features, needed 3"):
        ModelBundle.load(folder, DECISIONS).score_one([1.0, 2.0])
