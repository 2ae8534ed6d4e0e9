"""Job rebuild_frame: the training frame of an earlier run once more, from the table versions it was made of.

In: frame.json of the run (its folder, or the evidence of the version that it registered in MLflow), and
    every table at the versions named there.
Out: work/rebuilt/RUN/frame.parquet, the same frame bit for bit, whatever was corrected, delivered late or
    built again since. The label snapshot is made again too.
Errors: GateClosed where the label snapshot, the rows or a column differ, or where the features, their time
    to live, the hours until they are due or the draw of good rows are declared otherwise today; SluiceError
    where nothing is known of the run, or a table version is gone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from jobs.conf.contract import contract_of
from jobs.conf.policy import policy_of
from jobs.conf.settings import Settings
from jobs.core import Check, GateClosed, Outcome, Receipt, SluiceError, Stopwatch, Verdict
from jobs.features.declarations import FEATURE_VERSION
from jobs.files import replacing
from jobs.lake.at import LakeAt
from jobs.lake.store import lake_of
from jobs.promotion import state as registry
from jobs.training import frame as frame_job
from jobs.training.digests import column_digests, frame_digest
from jobs.training.frame import FrameFacts, make_frame
from jobs.training.labels import label_digest, label_snapshot
from jobs.training.lineage import recorded
from jobs.training.run_folder import RunFolder, TrainingParams

if TYPE_CHECKING:
    from mlflow import MlflowClient

READS = (
    "training_frame",
    "transactions",
    "labels",
    "customer_features",
    "terminal_features",
    "transaction_velocity",
)
WRITES = ("rebuilt_frame",)
FACTS = "frame.json"


class Params(TrainingParams):
    """Which run, and its day."""


def recorded_facts(settings: Settings, run: str) -> FrameFacts:
    """What was noted about the run's frame: in its folder, else with the version that it registered.

    Raises:
        SluiceError: neither is there, or it was noted before frames could be built again.
    """
    folder = RunFolder(settings, run)
    if (folder.path / FACTS).exists():
        return folder.read_model(FACTS, FrameFacts)
    client = registry.registry_client(settings)
    versions = registry.read_versions(client, settings.model_name)
    mine = [each for each in versions if each.tag(registry.TAG_RUN) == run]
    if not mine:
        raise SluiceError(
            f"training run {run}: {folder.path / FACTS} is missing, and no version of "
            f"{settings.model_name} was trained by it; which run is meant?"
        )
    return facts_of_version(client, mine[0])


def facts_of_version(client: MlflowClient, state: registry.VersionState) -> FrameFacts:
    """What a registered version keeps about its frame.

    Raises:
        SluiceError: it keeps nothing, or what another release wrote.
    """
    return recorded(client, state, FACTS, FrameFacts)


def differences(was: FrameFacts, digests: dict[str, str], rows: int, labels: str) -> Verdict:
    """Pass where the frame made again is the recorded one; else what differs."""
    checks = [
        _same("label snapshot", was.label_digest, labels),
        _same("rows", sum(was.rows.values()), rows),
        _same("digest", was.digest, frame_digest(digests)),
    ]
    for name in dict.fromkeys([*was.column_digests, *digests]):
        checks.append(_same(f"column {name}", was.column_digests.get(name), digests.get(name)))
    return Verdict.of(checks)


def same_definitions(was: FrameFacts, settings: Settings) -> Verdict:
    """Pass where the features are declared today as they were then."""
    policy = policy_of(settings)
    ttl, due = policy.features.batch_ttl_hours, contract_of(settings).published_after_hours
    training = policy.training
    return Verdict.of(
        [
            _same("feature version", was.feature_version, FEATURE_VERSION),
            _same("policy features.batch_ttl_hours", was.ttl_hours, ttl),
            _same("contract due_hours", was.published_after_hours, due),
            _same("policy training.known_card_days", was.known_card_days, training.known_card_days),
            _same(
                "policy training.good_rows_per_fraud", was.good_rows_per_fraud, training.good_rows_per_fraud
            ),
        ]
    )


def _same(name: str, then: object, now: object) -> Check:
    if then == now:
        return Check(name=name, outcome=Outcome.PASS)
    return Check(name=name, outcome=Outcome.FAIL, detail=f"{name}: was {then}, is {now}")


def frame_again(was: FrameFacts, settings: Settings) -> tuple[pd.DataFrame, Verdict]:
    """The frame of these facts, made again, and whether it is the same bit for bit.

    Raises:
        GateClosed: the features are declared otherwise today; nothing was read then.
        SluiceError: a table version is gone.
    """
    _require(same_definitions(was, settings), was.run)
    lake = LakeAt(lake_of(settings), was.table_versions)
    labels = label_snapshot(lake, was.split.fit_first, was.split.test_last, was.day)
    named = frame_job.Params.model_validate({"day": was.day, "run": was.run, "drill": was.drill})
    frame = make_frame(lake, labels.drop(columns="day"), was.split, named, was.seed, settings)
    return frame, differences(was, column_digests(frame), len(frame), label_digest(labels))


def run(params: Params, settings: Settings) -> Receipt:
    watch = Stopwatch()
    was = recorded_facts(settings, params.run)
    if was.day != params.day:
        raise SluiceError(f"training run {params.run}: its day is {was.day}, not {params.day}")
    frame, verdict = frame_again(was, settings)
    path = settings.work / "rebuilt" / params.run / "frame.parquet"
    with replacing(path) as temporary:
        frame.to_parquet(temporary, index=False)
    _require(verdict, params.run)
    return Receipt(
        job="rebuild_frame",
        table="rebuilt_frame",
        partition=params.run,
        rows=len(frame),
        digest=was.digest,
        seconds=watch.seconds,
        facts={"identical": True, "frame": str(path), "table_versions": was.table_versions},
    )


def _require(verdict: Verdict, run: str) -> None:
    if verdict.outcome is not Outcome.PASS:
        raise GateClosed(verdict, f"rebuild_frame, run {run}")
