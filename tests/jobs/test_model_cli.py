"""`sluice model`: what is said about a version, and versions built again from their lineage."""

from __future__ import annotations

import ast
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from jobs import cli
from jobs.conf import settings as process
from jobs.conf.settings import PROJECT_ROOT, Settings, load_settings
from jobs.core import SluiceError
from jobs.features.tables import BUILT_TABLES, CUSTOMER_FEATURES
from jobs.lake.at import versions_of
from jobs.lake.store import lake_of
from jobs.lake.tables import LABELS, TRANSACTIONS
from jobs.promotion import state
from jobs.training import (
    calibrate,
    evaluate,
    frame,
    gate,
    labels,
    register,
    reproduce,
    train_torch,
    train_xgboost,
    tune,
)
from jobs.training.lineage import changes
from jobs.training.model_cli import aligned, figure
from jobs.training.reproduce import TOLERANCE, Recorded
from tests.frame_data import FIRST, LAST, put

pytest_plugins = ("tests.filled_lake",)
RUN = "scheduled__2026-02-14"
POLICY = """
training: {test_days: 5, validation_days: 5, calibration_days: 5}
tuning: {trials: 2, max_units: 8}
gate: {bootstrap_samples: 100}
"""
FOLDERS = ("jobs", "plugins", "dags", "stack", "demo", "feature_repo")


def train(settings: Settings, run: str) -> str:
    """A whole training; gives the version."""
    common: dict[str, Any] = {"day": LAST, "run": run}
    for job in (labels, frame):
        job.run(job.Params(**common), settings)
    for worker in range(2):
        tune.run(tune.Params(**common, worker=worker), settings)
    for job in (train_xgboost, train_torch, calibrate, evaluate, gate):
        job.run(job.Params(**common), settings)
    receipt = register.run(register.Params(**common, reason="a test", author="ada"), settings)
    return str(receipt.facts["version"])


@pytest.fixture(scope="module")
def variables(
    filled_home: Path, spark_remote: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, str]]:
    """Version 1 is trained, with everything real but the size; these variables name the installation."""
    folder = tmp_path_factory.mktemp("model")
    shutil.copytree(filled_home, folder / "home")
    (folder / "policy.yaml").write_text(POLICY)
    named = {
        "SLUICE_HOME": str(folder / "home"),
        "SLUICE_MLFLOW_URI": f"sqlite:///{folder / 'mlflow.db'}",
        "SLUICE_POLICY_OVERLAY": str(folder / "policy.yaml"),
        "SLUICE_SPARK_REMOTE": spark_remote,
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)  # a SQLite registry keeps its artifacts beside the working directory
        assert train(load_settings(named), RUN) == "1"
        yield named


