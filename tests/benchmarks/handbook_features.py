"""What the handbook's models are measured on: its 14 features and our own, both computed by our Spark jobs.

In: the handbook's files of days. Out: one Parquet file each under `.bench/cache`, a row for each transaction
in the order of TRANSACTION_ID; it is named after the version of what computed it, and computed once.
Our own are those that serving would have seen: transactions and chargebacks are put into a lake of their own,
`build_features` builds every day, and the training's own point-in-time join brings them to the transactions.
A fraud becomes known seven days after it, at midnight.
"""

from __future__ import annotations

import hashlib
import inspect
import tempfile
from collections.abc import Callable
from datetime import date, timedelta
from itertools import groupby
from pathlib import Path

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import write_deltalake

from jobs.conf.settings import Settings, load_settings
from jobs.features import build, published, sums
from jobs.features.declarations import FEATURE_VERSION, MODEL_FEATURES
from jobs.features.history import historical_features
from jobs.lake.store import conform, lake_of
from jobs.lake.tables import LABELS, TRANSACTIONS
from jobs.spark import spark_session
from tests.benchmarks.features_data import HANDBOOK, handbook_days, write_tables
from tests.benchmarks.features_process import spark_server

CACHE = Path(__file__).parents[2] / ".bench" / "cache"
FIRST = date(2018, 5, 8)  # the first day whose windows are full: thirty days after seven of delay
EVENTS = """
SELECT transaction_id, event_time, customer_id, terminal_id, amount_minor
FROM '{folder}/transactions/*.parquet' WHERE day BETWEEN '{first}' AND '{last}' ORDER BY transaction_id
"""


def raw_transactions() -> pd.DataFrame:
    """All transactions in the order of their id; `day` is that of TX_DATETIME."""
    rows = pd.concat([pd.read_parquet(file) for file in handbook_days()], ignore_index=True)
    rows["day"] = rows["TX_DATETIME"].dt.normalize()
    return rows.sort_values("TRANSACTION_ID", ignore_index=True)


def published_frame(delay: timedelta = published.DELAY) -> pd.DataFrame:
    """TRANSACTION_ID and the 14 published features of all transactions; with a shorter delay they leak."""
    code = "".join(inspect.getsource(module) for module in (published, sums))
    version = hashlib.sha256(code.encode()).hexdigest()[:12]
    name = f"handbook_published_{version}_{int(delay.total_seconds())}s.parquet"

    def compute(folder: Path, file: Path) -> None:
        with spark_server(folder / "spark") as server:
            session = spark_session(_settings(folder, server.remote))
            rows = session.read.parquet(str(HANDBOOK / "transactions"))
            found = published.published_features(rows, delay).toArrow()
        pq.write_table(found.sort_by("TRANSACTION_ID"), file)

    return pd.read_parquet(_cached(name, compute))


def own_frame() -> pd.DataFrame:
    """TRANSACTION_ID and MODEL_FEATURES of the transactions from FIRST on."""
    return pd.read_parquet(_cached(f"handbook_own_{FEATURE_VERSION}.parquet", _compute_own))


def _cached(name: str, compute: Callable[[Path, Path], None]) -> Path:
    file = CACHE / name
    if not file.exists():
        print(f"computing {name}, once")
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="bench_handbook") as folder:
            part = file.with_suffix(".part")
            compute(Path(folder), part)
            part.rename(file)
    return file


def _compute_own(folder: Path, file: Path) -> None:
    tables = write_tables(HANDBOOK / "transactions", folder / "tables")
    days = [date.fromisoformat(day.stem) for day in handbook_days()]
    with spark_server(folder / "spark") as server:
        settings = _settings(folder, server.remote)
        for table in (TRANSACTIONS, LABELS):
            rows = pq.read_table(tables / table.name)
            write_deltalake(lake_of(settings).made(table), conform(table, rows), mode="append")
        build.run(build.Params(day=days[0], last=days[-1]), settings)
        writer = None
        for first, last in _months(days):
            found = _own_features(tables, first, last, settings)
            writer = writer or pq.ParquetWriter(file, found.schema)
            writer.write_table(found)
        assert writer is not None
        writer.close()


def _own_features(tables: Path, first: date, last: date, settings: Settings) -> pa.Table:
    events = duckdb.connect().execute("SET TimeZone = 'UTC'").execute(
        EVENTS.format(folder=tables, first=first, last=last)
    ).df()  # fmt: skip
    found = historical_features(events, settings)
    features = found[list(MODEL_FEATURES)].astype("float32")
    return pa.Table.from_pandas(
        pd.concat([found["transaction_id"].rename("TRANSACTION_ID"), features], axis=1), preserve_index=False
    )


def _months(days: list[date]) -> list[tuple[date, date]]:
    """First and last day of each month from FIRST on."""
    wanted = [day for day in days if day >= FIRST]
    parts = [list(part) for _, part in groupby(wanted, key=lambda day: day.month)]
    return [(part[0], part[-1]) for part in parts]


def _settings(home: Path, remote: str) -> Settings:
    return load_settings(
        {"SLUICE_HOME": str(home), "SLUICE_CONTRACT": "handbook", "SLUICE_SPARK_REMOTE": remote}
    )
