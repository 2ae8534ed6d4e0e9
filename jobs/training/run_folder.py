"""The folder of one training run: its files, written atomically, and the parameters that all its jobs share.

work/training/<run>/
    labels.parquet, labels.json     matured labels as of the end of the day
    origin.json                     code, packages and policy when the frame was built
    frame.parquet, frame.json       one row per matured transaction: features, labels, role in the split
    study.journal, tuning.json      Optuna's journal, the winner
    xgboost/, torch/                model.onnx, validation.parquet (raw scores), facts.json; model.ubj
    bundle/                         the model as it is evaluated
    evaluation.json, pictures/, reference.parquet
    gate.json                       the gate's verdict with its evidence
    served/bundle/                  the model as it is registered
Errors: SluiceError where an earlier job of the run has not left its file.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeVar

import pandas as pd
from pydantic import Field, ValidationError, field_validator

from jobs.conf.settings import Settings
from jobs.core import DayParams, SluiceError, StrictModel
from jobs.files import replacing
from jobs.locks import file_lock

Drill = Literal["none", "shuffled_labels", "slow", "shifted_scores"]
DRILL_NOTE = (
    "fire drill: none, or what is broken on purpose to see it caught: shuffled_labels (the gate must "
    "block it), slow or shifted_scores (good on paper, must be rolled back in its canary)"
)

# file of a run -> the job that writes it
WRITERS = {
    "labels": "snapshot_labels",
    "frame": "build_frame",
    "origin": "build_frame",
    "study": "tune_model",
    "tuning": "tune_model",
    "xgboost": "train_xgboost",
    "torch": "train_torch",
    "bundle": "calibrate_model",
    "evaluation": "evaluate_model",
    "reference": "evaluate_model",
    "pictures": "evaluate_model",
    "gate": "gate_model",
}
Model = TypeVar("Model", bound=StrictModel)


class TrainingParams(DayParams):
    """Parameters of every job of a training run."""

    run: str = Field(
        pattern=r"^[A-Za-z0-9_.:+-]{1,120}$", description="name of the run; its files lie in a folder of it"
    )

    @field_validator("run")
    @classmethod
    def _names_a_folder(cls, value: str) -> str:
        if not value.strip("."):
            raise ValueError("a run's name needs more than dots")
        return value


class RunFolder:
    """The files of one run."""

    def __init__(self, settings: Settings, run: str) -> None:
        self.run = run
        self.path = settings.work / "training" / run

    def file(self, name: str) -> Path:
        """The path of a file that is about to be written."""
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def existing(self, name: str) -> Path:
        """The path of a file that an earlier job has written.

        Raises:
            SluiceError: it is not there, with the job that writes it.
        """
        path = self.path / name
        if not path.exists():
            writer = WRITERS.get(name.split("/", maxsplit=1)[0].split(".", maxsplit=1)[0], "its job")
            raise SluiceError(f"training run {self.run}: {path} is missing; run {writer} first")
        return path

    def write_frame(self, name: str, frame: pd.DataFrame) -> Path:
        path = self.file(name)
        with replacing(path) as temporary:
            frame.to_parquet(temporary, index=False)
        return path

    def read_frame(self, name: str, columns: list[str] | None = None) -> pd.DataFrame:
        return pd.read_parquet(self.existing(name), columns=columns)

    def write_facts(self, name: str, facts: dict[str, Any] | StrictModel) -> Path:
        content = facts.model_dump(mode="json") if isinstance(facts, StrictModel) else facts
        path = self.file(name)
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(content, indent=1, allow_nan=False))
        return path

    def read_facts(self, name: str) -> dict[str, Any]:
        facts: dict[str, Any] = json.loads(self.existing(name).read_text())
        return facts

    def read_model(self, name: str, kind: type[Model]) -> Model:
        """A file of facts as its model.

        Raises:
            SluiceError: the file is missing or is not what the model describes.
        """
        try:
            return kind.model_validate_json(self.existing(name).read_text())
        except ValidationError as error:
            problem = error.errors()[0]
            place = ".".join(str(part) for part in problem["loc"])
            raise SluiceError(f"{self.path / name}: {place}: {problem['msg']}") from None

    @contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Hold a lock of this run; the kernel drops it when its holder dies."""
        with file_lock(self.file(f".{name}.lock")):
            yield
