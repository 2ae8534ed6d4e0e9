"""Each of the ten packages does work that the chain needs: without it, the named task fails."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DAY = "2026-01-01"
TRAINING = {"day": DAY, "run": "run-1"}
# package -> (the task that fails without it, the arguments that it is called with)
TASK_OF_PACKAGE: dict[str, tuple[str, dict[str, str]]] = {
    "great_expectations": ("validate_transactions", {"day": DAY}),
    "pyspark": ("build_features", {"day": DAY}),
    "feast": ("materialize_features", {"day": DAY}),
    "optuna": ("tune_model", {**TRAINING, "worker": "0"}),
    "mlflow": ("register_model", {**TRAINING, "reason": "test"}),
    "xgboost": ("train_xgboost", TRAINING),
    "torch": ("train_torch", TRAINING),
    "evidently": ("measure_drift", {"day": DAY}),
    "boto3": ("land_transactions", {"day": DAY}),
}
WITHOUT = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == sys.argv[1]:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing())
"""
RUN_JOB = """
from jobs.registry import run_job
import json
try:
    run_job(sys.argv[2], json.loads(sys.argv[3]))
except ModuleNotFoundError as error:
    print("missing", error.name.partition(".")[0])
"""
PARSE_DAG = """
try:
    exec(compile(open("dags/fraud_ingest.py").read(), "fraud_ingest", "exec"), {"__name__": "dag_file"})
except ModuleNotFoundError as error:
    print("missing", error.name.partition(".")[0])
"""


def run_without(package: str, script: str, *arguments: str, home: Path) -> str:
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "PYTHONPATH": str(ROOT),
        "SLUICE_HOME": str(home),
        "SLUICE_SOURCE_URI": "s3://bucket/prefix",
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
        "AWS_ACCESS_KEY_ID": "nobody",
        "AWS_SECRET_ACCESS_KEY": "nothing",
    }
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", WITHOUT + script, package, *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    return (done.stdout.strip().splitlines() or [done.stderr])[-1]


@pytest.mark.parametrize("package", TASK_OF_PACKAGE)
def test_without_a_package_its_task_fails(package: str, tmp_path: Path) -> None:
    import json

    task, arguments = TASK_OF_PACKAGE[package]
    assert run_without(package, RUN_JOB, task, json.dumps(arguments), home=tmp_path) == f"missing {package}"


def test_without_airflow_no_dag_is_parsed(tmp_path: Path) -> None:
    assert run_without("airflow", PARSE_DAG, home=tmp_path) == "missing airflow"
