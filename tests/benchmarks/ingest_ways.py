"""The three ways from a day's file to published rows: ours, DuckDB's, and pandas' of a notebook.

Each runs in a process of its own, which has done its imports before the clock starts. All read the same file,
apply the same rules, and must come to the same counts and as many published rows.
"""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from jobs.registry import load_job
from tests.benchmarks.ingest_data import DAY, settings_in

ROOT = Path(__file__).parents[2]
JOBS = ("land_transactions", "validate_transactions", "quarantine_transactions", "publish_transactions")
RULES = ("missing", "unreadable", "bounds", "outside", "duplicate")


def run_way(way: str, home: Path) -> dict[str, Any]:
    """Seconds, memory, counts by rule, published rows."""
    start = time.perf_counter()
    command = [sys.executable, "-W", "ignore", "-m", "tests.benchmarks.ingest_ways", way, str(home)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    wall = time.perf_counter() - start
    assert done.returncode == 0, done.stderr[-2000:]
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return {**result, "start": wall - float(result["seconds"])}


def timed(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    start, cpu = time.perf_counter(), time.process_time()
    result = work()
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "seconds": time.perf_counter() - start,
        "cpu": time.process_time() - cpu,
        "peak_mb": usage.ru_maxrss / 1024,
        **result,
    }


def ours(home: Path, target: Path) -> dict[str, Any]:
    """The four jobs."""
    jobs = {name: load_job(name) for name in JOBS}
    settings = settings_in(target / "home", home / "day")
    shutil.copytree(home / "history" / "lake", settings.lake)

    def work() -> dict[str, Any]:
        receipts = {
            name: job.run(job.Params.model_validate({"day": DAY}), settings) for name, job in jobs.items()
        }
        by_rule = receipts["validate_transactions"].facts["broken_by_rule"]
        counts = dict.fromkeys(RULES, 0)
        for rule, count in by_rule.items():
            kind = rule.rpartition(": ")[2] or rule
            counts[{"not money": "unreadable", "outside the day": "outside"}.get(kind, kind)] += count
        return {"counts": counts, "published": receipts["publish_transactions"].rows}

    return timed(work)


def by_duckdb(home: Path, target: Path) -> dict[str, Any]:
    """Read, check the same rules in SQL, write Parquet."""
    import duckdb

    source, history = home / "day" / f"{DAY}.csv", home / "history" / "lake" / "transactions"

    def work() -> dict[str, Any]:
        connection = duckdb.connect()
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute(DUCKDB_ROWS.format(source=source, day=DAY))
        found = connection.execute(DUCKDB_COUNTS).fetchone()
        assert found is not None
        connection.execute(DUCKDB_PSI.format(history=history))
        connection.execute(
            f"COPY (SELECT id, moment, customer, terminal, minor FROM rows WHERE {DUCKDB_GOOD}) "
            f"TO '{target}/published.parquet' (FORMAT parquet)"
        )
        written = connection.execute(f"SELECT count(*) FROM '{target}/published.parquet'").fetchone()
        assert written is not None
        return {"counts": dict(zip(RULES, found, strict=True)), "published": written[0]}

    return timed(work)


DUCKDB_ROWS = """
CREATE TEMP TABLE rows AS
SELECT *, CASE WHEN id IS NULL THEN 1 ELSE
    row_number() OVER (PARTITION BY id ORDER BY (moment IS NULL OR customer IS NULL OR terminal IS NULL
                                                 OR minor IS NULL), number) END AS copy
FROM (
    SELECT row_number() OVER () AS number, *,
        CASE WHEN regexp_full_match(transaction_id, '\\s*[+-]?[0-9]{{1,18}}\\s*')
             THEN try_cast(transaction_id AS BIGINT) END AS id,
        try_cast(event_time AS TIMESTAMPTZ) AS moment,
        CASE WHEN regexp_full_match(customer_id, '\\s*[+-]?[0-9]{{1,18}}\\s*')
             THEN try_cast(customer_id AS BIGINT) END AS customer,
        CASE WHEN regexp_full_match(terminal_id, '\\s*[+-]?[0-9]{{1,18}}\\s*')
             THEN try_cast(terminal_id AS BIGINT) END AS terminal,
        CASE WHEN regexp_full_match(amount, '\\s*[+-]?[0-9]{{1,13}}(\\.[0-9]{{0,2}}0*)?\\s*')
             THEN CAST(try_cast(amount AS DECIMAL(18, 2)) * 100 AS BIGINT) END AS minor,
        TIMESTAMPTZ '{day} 00:00:00+00' AS midnight
    FROM read_csv('{source}', header = true, all_varchar = true)
)
"""
DUCKDB_MISSING = " + ".join(
    f"({name} IS NULL OR trim({name}) = '')::INT"
    for name in ("transaction_id", "event_time", "customer_id", "terminal_id", "amount")
)
DUCKDB_UNREADABLE = " + ".join(
    f"(trim({text}) <> '' AND {value} IS NULL)::INT"
    for text, value in (("transaction_id", "id"), ("event_time", "moment"), ("customer_id", "customer"),
                        ("terminal_id", "terminal"), ("amount", "minor"))
)  # fmt: skip
DUCKDB_BOUNDS = (
    "coalesce((id < 1)::INT, 0) + coalesce((customer < 1)::INT, 0) + coalesce((terminal < 1)::INT, 0) "
    "+ coalesce((minor < 1 OR minor > 2000000)::INT, 0)"
)
DUCKDB_OUTSIDE = (
    "coalesce((moment < midnight - INTERVAL 3 DAY OR moment >= midnight + INTERVAL 1 DAY)::INT, 0)"
)
DUCKDB_GOOD = (
    f"{DUCKDB_MISSING} = 0 AND {DUCKDB_UNREADABLE} = 0 AND {DUCKDB_BOUNDS} = 0 AND {DUCKDB_OUTSIDE} = 0 "
    "AND copy = 1"
)
DUCKDB_COUNTS = f"""
SELECT sum({DUCKDB_MISSING})::BIGINT, sum({DUCKDB_UNREADABLE})::BIGINT, sum({DUCKDB_BOUNDS})::BIGINT,
       sum({DUCKDB_OUTSIDE})::BIGINT, sum((copy > 1)::INT)::BIGINT
FROM rows
"""
DUCKDB_PSI = """
WITH reference AS (SELECT amount_minor FROM '{history}/day=*/*.parquet'),
edges AS (SELECT quantile_cont(amount_minor, [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]) AS e
          FROM reference),
a AS (SELECT len(list_filter(e, lambda x: x < amount_minor)) AS bin, count(*) AS n
      FROM reference, edges GROUP BY 1),
b AS (SELECT len(list_filter(e, lambda x: x < minor)) AS bin, count(*) AS n FROM (SELECT minor FROM rows
      WHERE minor IS NOT NULL AND number % 5 = 0), edges GROUP BY 1)
SELECT sum((a.n / (SELECT sum(n) FROM a) - b.n / (SELECT sum(n) FROM b))
           * ln((a.n / (SELECT sum(n) FROM a)) / (b.n / (SELECT sum(n) FROM b)))),
       (SELECT max(moment) FROM rows)
FROM a JOIN b USING (bin)
"""


def by_pandas(home: Path, target: Path) -> dict[str, Any]:
    """The same in the plain way of a notebook."""
    source = home / "day" / f"{DAY}.csv"
    history = home / "history" / "lake" / "transactions"

    def work() -> dict[str, Any]:
        text = pd.read_csv(source, dtype=str)
        midnight = pd.Timestamp(DAY, tz="UTC")
        values = pd.DataFrame(
            {
                name: pd.to_numeric(text[name], errors="coerce")
                for name in ("transaction_id", "customer_id", "terminal_id")
            }
        )
        values["event_time"] = pd.to_datetime(text["event_time"], format="ISO8601", utc=True, errors="coerce")
        values["minor"] = (pd.to_numeric(text["amount"], errors="coerce") * 100).round()
        texts = text.rename(columns={"amount": "minor"})[values.columns]
        missing, unreadable = texts.isna(), texts.notna() & values.isna()
        small = values[["transaction_id", "customer_id", "terminal_id", "minor"]] < 1
        bounds = small.assign(minor=small["minor"] | (values["minor"] > 2_000_000))
        outside = (values["event_time"] < midnight - pd.Timedelta(days=3)) | (
            values["event_time"] >= midnight + pd.Timedelta(days=1)
        )
        order = values.assign(bad=values.isna().any(axis=1)).sort_values("bad", kind="stable")
        copies = order["transaction_id"].duplicated() & order["transaction_id"].notna()
        copies = copies.reindex(values.index)
        reference = pd.read_parquet(history, columns=["amount_minor"])["amount_minor"]
        edges = reference.quantile(np.arange(0.1, 1.0, 0.1)).to_numpy()
        expected, actual = (
            np.bincount(np.searchsorted(edges, each), minlength=10) / len(each)
            for each in (reference, values["minor"].dropna()[::5])
        )
        np.sum((actual - expected) * np.log(actual / expected))
        values["event_time"].max()
        bad = missing.any(axis=1) | unreadable.any(axis=1) | bounds.any(axis=1) | outside | copies
        values[~bad].to_parquet(target / "published.parquet")
        found = (missing, unreadable, bounds, outside, copies)
        counts = {name: int(np.asarray(mask).sum()) for name, mask in zip(RULES, found, strict=True)}
        return {"counts": counts, "published": int((~bad).sum())}

    return timed(work)


def main(way: str, home: Path) -> None:
    """One measured run; prints its result as JSON."""
    with tempfile.TemporaryDirectory(dir=home) as folder:
        ways = {"ours": ours, "duckdb": by_duckdb, "pandas": by_pandas}
        print(json.dumps(ways[way](home, Path(folder))))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
