"""Tuning, both models, their ONNX graphs, the calibration and the bundle, on a small made-up frame."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnxruntime
import optuna
import pandas as pd
import pytest
import torch
import xgboost
from sklearn.metrics import average_precision_score

from jobs.conf.policy import load_policy
from jobs.conf.settings import Settings
from jobs.core import SluiceError
from jobs.features.declarations import FEATURE_VERSION, MODEL_FEATURES
from jobs.serving.bundle import Calibrations, ModelBundle
from jobs.training import calibrate, onnx_files, train_torch, train_xgboost, tune
from jobs.training.boosting import class_weight, fit_booster, probabilities
from jobs.training.bundle_writer import bundle_digest, copy_with_drill, write_bundle
from jobs.training.evaluate import latency_ms
from jobs.training.run_folder import RunFolder
from tests.training_support import DAY, made_rows, made_run, sqlite_settings

POLICY = load_policy("demo")
SMALL = POLICY.model_copy(
    update={
        "tuning": POLICY.tuning.model_copy(
            update={"trials": 8, "workers": 2, "grace_units": 2, "max_units": 8}
        )
    }
)
CHOSEN = {"max_depth": 4, "eta": 0.2, "weight_power": 0.3}
ROWS = made_rows(250)


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return made_run(sqlite_settings(tmp_path), "r", ROWS)


def rows_of(folder: RunFolder) -> tune.Rows:
    return tune.Rows(folder.read_frame("frame.parquet"), MODEL_FEATURES)


def search(
    folder: RunFolder, rows: tune.Rows, trials: int = 8
) -> list[tuple[float | None, dict[str, object]]]:
    """Run each worker until it has its share of `trials`; gives all finished trials."""
    tuning = SMALL.tuning.model_copy(update={"trials": trials})
    found = []
    for worker in range(tuning.workers):
        study = tune.open_study(folder, worker, tuning)
        while len(tune.finished_trials(study)) < tune.share_of(worker, tuning):
            tune.run_trial(study, rows, SMALL, worker, threads=1)
        found += [(trial.value, trial.params) for trial in tune.finished_trials(study)]
    return found


def test_the_same_seed_gives_the_same_trials_whether_it_was_interrupted_or_not(
    folder: RunFolder, tmp_path: Path
) -> None:
    rows = rows_of(folder)
    whole = search(folder, rows)
    other = made_run(sqlite_settings(tmp_path / "other"), "r", ROWS)
    search(other, rows, trials=3)
    study = tune.open_study(other, 0, SMALL.tuning)
    study.ask()  # a worker that is killed here leaves its trial open
    assert tune.close_open_trials(study) == 1
    assert search(other, rows) == whole
    assert tune.winner(other, SMALL.tuning) == tune.winner(folder, SMALL.tuning).model_copy(
        update={"trial": tune.winner(other, SMALL.tuning).trial}
    )


def test_halving_stops_trials_early_and_keeps_their_curves(folder: RunFolder) -> None:
    search(folder, rows_of(folder))
    trials = [
        trial
        for worker in range(2)
        for trial in tune.finished_trials(tune.open_study(folder, worker, SMALL.tuning))
    ]
    pruned = [trial for trial in trials if trial.state is optuna.trial.TrialState.PRUNED]
    assert len(trials) == 8
    assert pruned
    assert all(2 <= len(trial.intermediate_values) < 8 for trial in pruned)
    assert all(trial.user_attrs["stopped"].startswith("pruned") for trial in pruned)


def test_tuning_never_sees_test_rows(folder: RunFolder) -> None:
    before = search(folder, rows_of(folder), trials=2)
    frame = folder.read_frame("frame.parquet")
    late = frame["role"].isin(["test", "embargo", "gap"])
    frame.loc[late, "is_fraud"] = 1 - frame.loc[late, "is_fraud"]
    frame.loc[late, list(MODEL_FEATURES)] = 1e9
    again = RunFolder(Settings(home=folder.path.parent / "again"), "r")
    again.write_frame("frame.parquet", frame)
    assert search(again, rows_of(again), trials=2) == before


def test_all_workers_together_run_the_policy_s_trials() -> None:
    for trials, workers in ((12, 2), (7, 3), (1, 2)):
        tuning = SMALL.tuning.model_copy(update={"trials": trials, "workers": workers})
        assert sum(tune.share_of(worker, tuning) for worker in range(workers)) == trials


def test_a_missing_worker_is_named_before_a_winner_is_chosen(folder: RunFolder) -> None:
    study = tune.open_study(folder, 0, SMALL.tuning)
    for _ in range(4):
        tune.run_trial(study, rows_of(folder), SMALL, 0, threads=1)
    with pytest.raises(SluiceError, match="worker 1 has finished 0 of 4"):
        tune.winner(folder, SMALL.tuning)


def test_a_worker_killed_in_the_middle_of_its_search_resumes_it(folder: RunFolder, tmp_path: Path) -> None:
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from tests.training_support import DAY, sqlite_settings\n"
        "from jobs.training import tune\n"
        "tune.run(tune.Params(day=DAY, run='r', worker=0), sqlite_settings(Path(sys.argv[1])))\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    settings = sqlite_settings(tmp_path)
    worker = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 90
    done = 0
    while done < 2 and time.monotonic() < deadline and worker.poll() is None:
        time.sleep(0.05)
        if (folder.path / "study.journal").exists():
            done = len(tune.finished_trials(tune.open_study(folder, 0, POLICY.tuning)))
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    assert done >= 2
    before = len(tune.finished_trials(tune.open_study(folder, 0, POLICY.tuning)))
    receipt = tune.run(tune.Params(day=DAY, run="r", worker=0), settings)
    assert receipt.rows == 6
    assert receipt.facts["new_trials"] == 6 - before


def test_class_weight_follows_the_training_rows() -> None:
    labels = np.array([0] * 99 + [1])
    assert class_weight(labels, 0.0) == 1.0
    assert class_weight(labels, 1.0) == pytest.approx(99.0)
    assert class_weight(labels, 0.5) == pytest.approx(99**0.5)


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
        network, _ = train_torch.fit_network(rows.matrix, rows.labels, seed=7, epochs=1)
        graphs = (
            train_xgboost.to_onnx(booster, len(MODEL_FEATURES)),
            train_torch.to_onnx(network, len(MODEL_FEATURES)),
        )
        probe = onnx_files.probe_rows(rows.matrix)
        expected = (probabilities(booster, probe), train_torch.raw_scores(network, probe))
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


def test_the_network_s_graph_answers_as_the_network_and_the_seed_fixes_it(folder: RunFolder) -> None:
    torch.set_num_threads(1)
    rows = rows_of(folder)
    held = (rows.held_matrix, rows.held_labels)
    network, curve = train_torch.fit_network(rows.matrix, rows.labels, seed=7, epochs=6, held=held)
    again, same_curve = train_torch.fit_network(rows.matrix, rows.labels, seed=7, epochs=6, held=held)
    scores = train_torch.raw_scores(network, rows.held_matrix)
    assert curve == same_curve
    assert np.array_equal(scores, train_torch.raw_scores(again, rows.held_matrix))
    assert average_precision_score(rows.held_labels, scores) == pytest.approx(max(curve))
    assert max(curve) > 3 * rows.held_labels.mean()
    probe = onnx_files.probe_rows(rows.matrix)
    content = train_torch.to_onnx(network, len(MODEL_FEATURES)).SerializeToString()
    found = onnx_files.answers(content, probe)
    assert np.isfinite(found).all()
    assert np.abs(found - train_torch.raw_scores(network, probe)).max() <= 1e-5
    assert len(onnx_files.answers(content, probe[:1])) == 1


def test_the_network_takes_its_constants_from_training_rows_and_survives_odd_columns() -> None:
    matrix = np.array([[1.0, np.nan, 5.0], [3.0, np.nan, 5.0], [np.nan, np.nan, 5.0]], dtype=np.float32)
    network = train_torch.FraudNetwork(3)
    network.fit_inputs(torch.from_numpy(matrix))
    assert network.fill.tolist() == [1.0, 0.0, 5.0]  # torch's median is the lower of two
    assert torch.isfinite(network(torch.full((2, 3), float("nan")))).all()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of two graphs that were fitted for a moment."""
    home = tmp_path_factory.mktemp("bundle")
    rows = rows_of(made_run(sqlite_settings(home), "r", ROWS))
    booster = fit_booster(rows.matrix, rows.labels, CHOSEN, 30, seed=7, threads=1)
    network, _ = train_torch.fit_network(rows.matrix, rows.labels, seed=7, epochs=2)
    maps = {}
    for name, model, raw in (
        (
            "xgboost",
            train_xgboost.to_onnx(booster, len(MODEL_FEATURES)),
            probabilities(booster, rows.held_matrix),
        ),
        (
            "torch",
            train_torch.to_onnx(network, len(MODEL_FEATURES)),
            train_torch.raw_scores(network, rows.held_matrix),
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
