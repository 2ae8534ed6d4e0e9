"""The lineage of a version: all that is needed to build it again, kept with its MLflow run.

In: the files of a training run; later, the version in the registry. Out: evidence/lineage.json.
Errors: SluiceError where a version has no lineage, or one that was noted before models could be built again,
and where the policy has changed since the run's frame was built.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from pydantic import ValidationError

from jobs.commit import CHANGES
from jobs.conf.settings import Settings
from jobs.core import SluiceError, StrictModel
from jobs.promotion.state import VersionState, read_version, registry_errors
from jobs.training.origin import ORIGIN_FILE, Origin, origin_of
from jobs.training.run_folder import RunFolder

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from jobs.training.frame import FrameFacts

LINEAGE_FILE: Final = "lineage.json"
EVIDENCE: Final = "evidence"  # folder of the run's artifacts
TOLERANCE = 1e-6  # of a score, or any figure, between 0 and 1
ONLY_SHOWN = ("curve", "importance", "onnx_difference")  # of a training's facts: no input of it
Model = TypeVar("Model", bound=StrictModel)


class Lineage(StrictModel):
    """Everything needed to build a version again."""

    run: str
    day: date
    drill: str
    split: dict[str, date]
    table_versions: dict[str, int]
    label_snapshot: dict[str, Any]
    features: tuple[str, ...]
    feature_version: str
    contract: str
    policy_overlay: str
    policy: dict[str, dict[str, Any]]
    winner: dict[str, Any]
    xgboost: dict[str, Any]  # seed, rounds and what came out
    torch: dict[str, Any]  # seed, epochs, hyperparameters and what came out
    code_commit: str
    environment: dict[str, str]


def training_facts(folder: RunFolder, model: str) -> dict[str, Any]:
    """What a training noted about itself, without what is only shown."""
    facts = folder.read_facts(f"{model}/facts.json")
    return {key: value for key, value in facts.items() if key not in ONLY_SHOWN}


def lineage_of(folder: RunFolder, facts: FrameFacts, drill: str, settings: Settings) -> Lineage:
    """The lineage of a run that is about to be registered.

    Raises:
        SluiceError: the policy that decides a model is not the one that the run's frame was built under.
    """
    origin, now = folder.read_model(ORIGIN_FILE, Origin), origin_of(settings)
    changed = changes("policy", origin.policy, now.policy)
    if changed:
        raise SluiceError(
            f"training run {facts.run}: the policy has changed since its frame was built: {changed[0]}; "
            "train again"
        )
    commit = origin.code_commit
    if commit != now.code_commit and not commit.endswith(CHANGES):
        commit += CHANGES  # no one commit made this model
    return Lineage(
        run=facts.run,
        day=facts.day,
        drill=drill,
        split=facts.split.model_dump(),
        table_versions=facts.table_versions,
        label_snapshot=folder.read_facts("labels.json"),
        features=facts.features,
        feature_version=facts.feature_version,
        winner=folder.read_facts("tuning.json"),
        xgboost=training_facts(folder, "xgboost"),
        torch=training_facts(folder, "torch"),
        **(origin.model_dump() | {"code_commit": commit}),
    )


def recorded(client: MlflowClient, state: VersionState, file: str, kind: type[Model]) -> Model:
    """A file of evidence that a version's run keeps.

    Raises:
        SluiceError: it is missing, or says less than this code needs.
    """
    where = f"model version {state.version}"
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    with registry_errors(), tempfile.TemporaryDirectory() as place:
        name = f"{EVIDENCE}/{file}"
        there = client.list_artifacts(state.run_id, EVIDENCE) if state.run_id else []
        if name not in [item.path for item in there]:
            raise SluiceError(
                f"{where}: its lineage is missing: MLflow run {state.run_id or '(none)'} keeps no {name}; "
                "only versions that register_model has made have one"
            )
        text = Path(client.download_artifacts(state.run_id, name, place)).read_text()
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        problem = error.errors()[0]
        named = ".".join(str(part) for part in problem["loc"])
        raise SluiceError(
            f"{where}: its {file} is not readable as a lineage: {named}: {problem['msg']}; it was written by "
            "another release, or by hand"
        ) from None


def read_lineage(client: MlflowClient, state: VersionState) -> Lineage:
    """The lineage of a version.

    Raises:
        SluiceError: as `recorded`.
    """
    return recorded(client, state, LINEAGE_FILE, Lineage)


def required_version(client: MlflowClient, settings: Settings, version: str) -> VersionState:
    """A version of the model.

    Raises:
        SluiceError: there is none of that number.
    """
    state = read_version(client, settings.model_name, version)
    if state is None:
        raise SluiceError(
            f"model version {version}: {settings.model_name} has no such version; see `sluice model list`"
        )
    return state


def changes(name: str, then: Any, now: Any) -> list[str]:
    """What differs, down to the single value; floats that agree to TOLERANCE do not differ."""
    if isinstance(then, Mapping) and isinstance(now, Mapping):
        keys = dict.fromkeys([*then, *now])
        parts = [changes(f"{name} {key}".strip(), then.get(key), now.get(key)) for key in keys]
        return [each for part in parts for each in part]
    if isinstance(then, tuple) and isinstance(now, tuple):
        gone, new = [each for each in then if each not in now], [each for each in now if each not in then]
        if gone or new:
            return [f"{name}: gone {', '.join(gone) or 'none'}, new {', '.join(new) or 'none'}"]
    close = isinstance(then, float) and isinstance(now, float) and abs(then - now) <= TOLERANCE
    return [] if then == now or close else [f"{name}: was {then}, is {now}".strip(": ")]
