"""Job register_model: the version in the registry, whatever the gate said, with everything that made it.

In: bundle, evaluation, gate of the run. Out: a version of the registered model with its tags, in an MLflow
    run that holds parameters, metrics, pictures, reference rows, lineage and environment.
A blocked version is registered too, with its verdict: people see why, and the promotion refuses it. This job
moves no alias. In the drills "slow" and "shifted_scores" the registered bundle is a broken copy of the
evaluated one; the version's tag sluice.drill says so.
Concurrent runs are serialised by a lock; a second call for a run gives the version that the first one made.
Errors: SluiceError where MLflow does not answer or an earlier job has not left its file.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.types.schema import ColSpec, Schema
from pydantic import Field

from jobs.conf.contract import contract_of
from jobs.conf.policy import policy_of
from jobs.conf.settings import Settings
from jobs.core import Outcome, Receipt, SluiceError, Stopwatch
from jobs.locks import file_lock
from jobs.promotion import state as registry
from jobs.serving.bundle import file_digest
from jobs.training.bundle_writer import bundle_digest, copy_with_drill
from jobs.training.evidence import Evidence
from jobs.training.frame import FrameFacts
from jobs.training.gate import GateResult
from jobs.training.lineage import EVIDENCE, LINEAGE_FILE, Lineage, lineage_of
from jobs.training.model_card import CARD_FILE, description_of, model_card
from jobs.training.origin import REQUIREMENTS
from jobs.training.pictures import PICTURES
from jobs.training.report import REPORT_FILE, report_page
from jobs.training.run_folder import DRILL_NOTE, Drill, RunFolder, TrainingParams
from jobs.training.tracking import as_metrics, as_params, as_tags, parent_run, tracking_client
from jobs.training.tune import Winner

READS = ("bundle", "evaluation", "gate", "xgboost_model", "torch_model", "label_snapshot")
WRITES = ("registry",)

TAG_LENGTH = 4_900  # MLflow takes up to 5,000 characters

# stored as it is and run by MLflow; importing it here would declare a model
SERVED_MODEL = Path(__file__).with_name("served_model.py")

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")


class Params(TrainingParams):
    """Which run, why it was started, and by whom."""

    reason: str = Field("", max_length=500, description="why the model was trained: the trigger in words")
    drill: Drill = Field("none", description=DRILL_NOTE)
    author: str = Field("sluice", max_length=120, description="who started the training; may not approve it")


def metrics_of(evidence: Evidence) -> dict[str, float | None]:
    """The figures as MLflow metrics."""
    result: dict[str, float | None] = {
        "test_rows": float(evidence.rows),
        "test_positives": float(evidence.positives),
        "latency_p50_ms": evidence.latency_p50_ms,
        "latency_p99_ms": evidence.latency_p99_ms,
        "pr_auc_difference": evidence.difference.value,
        "pr_auc_difference_low": evidence.difference.low,
        "pr_auc_difference_high": evidence.difference.high,
        **_saved(evidence),
    }
    models = [("", evidence.challenger), *((f"{each.name}_", each) for each in evidence.baselines)]
    if evidence.champion:
        models.append(("champion_", evidence.champion))
    for prefix, figures in models:
        values = figures.model_dump(exclude={"name"})
        result |= {f"{prefix}{key}": value for key, value in values.items()}
    result |= {f"slice_{each.name}_pr_auc": each.pr_auc for each in evidence.slices}
    for group in evidence.groups:
        for band in group.bands:
            name = f"group_{group.name}_{band.name}"
            result[f"{name}_true_positive_rate"] = band.true_positive_rate
            result[f"{name}_false_positive_rate"] = band.false_positive_rate
    return result | {f"operating_{key}": value for key, value in evidence.operating_point.items()}


def _saved(evidence: Evidence) -> dict[str, float | None]:
    found = evidence.saved
    if found is None:
        return {}
    return {
        "saved_a_day_minor": found.challenger_minor,
        "champion_saved_a_day_minor": found.champion_minor,
        "saved_a_day_difference_minor": found.difference.value,
        "saved_a_day_difference_minor_low": found.difference.low,
        "saved_a_day_difference_minor_high": found.difference.high,
    }


def detail_metrics_of(evidence: Evidence) -> dict[str, float | None]:
    """Further figures as MLflow metrics; the version's tag has no room for them."""
    result: dict[str, float | None] = {}
    for each in evidence.slices:
        result |= {
            f"slice_{each.name}_pr_auc_{end}": getattr(each, f"pr_auc_{end}") for end in ("low", "high")
        }
    for number, week in enumerate(evidence.weeks, start=1):
        result[f"week_{number}_pr_auc"] = week.pr_auc
    for whose, bands in (("", evidence.decisions), ("champion_", evidence.champion_decisions)):
        for band in bands:
            counted = {kind: getattr(band, kind) for kind in ("frauds", "good")}
            result |= {f"{whose}decision_{band.decision}_{kind}": rows for kind, rows in counted.items()}
    for test in evidence.behaviour:
        result[f"behaviour_{test.name}_share_wrong"] = test.share_wrong
    for check in evidence.leak_checks:
        result[f"leak_check_{check.name}"] = check.value
    return result


