"""A model as it is served: one folder with two ONNX graphs, their calibrations and a manifest.

In: a folder
    manifest.json     {features, feature_version, drill, facts, files: {name: sha256}}
    xgboost.onnx      input "features" float32 [N, F], output "probability" float32 [N] or [N, 1]
    torch.onnx        the same names; fills gaps and scales inside the graph
    calibration.json  {"xgboost": {"x": […], "y": […]}, "torch": {…}}: piecewise linear maps from raw
                      to calibrated probability, applied by np.interp
Out: calibrated probabilities of fraud in [0, 1], float64.
Errors: SluiceError where a file is missing, changed or not what it should be, where a graph asks for
    other columns, and where a score is not a probability (a caller treats that as a failed model).
Whoever writes a bundle puts the two graphs and calibration.json in place and calls `seal_bundle` last.
"""

from __future__ import annotations

import hashlib
import json
import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt
import onnxruntime
from pydantic import Field, ValidationError, model_validator

from jobs.conf.policy import Decisions, load_policy
from jobs.core import SluiceError, StrictModel, first_line
from jobs.files import write_whole

MANIFEST = "manifest.json"
CALIBRATION = "calibration.json"
XGBOOST = "xgboost.onnx"
TORCH = "torch.onnx"
REQUIRED = (XGBOOST, TORCH, CALIBRATION)
INPUT = "features"
OUTPUT = "probability"

Decision = Literal["approve", "review", "challenge", "block"]
Scores = npt.NDArray[np.float64]
Matrix = npt.NDArray[np.float32]
Model = TypeVar("Model", bound=StrictModel)


class Manifest(StrictModel):
    """What a bundle says about itself."""

    features: tuple[str, ...] = Field(min_length=1, description="the graphs' columns, in order")
    feature_version: str = Field(min_length=1, description="digest of the feature declarations")
    drill: str = Field(
        "", description="what was done to the graphs on purpose, for the record; nothing acts on it"
    )
    facts: dict[str, Any] = Field(default_factory=dict, description="further small facts of the training")
    files: dict[str, str] = Field(description="SHA-256 of every file of the bundle but this one")

    @model_validator(mode="after")
    def _is_whole(self) -> Manifest:
        missing = [name for name in REQUIRED if name not in self.files]
        if missing:
            raise ValueError(f"files lacks {missing[0]}")
        if any(Path(name).name != name for name in self.files):
            raise ValueError("files lie in the bundle's folder itself")
        if len(set(self.features)) != len(self.features):
            raise ValueError("a feature is named twice")
        return self


