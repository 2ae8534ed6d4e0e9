"""For tests of the evidence: a run with trees that were fitted for a moment, as calibrate_model leaves it."""

from __future__ import annotations

import pandas as pd
import pytest

from jobs.conf.settings import Settings
from jobs.features.declarations import FEATURE_VERSION, MODEL_FEATURES
from jobs.serving.bundle import Calibrations
from jobs.training import calibrate, evaluate, gate, train_xgboost
from jobs.training.boosting import BOOSTER_FILE, fit_booster, probabilities, save_booster
from jobs.training.bundle_writer import write_bundle
from jobs.training.evidence import Evidence
from jobs.training.frame import TEST, matrix_of, role_rows
from jobs.training.run_folder import RunFolder
from tests.training_support import DAY, made_rows, made_run, sqlite_settings


def calibrated_run(settings: Settings) -> RunFolder:
    """The trees lie in both places of the bundle."""
    made = made_run(settings, "r", made_rows(300))
    frame = made.read_frame("frame.parquet")
    fit, held = role_rows(frame, "tuning"), role_rows(frame, "validation")
    booster = fit_booster(
        matrix_of(fit, MODEL_FEATURES), fit["is_fraud"].to_numpy(), {"max_depth": 4, "eta": 0.2}, 40,
        seed=7, threads=1,
    )  # fmt: skip
    save_booster(booster, made.file(BOOSTER_FILE))
    graph = made.file("xgboost/model.onnx")
    graph.write_bytes(train_xgboost.to_onnx(booster, len(MODEL_FEATURES)).SerializeToString())
    made.write_facts("xgboost/facts.json", {"importance": train_xgboost.importance(booster, MODEL_FEATURES)})
    raw = probabilities(booster, matrix_of(held, MODEL_FEATURES))
    found = calibrate.fit_map(raw, held["is_fraud"].to_numpy())
    write_bundle(
        made.path / "bundle",
        xgboost=graph,
        torch=graph,
        calibrations=Calibrations(xgboost=found, torch=found),
        features=MODEL_FEATURES,
        feature_version=FEATURE_VERSION,
    )
    return made


def judged(folder: RunFolder, settings: Settings) -> Evidence:
    """What evaluate_model and gate_model leave, with a registry that has no version."""
    evaluate.run(evaluate.Params(day=DAY, run="r"), settings)
    gate.run(gate.Params(day=DAY, run="r"), settings)
    return folder.read_model("evaluation.json", Evidence)


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return sqlite_settings(tmp_path_factory.mktemp("evidence"))


@pytest.fixture(scope="module")
def folder(settings: Settings) -> RunFolder:
    """A calibrated run of a module's own."""
    return calibrated_run(settings)


@pytest.fixture(scope="module")
def rows(folder: RunFolder) -> pd.DataFrame:
    """Its test rows."""
    return role_rows(folder.read_frame("frame.parquet"), TEST).reset_index(drop=True)