def version_tags(
    params: Params, drill: str, evidence: Evidence, gate: GateResult, facts: FrameFacts
) -> dict[str, str]:
    """What the registry shows about the version."""
    checks = [check.model_dump(exclude_none=True) for check in gate.checks]
    short = {key: value for key, value in metrics_of(evidence).items() if value is not None}
    return {
        registry.TAG_GATE: gate.classification,
        registry.TAG_GATE_REASON: "; ".join(gate.reasons)[:TAG_LENGTH],
        registry.TAG_GATE_EVIDENCE: _fitting({"checks": checks}),
        registry.TAG_RUN: params.run,
        registry.TAG_DAY: str(params.day),
        registry.TAG_REASON: params.reason,
        registry.TAG_DRILL: drill,
        registry.TAG_METRICS: _fitting({key: round(value, 6) for key, value in short.items()}),
        registry.TAG_AUTHOR: params.author,
        registry.TAG_FEATURE_VERSION: facts.feature_version,
        registry.TAG_JUDGED_AGAINST: evidence.champion_version,
        registry.TAG_BUNDLE_DIGEST: evidence.bundle_digest,
    }


def _fitting(content: dict[str, Any]) -> str:
    """JSON within a tag's length; the whole of it is among the run's artifacts in any case.

    Where it is too long, checks lose their sentences, and then those that passed are left out.
    """
    text = json.dumps(content)
    if len(text) <= TAG_LENGTH:
        return text
    if "checks" not in content:
        items = list(content.items())
        while len(json.dumps(dict(items))) > TAG_LENGTH:
            items.pop()
        return json.dumps(dict(items))
    names = ("name", "outcome", "value", "threshold")
    checks = [{key: each[key] for key in names if key in each} for each in content["checks"]]
    checks.sort(key=lambda each: each["outcome"] == Outcome.PASS)
    while len(json.dumps({"checks": checks})) > TAG_LENGTH:
        checks.pop()
    return json.dumps({"checks": checks})


def existing_version(client: MlflowClient, name: str, run: str) -> str | None:
    """The version that this run has registered before."""
    mine = [each for each in registry.read_versions(client, name) if each.tag(registry.TAG_RUN) == run]
    return mine[0].version if mine else None


def texts_of(
    params: Params,
    lineage: Lineage,
    evidence: Evidence,
    gate: GateResult,
    facts: FrameFacts,
    folder: RunFolder,
    settings: Settings,
) -> dict[str, str]:
    """What people read about the version: report and model card, by the file's name."""
    contract, model = contract_of(settings), settings.model_name
    return {
        REPORT_FILE: report_page(
            evidence, gate, folder, model=model, drill=lineage.drill, currency=contract.currency
        ),
        CARD_FILE: model_card(
            evidence,
            gate,
            facts,
            contract,
            policy_of(settings),
            model=model,
            drill=lineage.drill,
            author=params.author,
            commit=lineage.code_commit,
        ),
    }


def log_evidence(
    client: MlflowClient, run_id: str, folder: RunFolder, evidence: Evidence, texts: Mapping[str, str]
) -> None:
    """Report, model card, pictures, reference rows and the files of the run, as artifacts."""
    for name, text in texts.items():
        client.log_text(run_id, text, name)
    for name in PICTURES:
        client.log_artifact(run_id, str(folder.existing(f"pictures/{name}.png")), "pictures")
    client.log_artifact(run_id, str(folder.existing("reference.parquet")), "reference")
    for name in ("evaluation.json", "gate.json", "frame.json", LINEAGE_FILE):
        client.log_artifact(run_id, str(folder.existing(name)), EVIDENCE)
    figures = metrics_of(evidence) | detail_metrics_of(evidence)
    client.log_batch(run_id, metrics=as_metrics(figures))


