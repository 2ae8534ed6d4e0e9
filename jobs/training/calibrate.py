"""Job calibrate_model: from raw scores to probabilities, and the bundle put together.

In: the validation rows' raw scores by the models that never saw them (xgboost/, torch/); policy's
    calibration_days counts back from the last validation day.
Out: bundle/ (graphs, calibration.json, manifest.json), calibration.json facts in the receipt.
Map: centred isotonic regression (Oron and Flournoy 2017): the pooled blocks of the isotonic fit stand at
    their mean raw score and are joined by straight lines, so that the map rises strictly. A plain isotonic
    map is flat within each block: it would tie scores and lose ranking.
Errors: NotEnoughData where the calibration rows have no fraud.
"""

from __future__ import annotations

from datetime import date, timedelta

import numpy as np
import pandas as pd
from sklearn.isotonic import IsotonicRegression

from jobs.conf.policy import policy_of
from jobs.conf.settings import Settings
from jobs.core import NotEnoughData, Receipt, Stopwatch
from jobs.serving.bundle import Calibration, Calibrations
from jobs.training.bundle_writer import bundle_digest, write_bundle
from jobs.training.frame import FrameFacts
from jobs.training.run_folder import RunFolder, TrainingParams
from jobs.training.tree_file import TREES_FILE

READS = ("xgboost_model", "torch_model")
WRITES = ("bundle",)

RISE = 1e-6  # smallest rise between two knots
EDGE = 1e-9  # a block this close to 0 or 1 coincides with the end of the range


class Params(TrainingParams):
    """Which run."""


def fit_map(raw: np.ndarray, labels: np.ndarray) -> Calibration:
    """A strictly rising, piecewise linear map over [0, 1] from raw to calibrated probability.

    A block's share of frauds is pulled towards the inside by one row of the mean share: three frauds among
    three rows are not certainty.
    """
    if not 0 < int(labels.sum()) < len(labels):
        raise NotEnoughData(
            f"calibration: {int(labels.sum())} frauds among {len(labels)} rows; both classes are needed: "
            "raise policy.training.calibration_days, or train later"
        )
    level = IsotonicRegression(out_of_bounds="clip").fit_transform(raw, labels)
    rows = pd.DataFrame({"raw": raw, "label": labels, "level": np.round(level, 12)})
    blocks = rows.groupby("level").agg(x=("raw", "mean"), frauds=("label", "sum"), rows=("label", "size"))
    share = (blocks["frauds"] + float(np.mean(labels))) / (blocks["rows"] + 1.0)
    inside = (blocks["x"] > EDGE) & (blocks["x"] < 1.0 - EDGE)
    top = float(share.max())
    knots_x = np.concatenate([[0.0], blocks["x"][inside], [1.0]])
    knots_y = np.concatenate([[0.0], share[inside], [top + (1.0 - top) * 0.1]])
    if not inside.iloc[0]:
        knots_y[0] = float(share.iloc[0])
    return Calibration(x=tuple(knots_x.tolist()), y=tuple(strictly_rising(knots_y).tolist()))


def strictly_rising(values: np.ndarray) -> np.ndarray:
    """Nearly the same values in [0, 1], each at least RISE above the one before."""
    steps = np.arange(len(values)) * RISE
    room = 1.0 - steps[-1]
    return np.asarray(np.maximum.accumulate(np.clip(values, 0.0, 1.0)) * room + steps)


def calibration_rows(scores: pd.DataFrame, days: int) -> pd.DataFrame:
    """The last days of the validation rows."""
    newest: date = max(scores["day"])
    return scores.loc[scores["day"] > newest - timedelta(days=days)]


def run(params: Params, settings: Settings) -> Receipt:
    watch = Stopwatch()
    folder = RunFolder(settings, params.run)
    facts = folder.read_model("frame.json", FrameFacts)
    days = policy_of(settings).training.calibration_days
    maps = {}
    rows = 0
    for model in ("xgboost", "torch"):
        held = calibration_rows(folder.read_frame(f"{model}/validation.parquet"), days)
        maps[model] = fit_map(held["raw"].to_numpy(), held["is_fraud"].to_numpy())
        rows = len(held)
    write_bundle(
        folder.path / "bundle",
        xgboost=folder.existing("xgboost/model.onnx"),
        torch=folder.existing("torch/model.onnx"),
        calibrations=Calibrations(xgboost=maps["xgboost"], torch=maps["torch"]),
        trees=folder.existing(TREES_FILE),
        features=facts.features,
        feature_version=facts.feature_version,
        drill="" if facts.drill == "none" else facts.drill,
        facts={"run": params.run, "day": str(params.day)},
    )
    return Receipt(
        job="calibrate_model",
        table="bundle",
        partition=params.run,
        rows=rows,
        digest=bundle_digest(folder.path / "bundle"),
        seconds=watch.seconds,
        facts={f"{model}_knots": len(found.x) for model, found in maps.items()},
    )
