"""What features are measured on: the handbook's transactions, as they are and as our tables have them.

More rows are copies of the whole with other customers, terminals and transactions: every entity keeps its
history, there are only more of them. The chargeback of a fraud is known at the midnight seven days after it.
"""

from __future__ import annotations

from datetime import date
from pathlib import Path

import duckdb

from jobs.core import days_between
from tests.benchmarks.features_equal import one_row

ROOT = Path(__file__).parents[2]
HANDBOOK = ROOT.parent / "shared" / "data" / "handbook"
DELAY_DAYS = 7
TRANSACTIONS, LABELS = "transactions", "labels"

TRANSACTION_ROWS = """
SELECT TX_DATETIME::DATE AS day, TRANSACTION_ID::BIGINT + {copy} * transaction_ids AS transaction_id,
    TX_DATETIME::TIMESTAMPTZ AS event_time, CUSTOMER_ID::BIGINT + {copy} * customer_ids AS customer_id,
    TERMINAL_ID::BIGINT + {copy} * terminal_ids AS terminal_id,
    round(TX_AMOUNT * 100)::BIGINT AS amount_minor, (TX_DATETIME::DATE + 1)::TIMESTAMPTZ AS available_at,
    TX_DATETIME::DATE AS file_day
FROM '{source}/*.parquet', ids
"""
LABEL_ROWS = """
SELECT TX_DATETIME::DATE + {delay} AS day,
    TRANSACTION_ID::BIGINT + {copy} * transaction_ids AS transaction_id,
    (TX_DATETIME::DATE + {delay})::TIMESTAMPTZ AS available_at, 1::TINYINT AS is_fraud
FROM '{source}/*.parquet', ids WHERE TX_FRAUD = 1
"""
IDS = """
WITH ids AS (SELECT max(TRANSACTION_ID)::BIGINT + 1 AS transaction_ids,
    max(CUSTOMER_ID)::BIGINT + 1 AS customer_ids, max(TERMINAL_ID)::BIGINT + 1 AS terminal_ids
    FROM '{source}/*.parquet')
"""


def handbook_days(first: int = 0, count: int | None = None) -> list[Path]:
    """Files of the days that there are, ascending; none where the data set is absent."""
    files = sorted((HANDBOOK / "transactions").glob("*.parquet"))
    return files[first : None if count is None else first + count]


def lay_out(files: list[Path], folder: Path) -> Path:
    """A folder that holds just these files."""
    folder.mkdir(parents=True)
    for file in files:
        (folder / file.name).symlink_to(file)
    return folder


def with_hot_terminal(data: Path, folder: Path) -> Path:
    """The same tables, a fifth of all transactions at one terminal."""
    (folder / TRANSACTIONS).mkdir(parents=True)
    (folder / LABELS).symlink_to(data / LABELS)
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    connection.execute(
        "COPY (SELECT * REPLACE (CASE WHEN hash(transaction_id) % 5 = 0 THEN 0 ELSE terminal_id END AS "
        f"terminal_id) FROM '{data / TRANSACTIONS}/*.parquet') TO '{folder / TRANSACTIONS / 'all.parquet'}'"
    )
    return folder


def write_tables(source: Path, folder: Path, copies: int = 1) -> Path:
    """Both tables in our columns, one Parquet file for each copy."""
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    for name, rows in ((TRANSACTIONS, TRANSACTION_ROWS), (LABELS, LABEL_ROWS)):
        (folder / name).mkdir(parents=True)
        for copy in range(copies):
            query = (IDS + rows).format(source=source, copy=copy, delay=DELAY_DAYS)
            connection.execute(
                f"COPY ({query} ORDER BY day, transaction_id) TO '{folder / name / f'{copy:02}.parquet'}'"
            )
    return folder


def rows_of(folder: Path) -> int:
    """Rows of a folder of Parquet files."""
    return int(one_row(f"SELECT count(*) FROM '{folder}/*.parquet'")[0])


def day_span(folder: Path) -> list[date]:
    """All days from the first to the last of a table."""
    first, last = one_row(f"SELECT min(day), max(day) FROM '{folder / TRANSACTIONS}/*.parquet'")
    return days_between(first, last)
