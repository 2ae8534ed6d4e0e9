"""How many rows a second the tree model scores on one core: as a day is scored, and as others would.

Ours is the served bundle: ONNX Runtime on one thread, calibration, the second model in the band, the
decision. Beside it XGBoost's own predictor on one thread, and a model behind a data frame, as pyfunc serves
it. The trees are fitted as the pipeline fits them, on made-up rows of the real features; a champion has as
many rounds as the policy's longest trial or fewer. Rates are of processor time, so that what else runs on
the machine counts little. Then the whole job: two days, one four times as large as the other, through the
join by Spark, scoring and the commit, with the memory of the job and of Spark.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import xgboost

from jobs.conf.policy import load_policy
from jobs.features.declarations import FEATURE_VERSION, MODEL_FEATURES
from jobs.serving.bundle import Calibrations, ModelBundle, decide_all
from jobs.serving.bundles import bundles_folder
from jobs.training import calibrate, train_xgboost
from jobs.training.boosting import fit_booster, probabilities
from jobs.training.bundle_writer import write_bundle
from jobs.training.frame import matrix_of
from tests.benchmarks import batch_day
from tests.benchmarks.__main__ import Case
from tests.benchmarks.features_process import best_of, spark_server
from tests.training_support import made_rows

PER_DAY, DAYS = 150, 40
ROWS, RUNS = 50_000, 3
DEPTH, ETA = 6, 0.1
GOAL = 200_000  # rows a second
DAY_ROWS = (100_000, 400_000)
MEMORY_GROWTH = 1.5  # for four times the rows: slices bound it
POLICY = load_policy()
LONGEST = POLICY.tuning.max_units * POLICY.tuning.rounds_per_unit


def run() -> list[Case]:
    """Models of 100 rounds, and of as many as the policy allows."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    rows = made_rows(PER_DAY, DAYS)
    matrix, labels = matrix_of(rows, MODEL_FEATURES), rows["is_fraud"].to_numpy()
    drawn = np.random.default_rng(1).integers(0, len(matrix), ROWS)
    asked = np.ascontiguousarray(matrix[drawn])
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        cases = [
            case
            for rounds in (100, LONGEST)
            for case in cases_of(place / str(rounds), matrix, labels, asked, rounds)
        ]
        os.sched_setaffinity(0, allowed)
        return cases + whole_days(place, place / str(LONGEST) / "bundle")


def whole_days(folder: Path, bundle: Path) -> list[Case]:
    """The job on two days: its rate, and what four times as many rows cost in memory."""
    found = []
    for rows in DAY_ROWS:
        home = folder / f"day-{rows}"
        settings = batch_day.installed(home)
        batch_day.fill(settings, rows)
        shutil.copytree(bundle, bundles_folder(settings) / batch_day.VERSION)
        with spark_server(folder / f"spark-{rows}") as server:
            best = best_of(2, "batch_day", "whole", home=home, remote=server.remote)
            found.append((rows, best, best.peak_mb + server.peak_mb))
    small, large = (memory for _, _, memory in found)
    cases = [
        Case(
            f"score_day of {rows:,} transactions in {best.facts['chunks']} slices, {LONGEST} rounds",
            rows / best.seconds, None, "rows/s", "reported", True,
        )
        for rows, best, _ in found
    ]  # fmt: skip
    growth = large / small
    return [
        *cases,
        Case(f"  its memory with Spark's, {DAY_ROWS[1]:,} beside {DAY_ROWS[0]:,} transactions",
             large, small, "MB", f"<= {MEMORY_GROWTH} x", growth <= MEMORY_GROWTH),
    ]  # fmt: skip


def rate(work: Callable[[], object]) -> float:
    """Rows a second of processor time, of the best run."""
    work()
    spent = []
    for _ in range(RUNS):
        start = time.process_time()
        work()
        spent.append(time.process_time() - start)
    return ROWS / min(spent)


def cases_of(
    folder: Path, matrix: np.ndarray, labels: np.ndarray, asked: np.ndarray, rounds: int
) -> list[Case]:
    """One model, each way of asking it."""
    booster = fit_booster(matrix, labels, {"max_depth": DEPTH, "eta": ETA}, rounds, seed=7, threads=1)
    bundle = bundle_of(folder, booster, matrix, labels)
    booster.set_param({"nthread": 1})
    frame = pd.DataFrame(asked, columns=list(MODEL_FEATURES))
    ours = rate(lambda: decide_all(bundle.score(asked), POLICY.decisions))
    own = rate(lambda: booster.inplace_predict(asked))
    pyfunc = rate(lambda: booster.predict(xgboost.DMatrix(frame, nthread=1)))
    size = (folder / "bundle" / "xgboost.onnx").stat().st_size / 1e6
    leaves = booster.trees_to_dataframe()["Feature"].eq("Leaf").sum()
    what = f"{rounds} rounds of depth {DEPTH}, {leaves:,} leaves, {size:.1f} MB, one core"
    return [
        Case(
            f"score, calibrate, decide: {what}; beside XGBoost's own bare predictor",
            ours, own, "rows/s", f">= {GOAL:,}", ours >= GOAL,
        ),
        Case(f"  beside a data frame through DMatrix: {rounds} rounds", ours, pyfunc, "rows/s", "", True),
    ]  # fmt: skip


def bundle_of(folder: Path, booster: xgboost.Booster, matrix: np.ndarray, labels: np.ndarray) -> ModelBundle:
    """The bundle as it would be served; the trees stand in for the second model too."""
    graph = folder / "model.onnx"
    graph.parent.mkdir(parents=True)
    graph.write_bytes(train_xgboost.to_onnx(booster, len(MODEL_FEATURES)).SerializeToString())
    found = calibrate.fit_map(probabilities(booster, matrix), labels)
    write_bundle(
        folder / "bundle", xgboost=graph, torch=graph,
        calibrations=Calibrations(xgboost=found, torch=found),
        features=MODEL_FEATURES, feature_version=FEATURE_VERSION,
    )  # fmt: skip
    return ModelBundle.load(folder / "bundle", POLICY.decisions)
