"""The jobs that measure a day, from a prediction log to the table, each in a process of its own.

The log is written first, by another process, so that its memory is not counted. The registry and MLflow are
answered from memory: what they cost does not grow with the rows.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from jobs.conf.contract import contract_of
from jobs.conf.settings import Settings, load_settings
from jobs.core import DayParams
from jobs.features.declarations import FEATURE_VERSION, MODEL_FEATURES
from jobs.lake.store import lake_of
from jobs.lake.tables import LABELS, LANDED_FILES, MERGED_LABELS, PREDICTIONS, TRANSACTIONS, Table
from tests.benchmarks.monitor_speed import DAY, REFERENCE, ROOT

# job -> answers a day, days of the log
JOBS = {
    "measure_drift": (1_000_000, 1),
    "measure_service": (1_000_000, 1),
    "measure_performance": (100_000, 28),
}
MODULES = {"measure_drift": "drift", "measure_service": "service", "measure_performance": "performance"}
BATCH = 100_000
FRAUDS = 0.005
PLACES = {name: place for place, name in enumerate(MODEL_FEATURES)}


def matrix(count: int, generator: np.random.Generator) -> np.ndarray:
    """Independent features of so many rows."""
    values = generator.gamma(2.0, 10.0, (count, len(MODEL_FEATURES)))
    for name, place in PLACES.items():
        if name.startswith("is_") or name.endswith("_missing") or "is_new" in name:
            values[:, place] = generator.random(count) < 0.1
    values[:, PLACES["hour"]] = generator.integers(0, 24, count)
    return values


def scored(count: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Labels, and scores that know something of them."""
    fraud = generator.random(count) < FRAUDS
    return fraud, np.where(fraud, generator.beta(4, 2, count), generator.beta(1, 30, count))


def reference() -> pd.DataFrame:
    """Test rows of a version, of the 28 days before the log."""
    generator = np.random.default_rng(1)
    fraud, score = scored(REFERENCE, generator)
    back = np.sort(generator.integers(60, 88, REFERENCE))[::-1]
    return pd.DataFrame(matrix(REFERENCE, generator), columns=list(MODEL_FEATURES)).assign(
        score=score, is_fraud=fraud.astype(float), amount_minor=generator.integers(100, 90_000, REFERENCE),
        event_time=pd.Timestamp(DAY, tz="UTC") - pd.to_timedelta(back, unit="D"),
    )  # fmt: skip


def write(folder: Path, rows: int, days: int) -> None:
    """The log of so many days, the newest of which have matured where there are several, and its labels."""
    settings, generator = settings_of(folder), np.random.default_rng(2)
    lake, labels = lake_of(settings), contract_of(settings).labels
    last = DAY - timedelta(days=labels.maturity_days if days > 1 else 0)
    for day in (last - timedelta(days=back) for back in range(days)):
        frauds = []
        for start in range(0, rows, BATCH):
            size = min(BATCH, rows - start)
            number = np.arange(size) + start + day.toordinal() * 10_000_000
            fraud, score = scored(size, generator)
            frauds.append(number[fraud])
            at = pd.Timestamp(day, tz="UTC") + pd.to_timedelta(generator.integers(0, 86_400, size), unit="s")
            flat = pa.array(matrix(size, generator).ravel())
            offsets = pa.array(np.arange(size + 1, dtype=np.int32) * len(MODEL_FEATURES))
            frame: dict[str, Any] = {
                "day": day, "request_id": number.astype(str), "transaction_id": number, "event_time": at,
                "customer_id": generator.integers(0, rows, size), "terminal_id": 1, "amount_minor": 4_000,
                "model_version": "1", "variant": "champion", "step": "", "score": score,
                "decision": "approve", "rule": "", "error": "", "latency_ms": 1.0, "served_at": at,
                "feature_version": FEATURE_VERSION, "would_be": "", "file_day": day, "available_at": at,
            }  # fmt: skip
            table = pd.DataFrame(frame)
            log = pa.Table.from_pandas(table, preserve_index=False)
            lists = pa.ListArray.from_arrays(offsets, flat)
            append(lake, PREDICTIONS, log.append_column("features", lists))
            append(lake, TRANSACTIONS, log)
        known = pd.DataFrame({"transaction_id": np.concatenate(frauds), "is_fraud": 1}).assign(
            day=day + timedelta(days=1), available_at=pd.Timestamp(day + timedelta(days=1), tz="UTC")
        )
        append(lake, LABELS, pa.Table.from_pandas(known, preserve_index=False))
    # every chargeback file that may be asked for is there
    merged = pd.DataFrame({"day": [DAY - timedelta(days=back) for back in range(120)]})
    landed = merged.assign(**{name: 0 for name in LANDED_FILES.schema.names if name != "day"})
    landed = landed.assign(feed="labels", address="", path="", digest="a", arrived_at=datetime.now(UTC))
    append(lake, LANDED_FILES, pa.Table.from_pandas(landed, preserve_index=False))
    merged = merged.assign(digest="a", rows=0)
    append(lake, MERGED_LABELS, pa.Table.from_pandas(merged, preserve_index=False))


def append(lake: Any, table: Table, rows: pa.Table) -> None:
    lake.append(table, rows.select(table.schema.names))


def settings_of(folder: Path) -> Settings:
    return load_settings({"SLUICE_HOME": str(folder)}).model_copy(update={"drift_report": False})


def run_job(job: str, folder: Path) -> None:
    """Run one job of the day with the registry's answers in memory."""
    from importlib import import_module

    from jobs.promotion.state import VersionState

    module = import_module(f"jobs.monitoring.{MODULES[job]}")
    champion = VersionState(
        version="1", run_id="r", source="", tags={}, registered_at=datetime(2026, 1, 1, tzinfo=UTC)
    )
    kept = reference()
    vars(module)["read_champion"] = lambda _settings: champion
    vars(module)["load_reference"] = lambda _settings, _run: kept
    begin = time.perf_counter()
    receipt = module.run(DayParams(day=DAY), settings_of(folder))
    facts = {
        "seconds": time.perf_counter() - begin, "figures": receipt.rows, "status": receipt.facts["status"],
        "gigabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }  # fmt: skip
    print(json.dumps(facts))


def on_a_log(job: str, folder: Path, rows: int, days: int) -> dict[str, Any]:
    """Seconds and the peak of memory in GB of one job; the log is written where it is not there yet."""

    def process(*arguments: object) -> str:
        command = [
            sys.executable,
            "-W",
            "ignore",
            "-m",
            "tests.benchmarks.monitor_jobs",
            *map(str, arguments),
        ]
        return subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout

    if not folder.exists():
        process("write", folder, rows, days)
    found: dict[str, Any] = json.loads(process(job, folder).splitlines()[-1])
    return found


if __name__ == "__main__":
    if sys.argv[1] == "write":
        write(Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
    else:
        run_job(sys.argv[1], Path(sys.argv[2]))