def log_bundle(
    run_id: str, bundle: Path, features: tuple[str, ...], example: pd.DataFrame
) -> tuple[str, str]:
    """The bundle as a pyfunc model of the run; gives its address and id."""
    signature = ModelSignature(
        inputs=Schema([ColSpec("double", name) for name in features]),
        outputs=Schema([ColSpec("double")]),
    )
    logging.getLogger("mlflow").setLevel(logging.ERROR)
    with mlflow.start_run(run_id=run_id):
        logged = mlflow.pyfunc.log_model(
            name="model",
            python_model=str(SERVED_MODEL),
            artifacts={"bundle": str(bundle)},
            signature=signature,
            input_example=example,
            pip_requirements=[f"{name}=={installed_version(name)}" for name in REQUIREMENTS],
        )
    return str(logged.model_uri), str(logged.model_id)


def create_version(
    client: MlflowClient,
    name: str,
    source: str,
    run_id: str,
    model_id: str,
    tags: dict[str, str],
    description: str,
) -> str:
    """A version with its description and all its tags, in one request."""
    with registry.registry_errors():
        try:
            client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        made = client.create_model_version(
            name, source, run_id=run_id, tags=tags, description=description, model_id=model_id
        )
    return str(made.version)


def run(params: Params, settings: Settings) -> Receipt:
    watch = Stopwatch()
    folder = RunFolder(settings, params.run)
    facts = folder.read_model("frame.json", FrameFacts)
    evidence = folder.read_model("evaluation.json", Evidence)
    gate = folder.read_model("gate.json", GateResult)
    if gate.evidence_digest != file_digest(folder.existing("evaluation.json")):
        raise SluiceError(
            f"training run {params.run}: gate.json judged another evaluation.json; run gate_model again"
        )
    winner = folder.read_model("tuning.json", Winner)
    drill = params.drill if facts.drill == "none" else facts.drill
    client = tracking_client(settings)
    mlflow.set_tracking_uri(settings.mlflow_uri)
    mlflow.set_registry_uri(settings.mlflow_uri)
    with file_lock(settings.work / "training" / ".register.lock"):
        version = existing_version(client, settings.model_name, params.run)
        if version is None:
            served = folder.path / "served" / "bundle"
            copy_with_drill(folder.existing("bundle"), served, drill)
            run_id = parent_run(client, settings, folder, str(params.day), drill)
            lineage = lineage_of(folder, facts, drill, settings)
            folder.write_facts(LINEAGE_FILE, lineage)
            tags = version_tags(params, drill, evidence, gate, facts)
            texts = texts_of(params, lineage, evidence, gate, facts, folder, settings)
            with registry.registry_errors():
                own = winner.parameters | {
                    "rounds": winner.rounds,
                    "trials": winner.finished,
                    "warm_start": winner.warm_start or "none",
                    "feature_version": facts.feature_version,
                    "drill": drill,
                    "code_commit": lineage.code_commit,
                }
                # MLflow refuses to change a parameter: a repeated registration leaves those that are there
                there = client.get_run(run_id).data.params
                new = {key: value for key, value in own.items() if key not in there}
                client.log_batch(run_id, params=as_params(new), tags=as_tags(tags))
                log_evidence(client, run_id, folder, evidence, texts)
                address, model_id = log_bundle(
                    run_id, served, facts.features, _example(folder, facts.features)
                )
            card = description_of(texts[CARD_FILE])
            version = create_version(client, settings.model_name, address, run_id, model_id, tags, card)
        run_id = parent_run(client, settings, folder, str(params.day), drill)
    return Receipt(
        job="register_model",
        table="registry",
        partition=params.run,
        version=int(version),
        rows=1,
        digest=bundle_digest(folder.existing("served/bundle")),
        seconds=watch.seconds,
        facts={"version": version, "gate": gate.classification, "drill": drill, "mlflow_run": run_id},
    )


def _example(folder: RunFolder, features: tuple[str, ...]) -> pd.DataFrame:
    """Two rows for the model's input example, with the fewest gaps: as JSON it has no NaN."""
    rows = folder.read_frame("reference.parquet", list(features)).astype(np.float64)
    return rows.loc[rows.isna().sum(axis=1).nsmallest(2).index].fillna(0.0)
