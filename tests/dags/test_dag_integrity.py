"""The DAGs as a whole: exactly these, with exactly these tasks, and the habits that all of them keep."""

from __future__ import annotations

import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from jobs.conf.policy import load_policy
from plugins.callbacks import take_back_what_was_cut_off
from plugins.defaults import PATIENCE, promotion_time, promotion_timeout
from plugins.tags import Tag

ROOT = Path(__file__).parents[2]
TASKS = {
    "fraud_ingest": [
        "land_transactions",
        "validate_transactions",
        "quarantine_transactions",
        "publish_transactions",
    ],
    "fraud_labels": ["land_labels", "validate_labels", "merge_labels"],
    "fraud_features": ["build_features", "check_features", "materialize_features"],
    "fraud_train": [
        "snapshot_labels",
        "build_frame",
        "tune_model",
        "train_xgboost",
        "train_torch",
        "calibrate_model",
        "evaluate_model",
        "gate_model",
        "register_model",
        "offer_version",
    ],
    "fraud_promote": [
        "check_challenger",
        "approve_version",
        "run_shadow",
        "run_canary_5",
        "run_canary_25",
        "run_canary_50",
        "run_canary_100",
        "promote_champion",
        "confirm_serving",
        "roll_back",
    ],
    "fraud_roll_back": ["roll_back", "confirm_serving"],
    "fraud_champion": ["check_champion"],
    "fraud_monitor": [
        "measure_drift",
        "measure_performance",
        "measure_service",
        "compare_served",
        "decide_reaction",
        "request_retraining",
    ],
    "fraud_hour": ["measure_hour"],
    "fraud_score": ["score_day"],
    "fraud_backfill": [
        "plan_backfill",
        "run_backfill",
        "validate_backfill",
        "approve_swap",
        "swap_backfill",
    ],
    "fraud_freshness": ["check_freshness"],
    "fraud_maintain": ["expire_data", "archive_versions", "compact_tables", "vacuum_tables"],
}
NOT_PATIENT = ("check_", "approve_", "confirm_")
HEAVY = ("pyspark", "mlflow", "torch", "feast", "pandas", "great_expectations", "evidently", "xgboost")
MEASURE = """
import sys, time
import airflow.sdk, airflow.providers.standard.operators.hitl
before = {name for name in HEAVY if name in sys.modules}
start = time.process_time()
exec(compile(open(sys.argv[1]).read(), sys.argv[1], "exec"), {"__name__": "dag_file"})
seconds = time.process_time() - start
print(seconds, ",".join(name for name in HEAVY if name in sys.modules and name not in before))
"""


def test_every_dag_file_loads_without_an_error(dag_bag: Any) -> None:
    assert dag_bag.import_errors == {}


def test_the_dags_are_exactly_the_enumerated_ones(dag_bag: Any) -> None:
    assert sorted(dag_bag.dags) == sorted(TASKS)


@pytest.mark.parametrize("dag_id", TASKS)
def test_the_tasks_are_exactly_the_enumerated_ones(dag_bag: Any, dag_id: str) -> None:
    assert sorted(dag_bag.dags[dag_id].task_ids) == sorted(TASKS[dag_id])


@pytest.mark.parametrize("dag_id", TASKS)
def test_every_dag_is_documented_and_tagged_and_bounded(dag_bag: Any, dag_id: str) -> None:
    dag = dag_bag.dags[dag_id]
    assert "**If it fails:**" in dag.doc_md
    assert dag.tags
    assert set(dag.tags) <= {tag.value for tag in Tag}
    assert dag.dagrun_timeout
    assert dag.catchup is False
    assert (ROOT / "dags" / f"{dag_id}.py").exists()


# never left half done, and ended by no worker that dies
PATIENT = {("fraud_promote", task) for task in TASKS["fraud_promote"] if not task.startswith(NOT_PATIENT)}


@pytest.mark.parametrize("dag_id", TASKS)
def test_every_task_has_an_owner_retries_a_timeout_a_pool_and_an_alert(dag_bag: Any, dag_id: str) -> None:
    for task in dag_bag.dags[dag_id].tasks:
        assert task.owner not in ("", "airflow"), task.task_id
        is_patient = (dag_id, task.task_id) in PATIENT
        assert task.retries == (PATIENCE["retries"] if is_patient else 2), task.task_id
        assert bool(task.on_retry_callback) is is_patient, task.task_id
        is_urgent = dag_id in {"fraud_promote", "fraud_roll_back", "fraud_champion"}
        delay = timedelta(seconds=20) if is_urgent else timedelta(minutes=5)
        assert task.retry_delay == delay, task.task_id
        assert task.retry_exponential_backoff, task.task_id
        assert task.pool in {"default_pool", "spark", "training"}, task.task_id
        assert task.has_on_failure_callback or task.on_failure_callback, task.task_id
        waits_for_a_person = task.task_id in {"approve_version", "approve_swap"}
        assert waits_for_a_person or task.execution_timeout, task.task_id