class Calibration(StrictModel):
    """A piecewise linear, rising map from a raw to a calibrated probability."""

    x: tuple[float, ...] = Field(min_length=1)
    y: tuple[float, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _rises(self) -> Calibration:
        if len(self.x) != len(self.y):
            raise ValueError("x and y differ in length")
        if bool(np.any(np.diff(self.x) < 0)) or bool(np.any(np.diff(self.y) < 0)):
            raise ValueError("x and y must not fall")
        if self.y[0] < 0 or self.y[-1] > 1:
            raise ValueError("y must lie in [0, 1]")
        return self


class Calibrations(StrictModel):
    """One map per graph."""

    xgboost: Calibration
    torch: Calibration


def interpolated(value: float, x: Sequence[float], y: Sequence[float]) -> float:
    """np.interp of one finite value, by its own formula: x rises, outside it the ends of y hold."""
    place = bisect_right(x, value) - 1
    if place < 0:
        return y[0]
    if place == len(x) - 1 or x[place] == value:
        return y[place]
    slope = (y[place + 1] - y[place]) / (x[place + 1] - x[place])
    return slope * (value - x[place]) + y[place]


class _Graph:
    """One ONNX graph with its calibration."""

    def __init__(self, path: Path, calibration: Calibration, columns: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self.path = path
        self._knots_x, self._knots_y = calibration.x, calibration.y
        self._x = np.asarray(calibration.x, dtype=np.float64)
        self._y = np.asarray(calibration.y, dtype=np.float64)
        try:
            self._session = onnxruntime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime raises its own kinds, not exported as one
            raise SluiceError(f"bundle {path}: not a readable ONNX graph: {error}") from None
        inputs = [(each.name, each.shape) for each in self._session.get_inputs()]
        outputs = [each.name for each in self._session.get_outputs()]
        if [name for name, _ in inputs] != [INPUT] or OUTPUT not in outputs:
            raise SluiceError(
                f"bundle {path}: the graph maps {inputs} to {outputs}; it must map {INPUT!r} to {OUTPUT!r}"
            )
        shape = inputs[0][1]
        wrong = len(shape) != 2 or (isinstance(shape[1], int) and shape[1] != columns)
        if wrong or isinstance(shape[0], int):
            raise SluiceError(f"bundle {path}: input shape {shape}, needed any number of rows by {columns}")

    def calibrated_one(self, row: Matrix) -> float:
        """The same for one row [1, F], without numpy's cost for each of a dozen tiny arrays."""
        raw = self._session.run([OUTPUT], {INPUT: row})[0]
        value: float = raw.item() if raw.size == 1 else math.nan
        if not math.isfinite(value):
            raise SluiceError(
                f"bundle {self.path}: one row gave {raw.size} scores, or one that is not finite"
            )
        return interpolated(value, self._knots_x, self._knots_y)

    def calibrated(self, matrix: Matrix) -> Scores:
        raw = self._session.run([OUTPUT], {INPUT: matrix})[0].reshape(-1)
        if raw.shape[0] != matrix.shape[0] or not np.isfinite(raw).all():
            raise SluiceError(
                f"bundle {self.path}: {matrix.shape[0]} rows gave {raw.shape[0]} scores, "
                f"{int(np.isfinite(raw).sum())} of them finite"
            )
        scores: Scores = np.interp(raw, self._x, self._y)
        return scores


class ModelBundle:
    """The served model: calibrated XGBoost, blended with the torch model for borderline scores."""

    def __init__(self, folder: Path, manifest: Manifest, decisions: Decisions) -> None:
        calibrations = _read_model(folder / CALIBRATION, Calibrations)
        columns = len(manifest.features)
        self.folder = folder
        self.version_info = manifest
        self.decisions = decisions
        self._first = _Graph(folder / XGBOOST, calibrations.xgboost, columns)
        self._second = _Graph(folder / TORCH, calibrations.torch, columns)

    @classmethod
    def load(cls, folder: Path, decisions: Decisions | None = None) -> ModelBundle:
        """The bundle of a folder, its files checked against the manifest.

        `decisions` names the band in which the two models are blended; the shipped policy's when absent.
        """
        manifest = verified_manifest(folder)
        return cls(folder, manifest, decisions or load_policy().decisions)

    @property
    def features(self) -> tuple[str, ...]:
        return self.version_info.features

    def score(self, matrix: Matrix) -> Scores:
        """Calibrated, blended probability of fraud of each row of float32 [n, f]."""
        if matrix.ndim != 2 or matrix.shape[1] != len(self.features):
            raise SluiceError(
                f"bundle {self.folder}: a matrix of shape {matrix.shape}, needed [n, {len(self.features)}]"
            )
        matrix = np.ascontiguousarray(matrix, dtype=np.float32)
        if len(matrix) == 0:
            return np.empty(0, dtype=np.float64)
        band = self.decisions
        scores = self._first.calibrated(matrix)
        near = (scores >= band.blend_from) & (scores <= band.blend_to)
        if near.any():
            second = self._second.calibrated(matrix[near])
            scores[near] = band.blend_first * scores[near] + band.blend_second * second
        return scores

    def score_one(self, values: list[float]) -> float:
        """The same for one row: one request's features in the order of `features`."""
        row = np.asarray([values], dtype=np.float32)
        if row.shape[1] != len(self.features):
            raise SluiceError(f"bundle {self.folder}: {row.shape[1]} features, needed {len(self.features)}")
        band = self.decisions
        score = self._first.calibrated_one(row)
        if band.blend_from <= score <= band.blend_to:
            score = band.blend_first * score + band.blend_second * self._second.calibrated_one(row)
        return score

    def try_out(self) -> float:
        """Query both graphs once, with a row of zeros and a row of gaps, before the bundle is accepted.

        Raises:
            SluiceError: a graph raises.
        """
        rows = np.zeros((2, len(self.features)), dtype=np.float32)
        rows[1] = np.nan
        try:
            self._second.calibrated(rows)
            return float(self.score(rows).max())
        except SluiceError:
            raise
        except Exception as error:  # the runtime's errors share no kind
            raise SluiceError(
                f"bundle {self.folder}: a row of zeros or of gaps: {first_line(error)}"
            ) from error


def decide(score: float, decisions: Decisions) -> Decision:
    """The decision on a calibrated score, by the policy's bands.

    Raises:
        SluiceError: the score is not a probability.
    """
    if not 0.0 <= score <= 1.0:
        raise SluiceError(f"decision: score {score} is not a probability")
    if score > decisions.block_above:
        return "block"
    if score > decisions.challenge_above:
        return "challenge"
    if score > decisions.review_above:
        return "review"
    return "approve"


def decide_all(scores: Scores, decisions: Decisions) -> npt.NDArray[np.str_]:
    """The decisions on many scores at once, each as `decide` makes it.

    Raises:
        SluiceError: a score is not a probability.
    """
    if not bool(((scores >= 0.0) & (scores <= 1.0)).all()):
        raise SluiceError(
            f"decision: {int((~((scores >= 0) & (scores <= 1))).sum())} scores are no probability"
        )
    bands = (
        scores > decisions.block_above,
        scores > decisions.challenge_above,
        scores > decisions.review_above,
    )
    return np.select(bands, ["block", "challenge", "review"], "approve")


def seal_bundle(
    folder: Path,
    *,
    features: tuple[str, ...],
    feature_version: str,
    drill: str = "",
    facts: Mapping[str, Any] | None = None,
) -> Manifest:
    """Write the manifest of the files that lie in the folder: the last step of making a bundle."""
    missing = [name for name in REQUIRED if not (folder / name).exists()]
    if missing:
        raise SluiceError(f"bundle {folder}: {missing[0]} is missing, so it cannot be sealed")
    files = {
        path.name: file_digest(path)
        for path in sorted(folder.iterdir())
        if path.is_file() and path.name != MANIFEST and not path.name.startswith(".")
    }
    manifest = Manifest(
        features=features,
        feature_version=feature_version,
        drill=drill,
        facts=dict(facts or {}),
        files=files,
    )
    write_whole(folder / MANIFEST, manifest.model_dump_json(indent=1))
    return manifest


def verified_manifest(folder: Path) -> Manifest:
    """The manifest of a bundle whose files all have the digests that it names."""
    manifest = _read_model(folder / MANIFEST, Manifest)
    for name, digest in manifest.files.items():
        path = folder / name
        if not path.exists():
            raise SluiceError(f"bundle {folder}: {name} is missing; fetch the bundle again")
        if file_digest(path) != digest:
            raise SluiceError(
                f"bundle {folder}: {name} is not the file that the manifest names; fetch the bundle again"
            )
    return manifest


def file_digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _read_model(path: Path, kind: type[Model]) -> Model:
    try:
        return kind.model_validate(json.loads(path.read_text()))
    except FileNotFoundError:
        raise SluiceError(f"bundle {path.parent}: {path.name} is missing") from None
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(str(part) for part in problem["loc"])
        raise SluiceError(f"bundle {path}: {place}: {problem['msg']}") from None
    except ValueError as error:
        raise SluiceError(f"bundle {path}: not JSON: {error}") from None
