"""Both models, their ONNX graphs, the calibration and the bundle, on a small made-up frame."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pandas as pd
import pytest
import xgboost

from jobs.conf.policy import load_policy
from jobs.core import SluiceError
from jobs.features.declarations import FEATURE_VERSION, MODEL_FEATURES
from jobs.serving.bundle import Calibrations, ModelBundle
from jobs.training import calibrate, onnx_files, sequence_network, train_xgboost, tune
from jobs.training.boosting import class_weight, fit_booster, probabilities
from jobs.training.bundle_writer import bundle_digest, copy_with_drill, write_bundle
from jobs.training.evaluate import latency_ms
from jobs.training.network_fit import fit_network
from jobs.training.run_folder import RunFolder
from tests.training_support import made_rows, made_run, sqlite_settings

POLICY = load_policy("demo")
CHOSEN = {"max_depth": 4, "eta": 0.2, "weight_power": 0.3}
ROWS = made_rows(250)


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return made_run(sqlite_settings(tmp_path), "r", ROWS)


def rows_of(folder: RunFolder) -> tune.Rows:
    return tune.Rows(folder.read_frame("frame.parquet"), MODEL_FEATURES)


def test_class_weight_follows_the_training_rows() -> None:
    labels = np.array([0] * 99 + [1])
    assert class_weight(labels, 0.0) == 1.0
    assert class_weight(labels, 1.0) == pytest.approx(99.0)
    assert class_weight(labels, 0.5) == pytest.approx(99**0.5)


def test_a_good_row_of_weight_three_counts_as_three_rows() -> None:
    random = np.random.default_rng(5)
    matrix = random.integers(0, 12, (600, 4)).astype(np.float32)
    labels = (random.random(600) < np.where(matrix[:, 0] > 9, 0.6, 0.05)).astype(int)
    weights = np.where(labels == 1, 1, 3)
    many = np.repeat(np.arange(600), weights)
    chosen = {"max_depth": 3, "eta": 0.3, "min_child_weight": 4.0, "weight_power": 0.5}
    weighted = fit_booster(matrix, labels, chosen, 20, seed=7, threads=1, weights=weights)
    repeated = fit_booster(matrix[many], labels[many], chosen, 20, seed=7, threads=1)
    assert np.allclose(probabilities(weighted, matrix), probabilities(repeated, matrix), atol=1e-5)
    assert class_weight(labels, 0.5, weights) == pytest.approx(class_weight(labels[many], 0.5))
    plain = fit_booster(matrix, labels, chosen, 20, seed=7, threads=1)
    assert np.abs(probabilities(plain, matrix) - probabilities(repeated, matrix)).max() > 0.05


def test_the_median_seed_is_used_and_not_the_luckiest() -> None:
    assert train_xgboost.median_seed({7: 0.5, 17: 0.7, 27: 0.6}) == 27
    assert train_xgboost.median_seed({7: 0.5, 17: 0.7}) == 7


def test_the_xgboost_graph_answers_as_the_booster_also_with_gaps(folder: RunFolder) -> None:
    rows = rows_of(folder)
    booster = fit_booster(rows.matrix, rows.labels, CHOSEN, 40, seed=7, threads=1)
    probe = onnx_files.probe_rows(rows.matrix)
    assert np.isnan(probe).any(axis=1).sum() > 1_000
    model = train_xgboost.to_onnx(booster, len(MODEL_FEATURES))
    oracle = booster.predict(xgboost.DMatrix(probe))
    assert np.abs(onnx_files.answers(model.SerializeToString(), probe) - oracle).max() <= 1e-5
    session = onnx_files.session_of(model.SerializeToString())
    assert [(each.name, each.type) for each in session.get_inputs()] == [("features", "tensor(float)")]
    assert session.run(["probability"], {"features": probe[:1]})[0].shape == (1,)


def test_the_same_model_is_the_same_file(folder: RunFolder, tmp_path: Path) -> None:
    rows = rows_of(folder)
    files = set()
    for turn in range(2):
        booster = fit_booster(rows.matrix, rows.labels, CHOSEN, 10, seed=7, threads=1)
        network = fit_network(rows.matrix, rows.labels, MODEL_FEATURES, seed=7, epochs=1).network
        graphs = (
            train_xgboost.to_onnx(booster, len(MODEL_FEATURES)),
            sequence_network.to_onnx(network, len(MODEL_FEATURES)),
        )
        probe = onnx_files.probe_rows(rows.matrix)
        expected = (probabilities(booster, probe), sequence_network.raw_scores(network, probe))
        for number, (graph, answer) in enumerate(zip(graphs, expected, strict=True)):
            path = tmp_path / f"{turn}-{number}.onnx"
            onnx_files.write_checked(graph, answer, probe, path)
            files.add(path.read_bytes())
    assert len(files) == 2, "one file per model, whatever the turn"


def test_a_graph_that_answers_differently_is_refused_and_not_written(folder: RunFolder) -> None:
    rows = rows_of(folder)
    booster = fit_booster(rows.matrix, rows.labels, CHOSEN, 10, seed=7, threads=1)
    probe = onnx_files.probe_rows(rows.matrix)
    model = train_xgboost.to_onnx(booster, len(MODEL_FEATURES))
    target = folder.file("xgboost/model.onnx")
    with pytest.raises(SluiceError, match="answers differ"):
        onnx_files.write_checked(model, probabilities(booster, probe) + 2e-5, probe, target)
    assert not target.exists()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of two graphs that were fitted for a moment."""
    home = tmp_path_factory.mktemp("bundle")
    rows = rows_of(made_run(sqlite_settings(home), "r", ROWS))
    booster = fit_booster(rows.matrix, rows.labels, CHOSEN, 30, seed=7, threads=1)
    network = fit_network(rows.matrix, rows.labels, MODEL_FEATURES, seed=7, epochs=2).network
    maps = {}
    for name, model, raw in (
        (
            "xgboost",
            train_xgboost.to_onnx(booster, len(MODEL_FEATURES)),
            probabilities(booster, rows.held_matrix),
        ),
        (
            "torch",
            sequence_network.to_onnx(network, len(MODEL_FEATURES)),
            sequence_network.raw_scores(network, rows.held_matrix),
        ),
    ):
        (home / f"{name}.onnx").write_bytes(model.SerializeToString())
        maps[name] = calibrate.fit_map(raw, rows.held_labels)
    write_bundle(
        home / "bundle",
        xgboost=home / "xgboost.onnx",
        torch=home / "torch.onnx",
        calibrations=Calibrations(**maps),
        features=MODEL_FEATURES,
        feature_version=FEATURE_VERSION,
    )
    np.save(home / "rows.npy", rows.held_matrix)
    return home / "bundle"


