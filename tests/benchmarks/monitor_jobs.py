"""The jobs that measure a day, from a prediction log and a registry to the table; and Evidently alone.

Each runs in a process of its own: wall time is that of the whole process, its imports included, and memory
the largest that it and all below it hold at one moment. Log and registry are written first, by another
process. Evidently makes the same rows in memory and reads no log; making them is not counted.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa

from jobs.conf.contract import contract_of
from jobs.conf.settings import Settings, load_settings
from jobs.core import DayParams
from jobs.features.declarations import FEATURE_VERSION, MODEL_FEATURES
from jobs.lake.store import Lake, lake_of
from jobs.lake.tables import LABELS, LANDED_FILES, MERGED_LABELS, PREDICTIONS, TRANSACTIONS, Table
from jobs.promotion.state import read_version
from tests.served_bundles import register, registry_in

ROOT = Path(__file__).parents[2]
DAY, REFERENCE = date(2026, 3, 10), 20_000
MODULES = {"measure_drift": "drift", "measure_service": "service", "measure_performance": "performance"}
BATCH = 100_000
LOOK_SECONDS = 0.05
FRAUDS = 0.005
PLACES = {name: place for place, name in enumerate(MODEL_FEATURES)}


class Cost(NamedTuple):
    """What a process took."""

    seconds: float
    processor_seconds: float
    gigabytes: float


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


def frame_of(count: int, generator: np.random.Generator) -> pd.DataFrame:
    """Rows with features, as a version's reference keeps them."""
    fraud, score = scored(count, generator)
    values = matrix(count, generator).astype(np.float32)
    return pd.DataFrame(values, columns=list(MODEL_FEATURES)).assign(
        score=score, is_fraud=fraud.astype(float), amount_minor=generator.integers(100, 90_000, count)
    )


def reference() -> pd.DataFrame:
    """Test rows of a version, of the 28 days before the log."""
    generator = np.random.default_rng(1)
    back = np.sort(generator.integers(60, 88, REFERENCE))[::-1]
    at = pd.Timestamp(DAY, tz="UTC") - pd.to_timedelta(back, unit="D")
    return frame_of(REFERENCE, generator).assign(event_time=at)


def register_champion(settings: Settings, folder: Path) -> None:
    """Version 1 with its reference, promoted."""
    (folder / "model").mkdir()
    (folder / "model" / "note.txt").write_text("no bundle is needed here")
    client, version = register(settings, folder / "model", {"sluice.promotion": "completed"})
    file = folder / "reference.parquet"
    reference().to_parquet(file)
    state = read_version(client, settings.model_name, version)
    assert state is not None
    client.log_artifact(state.run_id, str(file), "reference")
    client.set_registered_model_alias(settings.model_name, "champion", version)


def write(folder: Path, rows: int, days: int) -> None:
    """The log of so many days, the newest of which have matured where there are several, and its labels."""
    settings, generator = settings_of(folder), np.random.default_rng(2)
    register_champion(settings, folder)
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
    write_chargeback_files(lake)
    early = log.slice(0, 1)  # of a day by which every window was full in the reference
    for name in ("day", "file_day"):
        early = early.set_column(early.schema.get_field_index(name), name, pa.array([date(2025, 6, 1)]))
    append(lake, TRANSACTIONS, early)


def write_chargeback_files(lake: Lake) -> None:
    """Every chargeback file that may be asked for is there."""
    merged = pd.DataFrame({"day": [DAY - timedelta(days=back) for back in range(120)]})
    landed = merged.assign(**{name: 0 for name in LANDED_FILES.schema.names if name != "day"})
    landed = landed.assign(feed="labels", address="", path="", digest="a", arrived_at=datetime.now(UTC))
    append(lake, LANDED_FILES, pa.Table.from_pandas(landed, preserve_index=False))
    merged = merged.assign(digest="a", rows=0)
    append(lake, MERGED_LABELS, pa.Table.from_pandas(merged, preserve_index=False))


def append(lake: Lake, table: Table, rows: pa.Table) -> None:
    lake.append(table, rows.select(table.schema.names))


def settings_of(folder: Path) -> Settings:
    registry = registry_in(folder / "registry")
    return load_settings({"SLUICE_HOME": str(folder)}).model_copy(update={"mlflow_uri": registry})


def run_job(job: str, folder: Path) -> None:
    """Run one job of the day as it is."""
    receipt = import_module(f"jobs.monitoring.{MODULES[job]}").run(DayParams(day=DAY), settings_of(folder))
    assert receipt.facts["status"] in ("ok", "investigate"), receipt.facts


def run_evidently(rows: int) -> None:
    """The preset on all rows, with its tests, as one takes it from its documentation."""
    from evidently import Report
    from evidently.presets import DataDriftPreset

    columns, begin = [*MODEL_FEATURES, "score"], time.perf_counter()
    sides = [frame_of(rows, np.random.default_rng(2))[columns], reference()[columns]]
    print(json.dumps({"making": time.perf_counter() - begin}), flush=True)
    Report([DataDriftPreset()], include_tests=True).run(*sides).dict()


def proportional_kb(pid: int) -> int:
    """Memory of a process, of what it shares with others its part."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def measured(*arguments: object) -> Cost:
    """The cost of this module with such arguments, in a process of its own."""
    from tests.benchmarks.serving_load import family_of  # here, so that no measured process imports it

    command = [sys.executable, "-W", "ignore", "-m", "tests.benchmarks.monitor_jobs", *map(str, arguments)]
    begin = time.perf_counter()
    with tempfile.TemporaryFile("w+") as answer:
        child = subprocess.Popen(command, cwd=ROOT, stdout=answer)
        ended, peak = 0, 0
        while not ended:
            with suppress(FileNotFoundError, ProcessLookupError):  # one of them has just ended
                peak = max(peak, sum(map(proportional_kb, family_of(child.pid))))
            time.sleep(LOOK_SECONDS)
            ended, status, usage = os.wait4(child.pid, os.WNOHANG)
        seconds = time.perf_counter() - begin
        answer.seek(0)
        said = answer.read()
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise subprocess.CalledProcessError(child.returncode, command)
    assert peak, "no memory was seen"
    making = float(json.loads(said.splitlines()[-1])["making"]) if arguments[0] == "evidently" else 0.0
    return Cost(seconds - making, usage.ru_utime + usage.ru_stime, peak / 2**20)


def on_a_log(job: str, folder: Path, rows: int, days: int) -> Cost:
    """The cost of one job; the log is written where it is not there yet."""
    if not folder.exists():
        measured("write", folder, rows, days)
    return measured(job, folder)


def main(what: str, *arguments: str) -> None:
    if what == "write":
        write(Path(arguments[0]), int(arguments[1]), int(arguments[2]))
    elif what == "evidently":
        run_evidently(int(arguments[0]))
    else:
        run_job(what, Path(arguments[0]))


if __name__ == "__main__":
    main(*sys.argv[1:])
