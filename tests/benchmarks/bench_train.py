"""How fast the models are fitted, and how long a training takes from its trigger to a registered version.

The training runs on the handbook's 1.5M transactions, as processes in the order of the DAG: the two tuning
workers beside each other, and XGBoost beside the sequence model. Features are built before the clock starts.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds
import torch
from deltalake import write_deltalake

from jobs.conf.policy import policy_of
from jobs.conf.settings import Settings, load_settings
from jobs.features import build
from jobs.lake.store import lake_of
from jobs.lake.tables import LABELS, LANDED_FILES, MERGED_LABELS, TRANSACTIONS, Table
from jobs.promotion.state import registry_client
from tests.benchmarks.__main__ import Case
from tests.benchmarks.features_data import HANDBOOK, handbook_days, lay_out, write_tables
from tests.benchmarks.features_process import CORES, best_of, run_way, same_cores, spark_server

ROOT = Path(__file__).parents[2]
SPEED = "train_speed"
ROWS, ROUNDS, EPOCHS = 200_000, 60, 2
RUN = "benchmark"
# what a task starts when the one before has ended; those of one step run beside each other
STEPS = (
    ("snapshot_labels",),
    ("build_frame",),
    ("tune_model --worker 0", "tune_model --worker 1"),
    ("train_xgboost", "train_torch"),
    ("calibrate_model",),
    ("evaluate_model",),
    ("gate_model",),
    ("register_model",),
)


def run() -> list[Case]:
    """Every figure of training."""
    same_cores()
    cases = [*boosting_speed(), *network_speed()]
    if not HANDBOOK.exists():
        print(f"skipped: a whole training, there is no data set at {HANDBOOK}")
        return cases
    with tempfile.TemporaryDirectory() as folder:
        return [*cases, *whole_training(Path(folder))]


def boosting_speed() -> list[Case]:
    """Rows times rounds a second of both boosting libraries."""
    arguments = {"rows": ROWS, "rounds": ROUNDS, "threads": CORES}
    ours, peer = (best_of(2, SPEED, way, **arguments) for way in ("xgboost_ours", "scikit_learn"))
    work = ROWS * ROUNDS / 1e6
    return [
        Case(
            f"XGBoost, {ROWS:,} rows, {ROUNDS} rounds, {CORES} cores, beside scikit-learn's boosting",
            work / ours.seconds, work / peer.seconds, "M rows x rounds/s", "reported", True,
        )
    ]  # fmt: skip


def network_speed() -> list[Case]:
    """Sequences a second on the processor, and on a GPU where there is one."""
    arguments = {"rows": ROWS, "epochs": EPOCHS, "threads": CORES}
    ours, peer = (best_of(2, SPEED, way, **arguments) for way in ("torch_ours", "torch_loader"))
    work = ROWS * EPOCHS
    what = f"sequence model, {ROWS:,} sequences, {EPOCHS} epochs"
    if not torch.cuda.is_available():
        print("skipped: the sequence model on a GPU, there is none on this machine")
    else:
        return gpu_speed(what, work / ours.seconds)
    return [
        Case(
            f"{what} on {CORES} cores, beside a DataLoader that prepares each batch",
            work / ours.seconds, work / peer.seconds, "sequences/s", "reported", True,
        )
    ]  # fmt: skip


def gpu_speed(what: str, on_gpu: float) -> list[Case]:
    """Beside the processor's two cores, and as a share of what a large product reaches."""
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    cores = run_way(SPEED, "torch_ours", rows=ROWS, epochs=1, threads=CORES)
    del os.environ["CUDA_VISIBLE_DEVICES"]
    facts = run_way(SPEED, "gpu_peak").facts
    reached = on_gpu * facts["flops_a_row"]
    return [
        Case(f"{what} on the GPU, beside {CORES} cores", on_gpu, ROWS / cores.seconds,
             "sequences/s", "reported", True),
        Case("share of the measured peak of bfloat16 products", 100 * reached / facts["peak_flops"], None,
             "%", "reported", True),
    ]  # fmt: skip


def installation(folder: Path, remote: str) -> tuple[Settings, date]:
    """An installation that has all days of the handbook and their features, and its last day."""
    settings = load_settings(
        {
            "SLUICE_HOME": str(folder / "home"),
            "SLUICE_CONTRACT": "handbook",
            "SLUICE_SPARK_REMOTE": remote,
            "SLUICE_MLFLOW_URI": f"sqlite:///{folder / 'mlflow.db'}",
        }
    )
    files = handbook_days()
    first, last = (date.fromisoformat(file.stem) for file in (files[0], files[-1]))
    data = write_tables(lay_out(files, folder / "days"), folder / "data")
    lake = lake_of(settings)
    for table in (TRANSACTIONS, LABELS):
        rows = ds.dataset(data / table.name).to_table()
        cast = rows.select(table.schema.names).cast(table.schema)
        write_deltalake(lake.path(table), cast, partition_by=["day"])
    days = [date.fromisoformat(file.stem) for file in files]
    for table in (LANDED_FILES, MERGED_LABELS):
        lake.append(table, ledger(table, days))
    build.run(build.Params(day=first, last=last), settings)
    registry_client(settings)  # makes MLflow's tables: two workers at once would each try to
    return settings, last


def ledger(table: Table, days: list[date]) -> pa.Table:
    """What says that the chargebacks of each day have come."""
    known = {"day": days, "digest": ["a"] * len(days), "feed": ["labels"] * len(days)}
    nothing = {"int32": 0, "int64": 0, "string": ""}
    columns = {
        field.name: known.get(field.name, [nothing.get(str(field.type))] * len(days))
        for field in table.schema
    }
    return pa.table(columns, schema=table.schema)


def whole_training(folder: Path) -> list[Case]:
    """Seconds from the trigger to the version, and of each step."""
    with spark_server(folder / "spark") as server:
        settings, last = installation(folder, server.remote)
        seconds = {" beside ".join(step): _step(step, settings, last) for step in STEPS}
    total = sum(seconds.values())
    trials = policy_of(settings).tuning.trials
    cases = [Case(f"1.5M rows, {trials} trials: from the trigger to a registered version", total, None,
                  "s", "reported", True)]  # fmt: skip
    return cases + [Case(f"  {step}", spent, total, "s", "reported", True) for step, spent in seconds.items()]


def _step(step: tuple[str, ...], settings: Settings, day: date) -> float:
    environment = {
        **os.environ,
        "SLUICE_HOME": str(settings.home),
        "SLUICE_CONTRACT": settings.contract,
        "SLUICE_SPARK_REMOTE": settings.spark_remote,
        "SLUICE_MLFLOW_URI": settings.mlflow_uri,
    }
    start = time.perf_counter()
    tasks = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "jobs", *job.split(), "--day", str(day), "--run", RUN],
            cwd=ROOT, env=environment, stdout=subprocess.DEVNULL,
        )
        for job in step
    ]  # fmt: skip
    for job, task in zip(step, tasks, strict=True):
        if task.wait():
            raise SystemExit(f"{job} ended with {task.returncode}")
    return time.perf_counter() - start