def test_a_bundle_is_served_and_keeps_the_ranking_of_its_models(bundle: Path) -> None:
    matrix = np.load(bundle.parent / "rows.npy")
    served = ModelBundle.load(bundle, POLICY.decisions)
    raw = onnx_files.answers(bundle / "xgboost.onnx", matrix)
    scores = served.score(matrix)
    quiet = scores < POLICY.decisions.blend_from * POLICY.decisions.blend_first  # outside the blended band
    assert quiet.sum() > 100
    assert len(np.unique(scores[quiet])) == len(np.unique(raw[quiet])), "calibration ties no scores"


def test_the_drill_shifted_scores_moves_every_score_up_and_says_so(bundle: Path, tmp_path: Path) -> None:
    matrix = np.load(bundle.parent / "rows.npy")
    manifest = copy_with_drill(bundle, tmp_path / "bundle", "shifted_scores")
    good, bad = ModelBundle.load(bundle).score(matrix), ModelBundle.load(tmp_path / "bundle").score(matrix)
    assert manifest.drill == "shifted_scores"
    assert (bad - good)[good < 0.3].min() > 0.15
    assert bundle_digest(bundle) != bundle_digest(tmp_path / "bundle")


def test_the_drill_slow_answers_the_same_but_late(bundle: Path, tmp_path: Path) -> None:
    matrix = np.load(bundle.parent / "rows.npy")[:200]
    assert copy_with_drill(bundle, tmp_path / "bundle", "slow").drill == "slow"
    slow = ModelBundle.load(tmp_path / "bundle")
    assert np.array_equal(slow.score(matrix), ModelBundle.load(bundle).score(matrix))
    assert np.isfinite(slow.score(np.full((1, len(MODEL_FEATURES)), np.nan, dtype=np.float32))).all()
    p50, _ = latency_ms(slow, matrix, calls=20)
    assert 15 < p50 < 150, "tens of milliseconds; the processor's share is not ours alone here"


def test_without_a_drill_the_registered_bundle_is_the_evaluated_one(bundle: Path, tmp_path: Path) -> None:
    copy_with_drill(bundle, tmp_path / "bundle", "none")
    assert bundle_digest(tmp_path / "bundle") == bundle_digest(bundle)


def test_calibrated_scores_are_close_to_the_share_of_frauds() -> None:
    generator = np.random.default_rng(4)
    truth = generator.beta(0.3, 4.0, 60_000)
    labels = (generator.random(60_000) < truth).astype(int)
    raw = truth**0.4  # far too sure of itself
    found = calibrate.fit_map(raw[:30_000], labels[:30_000])
    calibrated = np.interp(raw[30_000:], found.x, found.y)
    assert np.abs(calibrated - truth[30_000:]).mean() < 0.01
    assert abs(calibrated.mean() - labels[30_000:].mean()) < 0.005


def test_calibration_without_frauds_is_an_error() -> None:
    with pytest.raises(SluiceError, match="0 frauds among 3 rows"):
        calibrate.fit_map(np.array([0.1, 0.2, 0.3]), np.zeros(3, dtype=int))


def test_calibration_looks_at_the_last_days_only() -> None:
    rows = pd.DataFrame({"day": pd.date_range("2026-01-01", periods=9).date, "raw": 0.1})
    assert rows["day"].iloc[-3:].tolist() == calibrate.calibration_rows(rows, 3)["day"].tolist()


def test_onnxruntime_is_the_engine_of_every_graph(bundle: Path) -> None:
    for name in ("xgboost.onnx", "torch.onnx"):
        inputs = onnxruntime.InferenceSession(str(bundle / name)).get_inputs()
        assert inputs[0].shape[1] in (len(MODEL_FEATURES), "columns")
