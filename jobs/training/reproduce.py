"""Building a registered version again from its lineage, and comparing it with what is registered.

In: evidence/lineage.json and evidence/frame.json of the version's MLflow run, the tables at the versions
    named there, the policy's values as they were noted.
Out: how far the scores of the bundle that comes out are from those of the registered one, on the version's
    own test rows.
The frame is made again by rebuild_frame, and the models by the very jobs that a training runs, in a folder
that is gone afterwards, with an MLflow of their own: no alias, file or run of the installation is touched.
Errors: SluiceError where the version or its lineage is missing, where the features are declared otherwise
today, or where a table version was cleaned away; GateClosed where the frame comes out otherwise.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import yaml

from jobs.commit import CHANGES, UNKNOWN, code_commit
from jobs.conf.policy import Decisions, policy_of
from jobs.conf.settings import Settings
from jobs.core import GateClosed, Outcome, SluiceError, StrictModel
from jobs.features.declarations import FEATURE_VERSION, MODEL_FEATURES
from jobs.monitoring.reference import load_reference
from jobs.promotion.state import VersionState
from jobs.serving.bundle import ModelBundle, Scores
from jobs.serving.bundles import fetch_bundle
from jobs.training import calibrate, train_torch, train_xgboost
from jobs.training.bundle_writer import bundle_digest, copy_with_drill
from jobs.training.frame import FrameFacts
from jobs.training.lineage import (
    TOLERANCE,
    Lineage,
    changes,
    read_lineage,
    required_version,
    training_facts,
)
from jobs.training.origin import deciding_policy, environment
from jobs.training.rebuild_frame import facts_of_version, frame_again
from jobs.training.run_folder import RunFolder

if TYPE_CHECKING:
    import pandas as pd
    from mlflow import MlflowClient

SCORES = ("score", "xgboost", "torch")  # as served, and of each model alone


class Reproduction(StrictModel):
    """What came out."""

    version: str
    rows: int
    apart: dict[str, float]  # largest difference of each of SCORES
    same_files: bool  # graphs and calibration are the registered ones to the byte
    otherwise: tuple[str, ...]  # facts of the trainings that came out otherwise

    @property
    def reproduced(self) -> bool:
        return max(self.apart.values()) <= TOLERANCE


class Recorded(StrictModel):
    """A version with what it was made of."""

    state: VersionState
    lineage: Lineage
    facts: FrameFacts


def read_recorded(client: MlflowClient, settings: Settings, version: str) -> Recorded:
    """What the registry keeps about a version.

    Raises:
        SluiceError: no such version, its lineage is missing, or it does not fit the frame that was noted.
    """
    state = required_version(client, settings, version)
    lineage = read_lineage(client, state)
    facts = facts_of_version(client, state)
    noted = facts.model_dump() | {"label digest": facts.label_digest}
    said = lineage.model_dump() | {"label digest": lineage.label_snapshot.get("digest")}
    for key in ("run", "day", "split", "features", "feature_version", "table_versions", "label digest"):
        if noted[key] != said[key]:
            told = "; ".join(changes("", said[key], noted[key]))
            raise SluiceError(
                f"model version {version}: its lineage and its frame.json do not tell the same {key} "
                f"({told}): one of them was changed after the training, so that neither can be relied on"
            )
    return Recorded(state=state, lineage=lineage, facts=facts)


def require_features(was: Lineage) -> None:
    """The features must be declared as they were then.

    Raises:
        SluiceError: they are not, with their names where these differ.
    """
    if (was.feature_version, was.features) == (FEATURE_VERSION, MODEL_FEATURES):
        return
    named = changes("features", was.features, MODEL_FEATURES)
    raise SluiceError(
        f"run {was.run}: its features are of version {was.feature_version}, today's are of {FEATURE_VERSION}"
        f"{': ' if named else ''}{'; '.join(named)}; build it again with the code of commit {was.code_commit}"
    )


def conditions(was: Lineage, settings: Settings) -> list[str]:
    """What is otherwise today than when the version was trained; what was noted is used all the same."""
    found = changes("code commit", was.code_commit, code_commit())
    if was.code_commit.endswith(CHANGES) or was.code_commit == UNKNOWN:
        found.append("code commit: the code that trained it is in no commit, it cannot be compared")
    found += changes("environment", was.environment, environment())
    found += changes("contract", was.contract, settings.contract)
    return found + changes("policy", was.policy, deciding_policy(policy_of(settings)))


def reproduce(settings: Settings, found: Recorded) -> Reproduction:
    """Make frame, models and bundle again and compare the scores.

    Raises:
        SluiceError: as this module's docstring says.
    """
    require_features(found.lineage)
    runs = settings.work / "training"  # what a kill leaves there goes with the retention of work/
    runs.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=runs, prefix=".reproduce.") as place:
        reference, registered = _registered(settings, found.state, Path(place) / "registered")
        as_then = settings.model_copy(update={"policy_overlay": _policy_file(Path(place), found.lineage)})
        frame, verdict = frame_again(found.facts, as_then)
        if verdict.outcome is not Outcome.PASS:
            raise GateClosed(verdict, f"model version {found.state.version}: its frame comes out otherwise")
        apart_from_all = {
            "home": Path(place) / "again",
            "lake_uri": settings.lake,
            "mlflow_uri": f"sqlite:///{place}/mlflow.db",
        }
        folder, bundle = build(found, frame, as_then.model_copy(update=apart_from_all))
        decisions = Decisions.model_validate(found.lineage.policy["decisions"])
        rows = reference[list(found.lineage.features)].to_numpy(dtype=np.float32)
        again, before = _scores(bundle, rows, decisions), _scores(registered, rows, decisions)
        return Reproduction(
            version=found.state.version,
            rows=len(rows),
            apart={name: float(np.abs(again[name] - before[name]).max()) for name in SCORES},
            same_files=bundle_digest(bundle) == bundle_digest(registered),
            otherwise=(
                *changes("xgboost", found.lineage.xgboost, training_facts(folder, "xgboost")),
                *changes("torch", found.lineage.torch, training_facts(folder, "torch")),
            ),
        )


def _policy_file(place: Path, was: Lineage) -> str:
    file = place / "policy.yaml"
    needed = {name: values for name, values in was.policy.items() if name != "tuning"}  # its winner is known
    file.write_text(yaml.safe_dump(needed))
    return str(file)


def build(found: Recorded, frame: pd.DataFrame, settings: Settings) -> tuple[RunFolder, Path]:
    """Train and calibrate by the jobs of a training; gives the run's folder and the bundle as registered."""
    was = found.lineage
    folder = RunFolder(settings, was.run)
    folder.write_facts("frame.json", found.facts)
    folder.write_facts("tuning.json", was.winner)
    folder.write_frame("frame.parquet", frame)
    for job in (train_xgboost, train_torch, calibrate):
        job.run(job.Params(day=was.day, run=was.run), settings)
    served = folder.path / "served" / "bundle"
    copy_with_drill(folder.existing("bundle"), served, was.drill)
    return folder, served


def _registered(settings: Settings, state: VersionState, home: Path) -> tuple[pd.DataFrame, Path]:
    """The version's own test rows and its bundle, fetched beside what serving keeps."""
    beside = settings.model_copy(update={"home": home})
    reference = load_reference(beside, state.run_id)
    if reference is None or reference.empty:
        raise SluiceError(
            f"model version {state.version}: MLflow run {state.run_id} keeps no reference rows to compare"
        )
    return reference, fetch_bundle(beside, state.version)


def _scores(bundle: Path, rows: np.ndarray, decisions: Decisions) -> dict[str, Scores]:
    """A bundle's scores as it is served, and of each of its models for all rows."""
    all_rows = {"blend_from": 0.0, "blend_to": 1.0}
    blends = {
        "score": decisions,
        "xgboost": decisions.model_copy(update={**all_rows, "blend_first": 1.0, "blend_second": 0.0}),
        "torch": decisions.model_copy(update={**all_rows, "blend_first": 0.0, "blend_second": 1.0}),
    }
    return {name: ModelBundle.load(bundle, blend).score(rows) for name, blend in blends.items()}