@pytest.fixture
def ours(variables: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    """The settings of this process are those of the installation."""
    monkeypatch.delenv("SLUICE_TEST_SPARK_REMOTE", raising=False)  # no setting: the fixture has read it
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    process.settings.cache_clear()
    yield load_settings(variables)
    process.settings.cache_clear()


def client_of(ours: Settings) -> MlflowClient:
    return state.registry_client(ours)


def recorded(ours: Settings, version: str = "1") -> Recorded:
    return reproduce.read_recorded(client_of(ours), ours, version)


@contextmanager
def tampered(ours: Settings, place: Path, **changed: dict[str, Any]) -> Iterator[None]:
    """Evidence files of version 1 with some keys changed, as somebody with the store's keys could do it."""
    found = state.read_version(client_of(ours), ours.model_name, "1")
    assert found is not None
    kept = {}
    for name, values in changed.items():
        file = Path(client_of(ours).download_artifacts(found.run_id, f"evidence/{name}.json", str(place)))
        kept[file] = file.read_text()
        file.write_text(json.dumps(json.loads(kept[file]) | values))
        client_of(ours).log_artifact(found.run_id, str(file), "evidence")
    try:
        yield
    finally:
        for file, text in kept.items():
            file.write_text(text)
            client_of(ours).log_artifact(found.run_id, str(file), "evidence")


def said(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> str:
    assert cli.main(["model", *arguments]) == code
    shown = capsys.readouterr()
    return " ".join((shown.err if code and not shown.out else shown.out).split())


def everything_kept(ours: Settings) -> dict[str, int]:
    """Each file of the installation but those of Delta's and Spark's own, with its time of change."""
    files = [path for path in ours.home.rglob("*") if path.is_file()]
    return {str(path): path.stat().st_mtime_ns for path in files}


def move_on(ours: Settings) -> None:
    """Chargebacks of a day are taken back, amounts and features of a day come out otherwise."""
    lake, day = lake_of(ours), FIRST + timedelta(days=30)
    for table, column, change in (
        (LABELS, "is_fraud", lambda values: values * 0),
        (TRANSACTIONS, "amount_minor", lambda values: values + 1),
        (CUSTOMER_FEATURES, "customer_count_7d", lambda values: values + 1),
    ):
        rows = lake.read(table, first=day, last=day).to_pandas()
        put(ours, table, rows.assign(**{column: change(rows[column])}).to_dict("records"), day)


def test_a_version_is_reproduced_to_the_byte_and_nothing_of_the_installation_is_touched(
    ours: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    before = everything_kept(ours)
    aliases = state.read_aliases(client_of(ours), ours.model_name)
    runs = client_of(ours).search_runs(["1"], "").to_list()
    text = said(capsys, "reproduce", "1")
    assert "score 0 xgboost 0 torch 0" in text
    assert "graphs and calibration are the same to the byte" in text
    assert "version 1 was reproduced" in text
    assert "came out otherwise" not in text
    assert everything_kept(ours) == before
    assert state.read_aliases(client_of(ours), ours.model_name) == aliases
    assert len(client_of(ours).search_runs(["1"], "").to_list()) == len(runs)


def test_it_is_still_the_same_after_corrections_and_under_another_policy(ours: Settings) -> None:
    move_on(ours)
    newer = ours.model_copy(update={"policy_overlay": "small"})
    told = reproduce.conditions(recorded(ours).lineage, newer)
    assert "policy training calibration_days: was 5, is 1" in told
    result = reproduce.reproduce(newer, recorded(newer))
    assert result.apart == {"score": 0.0, "xgboost": 0.0, "torch": 0.0}
    assert result.same_files


def test_a_lineage_with_another_winner_is_not_reproduced_and_says_how_far_it_is(
    ours: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    winner = recorded(ours).lineage.winner
    other = winner | {"rounds": winner["rounds"] + 8}
    with tampered(ours, tmp_path, lineage={"winner": other}):
        text = said(capsys, "reproduce", "1", code=1)
    assert "version 1 was NOT reproduced" in text
    assert f"came out otherwise: xgboost rounds: was {winner['rounds']}, is {other['rounds']}" in text
    assert " torch 0 " in text, "the network has no part in it"


def test_a_lineage_that_does_not_fit_its_frame_is_refused_before_anything_is_read(
    ours: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    newer = recorded(ours).lineage.table_versions | {"labels": 0}
    with tampered(ours, tmp_path, lineage={"table_versions": newer}):
        text = said(capsys, "reproduce", "1", code=1)
    assert text.startswith("sluice: model version 1: its lineage and its frame.json do not tell the same")
    assert "labels: was 0, is" in text


def test_where_both_name_other_tables_the_frame_comes_out_otherwise(
    ours: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    move_on(ours)
    newer = recorded(ours).lineage.table_versions | versions_of(lake_of(ours), BUILT_TABLES)
    changed = {"table_versions": newer}
    with tampered(ours, tmp_path, lineage=changed, frame=changed):
        assert cli.main(["model", "reproduce", "1"]) == 1
    error = capsys.readouterr().err
    assert "model version 1: its frame comes out otherwise" in error
    assert "column customer_count_7d: was" in error


def test_a_table_version_that_was_vacuumed_is_named(
    ours: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = {"table_versions": recorded(ours).lineage.table_versions | {"labels": 999_999}}
    with tampered(ours, tmp_path, lineage=gone, frame=gone):
        assert cli.main(["model", "reproduce", "1"]) == 1
    assert "table labels: version 999999 cannot be read any more" in capsys.readouterr().err


def test_other_features_and_other_code_are_told_before_anything_is_read(
    ours: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    features = list(recorded(ours).lineage.features)
    changed = {"features": [*features[:-1], "shoe_size"], "feature_version": "old"}
    with tampered(ours, tmp_path, lineage=changed | {"code_commit": "c0ffee"}, frame=changed):
        assert cli.main(["model", "reproduce", "1"]) == 1
    shown = capsys.readouterr()
    assert "otherwise today: code commit: was c0ffee, is " in shown.out
    assert f"features: gone shoe_size, new {features[-1]}; build it again with the code of c" in shown.err


def test_a_version_is_shown_with_what_was_decided_about_it(
    ours: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    client_of(ours).set_registered_model_alias(ours.model_name, "previous", "1")
    text = said(capsys, "show", "1")
    found = state.read_version(client_of(ours), ours.model_name, "1")
    assert found is not None
    for wanted in ("aliases previous", f"run {RUN}", f"day {LAST}", "author ada", "reason a test"):
        assert wanted in text
    assert f"gate {found.tag(state.TAG_GATE)}: " in text
    assert f"pr_auc {figure(found.evidence(state.TAG_METRICS)['pr_auc'])} " in text
    client_of(ours).delete_registered_model_alias(ours.model_name, "previous")
    assert "aliases -" in said(capsys, "show", "1")


def test_the_list_has_a_line_for_each_version(ours: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["model", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["version", "aliases", "gate", "promotion", "day", "pr_auc", "registered"]
    assert len(lines) == 1 + len(client_of(ours).search_model_versions(f"name='{ours.model_name}'"))
    assert str(LAST) in lines[-1]


def test_lineage_is_readable_and_the_same_for_machines(
    ours: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    document = json.loads(said(capsys, "lineage", "1", "--json"))
    assert document == recorded(ours).lineage.model_dump(mode="json")
    assert document["policy"]["training"]["calibration_days"] == 5
    assert document["torch"]["epochs"] >= 1
    text = said(capsys, "lineage", "1")
    assert f"table_versions labels {document['table_versions']['labels']}" in text
    assert f"code_commit {document['code_commit']}" in text


def test_two_versions_stand_side_by_side_with_their_differences(
    ours: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    client, first = client_of(ours), state.read_version(client_of(ours), ours.model_name, "1")
    assert first is not None
    kept = client.get_run(first.run_id)
    run = client.create_run(kept.info.experiment_id)
    client.log_metric(run.info.run_id, "pr_auc", kept.data.metrics["pr_auc"] + 0.25)
    client.log_param(run.info.run_id, "eta", "0.5")
    document = recorded(ours).lineage.model_dump(mode="json")
    document["features"] = document["features"][1:]
    document["table_versions"]["labels"] = 77
    client.log_dict(run.info.run_id, document, "evidence/lineage.json")
    other = client.create_model_version(ours.model_name, "nowhere", run.info.run_id).version
    text = said(capsys, "compare", "1", str(other))
    assert "+0.25" in text
    assert f"eta {kept.data.params['eta']} 0.5 *" in text
    assert f"labels {recorded(ours).lineage.table_versions['labels']} 77 *" in text
    assert f"features: gone {recorded(ours).lineage.features[0]}, new none" in text


def test_a_version_that_is_not_there_or_has_no_lineage_is_one_sentence(
    ours: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in ("show", "lineage", "reproduce"):
        assert cli.main(["model", command, "99"]) == 1
        assert "fraud has no such version" in capsys.readouterr().err
    bare = client_of(ours).create_model_version(ours.model_name, "nowhere").version
    for command in (["lineage", bare], ["reproduce", bare], ["compare", "1", bare]):
        assert cli.main(["model", *map(str, command)]) == 1
        assert f"model version {bare}: its lineage is missing" in capsys.readouterr().err
    assert "-" in said(capsys, "show", str(bare))


def test_a_lineage_of_another_release_says_what_it_lacks(ours: Settings) -> None:
    client = client_of(ours)
    run = client.create_run("0").info.run_id
    client.log_dict(run, {"run": RUN}, "evidence/lineage.json")
    version = str(client.create_model_version(ours.model_name, "nowhere", run).version)
    with pytest.raises(SluiceError, match=r"lineage\.json is not readable as a lineage: day: "):
        recorded(ours, version)


def test_only_what_differs_is_told_and_floats_may_be_a_hair_apart() -> None:
    then = {"seed": 7, "pr_auc": 0.5, "deep": {"a": 1, "b": [1, 2]}, "names": ("x", "y")}
    now = {"seed": 8, "pr_auc": 0.5 + TOLERANCE / 2, "deep": {"a": 1, "b": [1]}, "names": ("y", "z")}
    assert changes("", then, then) == []
    assert changes("", then, now) == [
        "seed: was 7, is 8", "deep b: was [1, 2], is [1]", "names: gone x, new z",
    ]  # fmt: skip
    assert changes("", {"names": ("x", "y")}, {"names": ("y", "x")}) == [
        "names: was ('x', 'y'), is ('y', 'x')"
    ]


def test_columns_stand_below_each_other() -> None:
    assert aligned([("a", "bbb", "c"), ("aaa", "b", "")]) == "a    bbb  c\naaa  b"


def test_none_of_our_tools_can_delete_a_version_or_the_model() -> None:
    """A champion, or the version to go back to, can only be deleted by a person in MLflow."""
    calls = set()
    for folder in FOLDERS:
        for file in (PROJECT_ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.Attribute | ast.Name):
                    calls.add(node.attr if isinstance(node, ast.Attribute) else node.id)
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    calls.add(node.value)
    assert "delete_registered_model_alias" in calls, "the search finds such calls"
    assert not calls & {"delete_model_version", "delete_registered_model"}
    assert not [text for text in calls if "registered-models/delete" in text]
    assert not [text for text in calls if "model-versions/delete" in text]
