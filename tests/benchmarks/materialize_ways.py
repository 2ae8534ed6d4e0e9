"""Two ways from a table of features to an online store: ours, and Feast's own local engine and stores.

Each runs in a process of its own, which has imported Feast and applied its definitions before the clock
starts. Both take the same rows, ours from Delta and Feast's own from Parquet, and must give the same back.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import write_deltalake

from jobs.core import midnight

ROOT = Path(__file__).parents[2]
DAY = datetime(2026, 2, 28, tzinfo=UTC).date()
END = midnight(DAY + timedelta(days=1))
FEATURES = 8
NAMES = [f"feature_{place}" for place in range(FEATURES)]
READ_BACK = 2000  # entities
NULLS = 0.02


def write_tables(home: Path, rows: int) -> None:
    """The same rows of a day as Delta and as Parquet, keys in no order."""
    home.mkdir(parents=True)
    random = np.random.default_rng(11)
    columns: dict[str, Any] = {
        "day": pa.array([DAY] * rows, pa.date32()),
        "customer_id": random.permutation(rows) + 1,
        "as_of": pa.array([int(END.timestamp() * 1e6)] * rows, pa.int64()).cast(pa.timestamp("us", "UTC")),
    }
    for name in NAMES:
        columns[name] = pa.array(random.lognormal(3, 1, rows), mask=random.random(rows) < NULLS)
    table = pa.table(columns)
    write_deltalake(str(home / "delta"), table, partition_by=["day"])
    pq.write_table(table.drop_columns("day"), home / "rows.parquet")


def run_way(way: str, store: str, home: Path, address: str = "") -> dict[str, Any]:
    """Seconds, memory, and a digest of what is read back."""
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "tests.benchmarks.materialize_ways",
        way,
        store,
        str(home),
    ]
    done = subprocess.run(
        command, cwd=ROOT, input=address, capture_output=True, text=True, check=False
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def configuration(way: str, store: str, home: Path, target: Path, address: str) -> Any:
    """Feast's configuration and the view, each in its own way."""
    from feast import Entity, FeatureView, Field, FileSource, RepoConfig, ValueType
    from feast.data_format import DeltaFormat, ParquetFormat
    from feast.types import Float64, Int64

    own = way == "feast"
    place = {"path": str(target / "online.db")} if store == "sqlite" else {"connection_string": address}
    kinds = {
        "sqlite": "jobs.features.sqlite_online.NewestSqliteOnlineStore",
        "redis": "jobs.features.redis_online.NewestRedisOnlineStore",
    }
    config = RepoConfig(
        project="bench",
        provider="local",
        registry=str(target / "registry.db"),
        offline_store={"type": "duckdb" if own else "jobs.features.delta_offline.DeltaDuckDBOfflineStore"},
        online_store={"type": store if own else kinds[store], **place},
        batch_engine={"type": "local" if own else "jobs.features.engine.ArrowComputeEngine"},
        entity_key_serialization_version=3,
    )
    view = FeatureView(
        name="history",
        entities=[Entity(name="customer", join_keys=["customer_id"], value_type=ValueType.INT64)],
        ttl=timedelta(days=2),
        schema=[Field(name="customer_id", dtype=Int64), *(Field(name=name, dtype=Float64) for name in NAMES)],
        source=FileSource(
            name="rows",
            path=str(home / ("rows.parquet" if own else "delta")),
            file_format=ParquetFormat() if own else DeltaFormat(),
            timestamp_field="as_of",
        ),
    )
    return config, view


def read_back(store: Any, rows: int) -> str:
    """Digest of a spread of the entities, by Feast's own call."""
    keys = np.linspace(1, rows, min(READ_BACK, rows)).astype(int).tolist()
    answer = store.get_online_features(
        features=[f"history:{name}" for name in NAMES], entity_rows=[{"customer_id": key} for key in keys]
    ).to_dict()
    values = np.array([answer[name] for name in NAMES], dtype=float)  # a null becomes NaN
    assert NULLS / 2 < np.isnan(values).mean() < NULLS * 2
    return hashlib.sha256(values.tobytes()).hexdigest()


def peak_mb() -> float:
    """The most memory that this process had; ru_maxrss would begin with what the process before exec had."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def timed(way: str, store: str, home: Path, address: str) -> dict[str, Any]:
    from feast import Entity, FeatureStore, ValueType

    with tempfile.TemporaryDirectory(dir=home) as folder:
        config, view = configuration(way, store, home, Path(folder), address)
        entity = Entity(name="customer", join_keys=["customer_id"], value_type=ValueType.INT64)
        feast = FeatureStore(config=config)
        feast.apply([entity, view])
        feast._get_provider().batch_engine  # noqa: B018 - imported before the clock starts
        at_start = peak_mb()
        start, cpu = time.perf_counter(), time.process_time()
        feast.materialize(END - timedelta(seconds=1), END, feature_views=["history"])
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
        rows = pq.read_metadata(home / "rows.parquet").num_rows
        return {
            "seconds": seconds, "cpu": cpu, "rate": rows / seconds,
            "start_mb": at_start, "peak_mb": peak_mb(),
            "digest": read_back(feast, rows),
        }  # fmt: skip


if __name__ == "__main__":
    # the address of Redis holds its password: not in the command line, which every user sees
    found = timed(sys.argv[1], sys.argv[2], Path(sys.argv[3]), sys.stdin.read())
    sys.stdout.write(f"\n{json.dumps(found)}\n")