def test_spark_and_training_run_in_their_own_pools(dag_bag: Any) -> None:
    assert dag_bag.dags["fraud_features"].get_task("build_features").pool == "spark"
    for task in ("tune_model", "train_xgboost", "train_torch"):
        assert dag_bag.dags["fraud_train"].get_task(task).pool == "training"


def test_nothing_becomes_champion_without_the_gate_the_approval_and_every_step(dag_bag: Any) -> None:
    dag = dag_bag.dags["fraud_promote"]
    above = dag.get_task("promote_champion").get_flat_relative_ids(upstream=True)
    assert above == {
        "check_challenger", "approve_version", "run_shadow", "run_canary_5", "run_canary_25",
        "run_canary_50", "run_canary_100",
    }  # fmt: skip


def test_a_promotion_has_time_for_its_approval_and_every_step_of_the_shipped_policy() -> None:
    policy = load_policy()
    needed = timedelta(
        days=policy.approval.expires_days,
        minutes=policy.shadow.minutes + sum(step.minutes for step in policy.canary.steps),
    )
    assert promotion_time(policy) > needed
    assert promotion_timeout(policy) >= promotion_time(policy) + timedelta(days=7), "time to take back"


def test_a_promotion_that_is_held_for_too_long_is_taken_back(dag_bag: Any) -> None:
    dag = dag_bag.dags["fraud_promote"]
    ends = {task.ends_after for task in dag.tasks if task.task_id.startswith("run_")}
    assert max(ends) < dag.dagrun_timeout
    assert dag.on_failure_callback is take_back_what_was_cut_off


def test_any_failing_step_rolls_back(dag_bag: Any) -> None:
    dag = dag_bag.dags["fraud_promote"]
    roll_back = dag.get_task("roll_back")
    assert roll_back.trigger_rule == "one_failed"
    steps = {"run_shadow", "run_canary_5", "run_canary_25", "run_canary_50", "run_canary_100"}
    assert roll_back.upstream_task_ids == steps | {"approve_version", "promote_champion"}


def test_the_button_answers_although_nobody_has_switched_it_on(dag_bag: Any) -> None:
    awake = [name for name, dag in dag_bag.dags.items() if not dag.is_paused_upon_creation]
    assert awake == ["fraud_roll_back"]


def test_a_promotion_that_was_rolled_back_ends_as_a_failed_run(dag_bag: Any) -> None:
    dag = dag_bag.dags["fraud_promote"]
    assert {task.task_id for task in dag.leaves} == {"confirm_serving", "roll_back"}
    assert dag.get_task("confirm_serving").upstream_task_ids == {"promote_champion"}


def test_a_version_is_registered_only_below_its_gate(dag_bag: Any) -> None:
    above = dag_bag.dags["fraud_train"].get_task("register_model").get_flat_relative_ids(upstream=True)
    assert {"gate_model", "evaluate_model", "build_frame", "snapshot_labels"} <= above


def test_a_training_offers_the_version_that_it_has_registered(dag_bag: Any) -> None:
    offer = dag_bag.dags["fraud_train"].get_task("offer_version")
    assert offer.upstream_task_ids == {"register_model"}
    assert "task_ids='register_model'" in offer.arguments["version"]


def test_nothing_is_swapped_without_a_validation_and_a_person(dag_bag: Any) -> None:
    dag = dag_bag.dags["fraud_backfill"]
    above = dag.get_task("swap_backfill").get_flat_relative_ids(upstream=True)
    assert above == {"plan_backfill", "run_backfill", "validate_backfill", "approve_swap"}
    assert all(task.trigger_rule == "all_success" for task in dag.tasks)
    assert dag.params["dry_run"] is True


def test_failed_quality_stops_everything_below_it(dag_bag: Any) -> None:
    above = dag_bag.dags["fraud_ingest"].get_task("publish_transactions").get_flat_relative_ids(upstream=True)
    assert "validate_transactions" in above
    for task in dag_bag.dags["fraud_ingest"].tasks:
        assert task.trigger_rule == "all_success"


@pytest.mark.parametrize("dag_id", TASKS)
def test_a_dag_file_parses_fast_and_imports_nothing_heavy(dag_id: str, tmp_path: Path) -> None:
    script = tmp_path / "measure.py"
    script.write_text(f"HEAVY = {HEAVY!r}\n{MEASURE}")
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "AIRFLOW_HOME": str(tmp_path)}
    file = ROOT / "dags" / f"{dag_id}.py"
    done = subprocess.run(
        [sys.executable, str(script), str(file)], capture_output=True, text=True, env=environment, check=True
    )
    seconds, _, heavy = done.stdout.strip().splitlines()[-1].partition(" ")
    assert heavy == ""
    assert float(seconds) < 0.5


def test_jobs_import_no_airflow() -> None:
    for file in (ROOT / "jobs").rglob("*.py"):
        assert "airflow" not in "".join(
            line for line in file.read_text().splitlines() if line.lstrip().startswith(("import ", "from "))
        ), file
