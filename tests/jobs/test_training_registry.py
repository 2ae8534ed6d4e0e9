"""From a frame to a registered version, on a real MLflow registry that is a SQLite file."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient

from jobs.conf.settings import Settings, load_settings
from jobs.core import Receipt, SluiceError
from jobs.features.declarations import MODEL_FEATURES
from jobs.promotion import state
from jobs.serving.bundle import ModelBundle
from jobs.serving.bundles import fetch_bundle
from jobs.training import calibrate, evaluate, gate, register, train_torch, train_xgboost, tune
from jobs.training.bundle_writer import bundle_digest
from jobs.training.evidence import Evidence
from jobs.training.frame import FrameFacts
from jobs.training.lineage import lineage_of
from jobs.training.model_card import description_of
from jobs.training.pictures import PICTURES
from jobs.training.run_folder import RunFolder
from tests.training_support import DAY, made_rows, made_run, sqlite_settings

ROWS = made_rows(300)


def train(settings: Settings, run: str, drill: str = "none", rows: pd.DataFrame = ROWS) -> Receipt:
    """The whole chain behind build_frame."""
    made_run(settings, run, rows, drill if drill == "shuffled_labels" else "none")
    common: dict[str, Any] = {"day": DAY, "run": run}
    for worker in range(2):
        tune.run(tune.Params(**common, worker=worker), settings)
    for job in (train_xgboost, train_torch, calibrate, evaluate, gate):
        job.run(job.Params(**common), settings)
    return register.run(register.Params(**common, reason="a test", drill=drill), settings)


def judged_like_the_first(settings: Settings, run: str) -> RunFolder:
    """A run that is over but for its registration, with the files of the first one."""
    folder, source = made_run(settings, run, ROWS), RunFolder(settings, "first")
    own = shutil.ignore_patterns("frame.json", "mlflow.json", "lineage.json", "served")
    shutil.copytree(source.path, folder.path, dirs_exist_ok=True, ignore=own)
    return folder


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """An installation where version 1 is trained and made champion."""
    folder = tmp_path_factory.mktemp("registry")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)  # a SQLite registry keeps its artifacts beside the working directory
        made = sqlite_settings(folder)
        assert train(made, "first").facts["version"] == "1"
        yield made


@pytest.fixture(scope="module")
def client(settings: Settings) -> MlflowClient:
    return state.registry_client(settings)


@pytest.fixture(scope="module")
def champion(settings: Settings, client: MlflowClient) -> str:
    client.set_model_version_tag(settings.model_name, "1", state.TAG_PROMOTION, state.COMPLETED)
    client.set_registered_model_alias(settings.model_name, state.CHAMPION, "1")
    return "1"


def tags_of(client: MlflowClient, settings: Settings, version: str) -> dict[str, str]:
    found = state.read_version(client, settings.model_name, version)
    assert found is not None
    return found.tags


def test_a_first_version_is_registered_for_a_person_with_everything_that_made_it(
    settings: Settings, client: MlflowClient
) -> None:
    version = state.read_version(client, settings.model_name, "1")
    assert version is not None
    assert version.tag(state.TAG_GATE) == state.GATE_PERSON
    assert version.tag(state.TAG_REASON) == "a test"
    assert version.tag(state.TAG_DRILL) == "none"
    assert version.tag(state.TAG_JUDGED_AGAINST) == ""
    assert version.tag(state.TAG_BUNDLE_DIGEST) == bundle_digest(fetch_bundle(settings, "1"))
    assert json.loads(version.tag(state.TAG_METRICS))["pr_auc"] > 0.2
    checks = json.loads(version.tag(state.TAG_GATE_EVIDENCE))["checks"]
    assert "beats_logistic_regression" in {check["name"] for check in checks}
    run = client.get_run(version.run_id)
    assert run.data.params["feature_version"] == version.tag(state.TAG_FEATURE_VERSION)
    assert {"pr_auc", "pr_auc_low", "roc_auc", "ece", "brier", "recall_at_fpr", "card_precision"} <= set(
        run.data.metrics
    )
    pictures = {file.path for file in client.list_artifacts(version.run_id, "pictures")}
    assert pictures == {f"pictures/{name}.png" for name in PICTURES}
    assert {"report.html", "model_card.md"} <= {file.path for file in client.list_artifacts(version.run_id)}


def test_the_version_is_described_by_its_card_and_its_report_shows_the_pictures(
    settings: Settings, client: MlflowClient
) -> None:
    found = client.get_model_version(settings.model_name, "1")
    text = {}
    for name in ("report.html", "model_card.md"):
        path = mlflow.artifacts.download_artifacts(
            run_id=found.run_id, artifact_path=name, tracking_uri=settings.mlflow_uri
        )
        text[name] = Path(path).read_text()
    assert found.description == description_of(text["model_card.md"])
    assert f"- {found.tags[state.TAG_GATE_REASON].split(';')[0]}" in text["model_card.md"]
    assert text["report.html"].count("data:image/png;base64,") == len(PICTURES)
    metrics = client.get_run(found.run_id).data.metrics
    assert {"slice_night_pr_auc_low", "week_1_pr_auc", "decision_block_frauds", "leak_check_planted"} <= set(
        metrics
    )


def test_each_trial_is_a_nested_run_with_its_curve_and_why_it_ended(
    settings: Settings, client: MlflowClient
) -> None:
    version = state.read_version(client, settings.model_name, "1")
    assert version is not None
    experiment = client.get_run(version.run_id).info.experiment_id
    trials = client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{version.run_id}'")
    assert len(trials) == 12
    assert all(trial.data.tags["sluice.stopped"] for trial in trials)
    curve = client.get_metric_history(trials[0].info.run_id, "validation_pr_auc")
    assert [point.step for point in curve] == [4 * (unit + 1) for unit in range(len(curve))]


def test_the_lineage_names_data_code_features_seeds_and_environment(settings: Settings) -> None:
    found = RunFolder(settings, "first").read_facts("lineage.json")
    assert found["table_versions"] == {"transactions": 1}
    assert found["label_snapshot"]["digest"]
    assert found["features"] == list(MODEL_FEATURES)
    assert found["policy"]["training"]["seeds"] == [7, 17, 27]
    assert found["policy"]["decisions"]["blend_first"] == 0.6
    by_seed = found["xgboost"]["validation_pr_auc_by_seed"]
    assert list(by_seed) == ["7", "17", "27"], "the winner is fitted once more on each seed"
    assert len(set(by_seed.values())) > 1, "and they are three fits"
    assert by_seed[str(found["xgboost"]["seed"])] == sorted(by_seed.values())[1], (
        "of which the middle one serves"
    )
    assert found["torch"]["seed"] == 7
    assert found["torch"]["epochs"] >= 1
    assert found["torch"]["hyperparameters"]["learning_rate"] > 0
    assert found["environment"]["xgboost-cpu"]
    assert found["code_commit"]


def test_the_registered_bundle_is_fetched_and_scores_as_its_reference_says(
    settings: Settings, client: MlflowClient
) -> None:
    version = state.read_version(client, settings.model_name, "1")
    assert version is not None
    bundle = ModelBundle.load(fetch_bundle(settings, "1"))
    reference = pd.read_parquet(
        mlflow.artifacts.download_artifacts(
            run_id=version.run_id,
            artifact_path="reference/reference.parquet",
            tracking_uri=settings.mlflow_uri,
        )
    )
    assert list(reference.columns) == [*MODEL_FEATURES, "score", "is_fraud", "amount_minor", "event_time"]
    matrix = reference[list(bundle.features)].to_numpy(dtype=np.float32)
    assert np.allclose(bundle.score(matrix), reference["score"], atol=1e-9)


def test_the_pyfunc_answers_probabilities_and_nothing_is_pickled(settings: Settings) -> None:
    mlflow.set_tracking_uri(settings.mlflow_uri)
    model = mlflow.pyfunc.load_model("models:/fraud/1")
    reference = RunFolder(settings, "first").read_frame("reference.parquet").head(50)
    answers = model.predict(reference[list(MODEL_FEATURES)].astype(float))
    assert np.allclose(answers, reference["score"], atol=1e-9)
    assert model.metadata.get_input_schema().input_names() == list(MODEL_FEATURES)
    assert [str(kind) for kind in model.metadata.get_output_schema().input_types()] == ["DataType.double"]
    folder = Path(mlflow.artifacts.download_artifacts("models:/fraud/1"))
    assert (folder / "artifacts" / "bundle" / "manifest.json").exists()
    assert not [path for path in folder.rglob("*") if path.suffix in (".pkl", ".pickle", ".joblib")]
    example = model.input_example
    assert example is not None
    assert 0.0 <= model.predict(example).min() <= model.predict(example).max() <= 1.0
    pinned = (folder / "requirements.txt").read_text().split()
    assert f"onnxruntime=={metadata.version('onnxruntime')}" in pinned


def test_what_a_tag_has_no_room_for_are_checks_that_passed() -> None:
    passed = [{"name": f"slice_{number}", "outcome": "pass", "detail": "x" * 200} for number in range(300)]
    failed = {"name": "ece", "outcome": "fail", "value": 0.06, "threshold": 0.05, "detail": "calibration"}
    text = register._fitting({"checks": [*passed, failed]})
    assert len(text) <= register.TAG_LENGTH
    kept = json.loads(text)["checks"]
    assert kept[0] == {key: value for key, value in failed.items() if key != "detail"}
    assert len(kept) > 50
    few = {"checks": [failed]}
    assert json.loads(register._fitting(few)) == few


def test_registering_a_run_again_gives_the_version_that_it_has(settings: Settings) -> None:
    params = register.Params(day=DAY, run="first", reason="again")
    with ThreadPoolExecutor(2) as pool:
        receipts = list(pool.map(lambda _: register.run(params, settings), range(2)))
    assert {receipt.facts["version"] for receipt in receipts} == {"1"}


def test_two_trainings_that_end_at_once_are_registered_one_after_the_other(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    for run in ("early", "late"):
        judged_like_the_first(settings, run)
    begin, end = register.existing_version, register.create_version

    def begun(client: MlflowClient, name: str, run: str) -> str | None:
        seen.append(run)
        time.sleep(0.5)  # the other one comes to the lock meanwhile
        return begin(client, name, run)

    def ended(*arguments: Any) -> str:
        seen.extend(each[state.TAG_RUN] for each in arguments if isinstance(each, dict))
        return end(*arguments)

    monkeypatch.setattr(register, "existing_version", begun)
    monkeypatch.setattr(register, "create_version", ended)
    with ThreadPoolExecutor(2) as pool:
        both = [register.Params(day=DAY, run=run) for run in ("early", "late")]
        receipts = list(pool.map(lambda params: register.run(params, settings), both))
    assert len({receipt.facts["version"] for receipt in receipts}) == 2
    assert seen in (["early", "early", "late", "late"], ["late", "late", "early", "early"])


def test_a_verdict_on_other_evidence_registers_nothing(settings: Settings) -> None:
    folder = judged_like_the_first(settings, "swapped")
    facts = folder.read_facts("evaluation.json")
    folder.write_facts("evaluation.json", facts | {"positives": facts["positives"] + 1})
    with pytest.raises(SluiceError, match=r"run swapped: gate\.json judged another evaluation\.json"):
        register.run(register.Params(day=DAY, run="swapped"), settings)


def test_a_run_whose_policy_has_changed_on_the_way_registers_nothing(settings: Settings) -> None:
    folder = judged_like_the_first(settings, "changed")
    origin = folder.read_facts("origin.json")
    origin["policy"]["decisions"]["block_above"] = 0.8
    folder.write_facts("origin.json", origin)
    with pytest.raises(SluiceError, match=r"policy decisions block_above: was 0\.8, is 0\.9; train again"):
        register.run(register.Params(day=DAY, run="changed"), settings)


def test_a_model_of_two_states_of_the_code_names_no_clean_commit(settings: Settings) -> None:
    folder = judged_like_the_first(settings, "between")
    origin = folder.read_facts("origin.json")
    folder.write_facts("origin.json", origin | {"code_commit": "0123abc"})
    facts = folder.read_model("frame.json", FrameFacts)
    assert lineage_of(folder, facts, "none", settings).code_commit == "0123abc+changes"


def test_shuffled_labels_are_blocked_against_the_baselines_and_registered_all_the_same(
    settings: Settings, client: MlflowClient, champion: str
) -> None:
    receipt = train(settings, "shuffled", drill="shuffled_labels")
    assert receipt.facts["gate"] == state.GATE_BLOCKED
    tags = tags_of(client, settings, receipt.facts["version"])
    assert tags[state.TAG_GATE] == state.GATE_BLOCKED
    assert "worse" in tags[state.TAG_GATE_REASON]
    assert tags[state.TAG_DRILL] == "shuffled_labels"


def test_a_challenger_meets_the_champion_on_the_same_rows_and_itself_is_no_news(
    settings: Settings, client: MlflowClient, champion: str
) -> None:
    receipt = train(settings, "second")
    evidence = RunFolder(settings, "second").read_model("evaluation.json", Evidence)
    assert evidence.champion_version == champion
    assert evidence.champion is not None
    # the same rows and seeds: the same model, which is no evidence of anything better
    assert evidence.champion.pr_auc == evidence.challenger.pr_auc
    assert receipt.facts["gate"] == state.GATE_BLOCKED
    tags = tags_of(client, settings, receipt.facts["version"])
    assert "same model" in tags[state.TAG_GATE_REASON]
    assert tags[state.TAG_JUDGED_AGAINST] == champion


def test_a_live_drill_spoils_the_registered_bundle_and_not_the_evidence(
    settings: Settings, client: MlflowClient, champion: str
) -> None:
    folder = judged_like_the_first(settings, "shifted")
    receipt = register.run(register.Params(day=DAY, run="shifted", drill="shifted_scores"), settings)
    bad = ModelBundle.load(fetch_bundle(settings, receipt.facts["version"]))
    reference = folder.read_frame("reference.parquet")
    scores = bad.score(reference[list(MODEL_FEATURES)].to_numpy(dtype=np.float32))
    assert bad.version_info.drill == "shifted_scores"
    found = client.get_model_version(settings.model_name, receipt.facts["version"])
    assert "Fire drill: shifted_scores" in found.description
    assert scores.mean() > reference["score"].mean() + 0.2


def test_a_retraining_moves_no_alias(settings: Settings, client: MlflowClient, champion: str) -> None:
    assert state.read_aliases(client, settings.model_name) == {state.CHAMPION: champion}


def test_mlflow_that_does_not_answer_is_one_clear_sentence_within_seconds(tmp_path: Path) -> None:
    away = load_settings(
        {
            "SLUICE_HOME": str(tmp_path),
            "SLUICE_MLFLOW_URI": "http://127.0.0.1:9",
            "SLUICE_POLICY_OVERLAY": "demo",
        }
    )
    made_run(away, "r", ROWS)
    start = time.monotonic()
    with pytest.raises(SluiceError, match=r"MLflow does not answer at http://127\.0\.0\.1:9"):
        tune.run(tune.Params(day=DAY, run="r", worker=0), away)
    assert time.monotonic() - start < 10
    assert not (RunFolder(away, "r").path / "study.journal").exists()


def test_a_job_that_comes_too_early_names_the_job_that_is_missing(home: Settings) -> None:
    with pytest.raises(SluiceError, match="run evaluate_model first"):
        gate.run(gate.Params(day=DAY, run="r"), home)
    with pytest.raises(SluiceError, match="run build_frame first"):
        tune.run(tune.Params(day=DAY, run="r"), home)
