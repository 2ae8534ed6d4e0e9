"""How fast the models are fitted, and how long a training takes from its trigger to a registered version.

The training runs on the handbook's 1.5M transactions, as processes in the order of the DAG: the two tuning
workers beside each other, and XGBoost beside the sequence model. Features are built before the clock starts.
The peer is the same training fitted on every good row (docs/decisions/0037-good-rows-are-drawn.md).
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from datetime import date, timedelta
from pathlib import Path
from typing import NamedTuple

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
from jobs.training.evidence import Evidence
from jobs.training.run_folder import RunFolder
from tests.benchmarks.__main__ import Case
from tests.benchmarks.features_data import HANDBOOK, handbook_days, lay_out, write_tables
from tests.benchmarks.features_process import CORES, best_of, run_way, same_cores, spark_server

ROOT = Path(__file__).parents[2]
SPEED = "train_speed"
ROWS, ROUNDS, EPOCHS = 200_000, 60, 2
EVERY_ROW = "training: {good_rows_per_fraud: 1000000}\n"
DAYS_BACK = (42, 0)  # from the last day: frames of 90 days need most of the data
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
    """Of two days: what a training costs and what comes out, beside one that is fitted on every good row."""
    every_row = folder / "every_row.yaml"
    every_row.write_text(EVERY_ROW)
    with spark_server(folder / "spark") as server:
        settings, last = installation(folder, server.remote)
        cases = []
        for day in (last - timedelta(days=back) for back in DAYS_BACK):
            overlays = ("", str(every_row))
            pair = [
                trained(settings.model_copy(update={"policy_overlay": overlay}), day, f"way-{place}-{day}")
                for place, overlay in enumerate(overlays)
            ]
            cases += beside_every_row(day, pair[0], pair[1], policy_of(settings).tuning.trials)
    return cases


class Trained(NamedTuple):
    """A training that has ended."""

    seconds: dict[str, float]  # of each step
    evidence: Evidence


def trained(settings: Settings, day: date, run: str) -> Trained:
    """All steps of one training, each started when the one before has ended."""
    seconds = {" beside ".join(step): _step(step, settings, day, run) for step in STEPS}
    return Trained(seconds, RunFolder(settings, run).read_model("evaluation.json", Evidence))


def beside_every_row(day: date, ours: Trained, peer: Trained, trials: int) -> list[Case]:
    """Time and quality of both."""
    what = f"{day}, {trials} trials, beside every good row"
    whole, peers = (sum(each.seconds.values()) for each in (ours, peer))
    cases = [Case(f"{what}: from the trigger to a registered version", whole, peers, "s", "reported", True)]
    for step, spent in ours.seconds.items():
        cases.append(Case(f"  {step}", spent, peer.seconds[step], "s", "reported", True))
    mine, theirs = ours.evidence.challenger, peer.evidence.challenger
    assert mine.pr_auc is not None
    assert mine.ece is not None
    assert theirs.pr_auc_low is not None
    within = mine.pr_auc >= theirs.pr_auc_low
    goal = f">= {theirs.pr_auc_low:.4f}, the lower end of the peer's interval"
    return [
        *cases,
        Case(f"{what}: PR-AUC of the test rows", mine.pr_auc, theirs.pr_auc, "", goal, within),
        Case(f"{what}: expected calibration error", mine.ece, theirs.ece, "", "reported", True),
    ]


def _step(step: tuple[str, ...], settings: Settings, day: date, run: str) -> float:
    environment = {
        **os.environ,
        "SLUICE_HOME": str(settings.home),
        "SLUICE_CONTRACT": settings.contract,
        "SLUICE_SPARK_REMOTE": settings.spark_remote,
        "SLUICE_MLFLOW_URI": settings.mlflow_uri,
        "SLUICE_POLICY_OVERLAY": settings.policy_overlay,
    }
    start = time.perf_counter()
    tasks = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "jobs", *job.split(), "--day", str(day), "--run", run],
            cwd=ROOT, env=environment, stdout=subprocess.DEVNULL,
        )
        for job in step
    ]  # fmt: skip
    for job, task in zip(step, tasks, strict=True):
        if task.wait():
            raise SystemExit(f"{job} ended with {task.returncode}")
    return time.perf_counter() - start
