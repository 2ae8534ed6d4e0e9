"""Every table of the lake, declared once: columns, partition, key, and who writes it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import date
from typing import Literal

import pyarrow as pa

from jobs.conf.contract import Column, Contract

TIMESTAMP = pa.timestamp("us", tz="UTC")
# how a column of each of the contract's types is stored
STORED_TYPES: dict[str, pa.DataType] = {
    "integer": pa.int64(), "money": pa.int64(), "decimal": pa.float64(), "timestamp": TIMESTAMP,
    "text": pa.string(),
}  # fmt: skip


@dataclass(frozen=True)
class Table:
    """A Delta table. `partition` is replaced as a whole by each write."""

    name: str
    description: str
    schema: pa.Schema
    key: tuple[str, ...]
    partition: str = "day"
    writer: Literal["delta-rs", "spark"] = "delta-rs"
    optional: tuple[str, ...] = ()  # columns that an older table may lack: a write adds them, null so far
    derived: bool = False  # built from other tables: what is no longer declared stays, null from now on


def _schema(**columns: pa.DataType) -> pa.Schema:
    return pa.schema(list(columns.items()))


LANDED_FILES = Table(
    "landed_files",
    "what was landed: one row per landed version, the highest sequence is what counts; the object lies "
    "unchanged under raw/, path starts there; arrived_at is when the source's object was last modified",
    _schema(day=pa.date32(), feed=pa.string(), sequence=pa.int64(), address=pa.string(),
            path=pa.string(), digest=pa.string(), size_bytes=pa.int64(), rows=pa.int64(),
            arrived_at=TIMESTAMP),
    key=("feed", "day", "sequence"),
)  # fmt: skip

TRANSACTIONS = Table(
    "transactions",
    "published transactions, money in integer minor units; the contract may add optional columns; "
    "day is the event's, file_day that of the file with the row, available_at when it could be known",
    _schema(day=pa.date32(), transaction_id=pa.int64(), event_time=TIMESTAMP, customer_id=pa.int64(),
            terminal_id=pa.int64(), amount_minor=pa.int64(), available_at=TIMESTAMP, file_day=pa.date32()),
    key=("transaction_id",),
)  # fmt: skip

RULE_SEPARATOR = "; "  # between the rules that a quarantined row broke

QUARANTINE = Table(
    "quarantine",
    "rows of both feeds that broke a row-level rule, as they came: one row each, with all rules it broke; "
    "part is feed.day, digest that of the landed file, run the validation's name",
    _schema(part=pa.string(), day=pa.date32(), feed=pa.string(), row_number=pa.int64(), rule=pa.string(),
            row=pa.string(), digest=pa.string(), run=pa.string()),
    key=("feed", "day", "row_number"),
    partition="part",
)  # fmt: skip

QUARANTINE_RELEASES = Table(
    "quarantine_releases",
    "quarantined rows that a person has vouched for: good at the next validation of this very landed file",
    _schema(part=pa.string(), day=pa.date32(), feed=pa.string(), row_number=pa.int64(), digest=pa.string(),
            person=pa.string(), reason=pa.string()),
    key=("feed", "day", "digest", "row_number"),
    partition="part",
)  # fmt: skip

LABELS = Table(
    "labels",
    "chargebacks by the day on which they became known (the partition); is_fraud 0 corrects an earlier 1, "
    "a transaction that nobody disputed has no row",
    _schema(day=pa.date32(), transaction_id=pa.int64(), available_at=TIMESTAMP, is_fraud=pa.int8()),
    key=("transaction_id",),
)  # fmt: skip

# a day without chargebacks has no row in labels: this one tells it from a day that is missing
MERGED_LABELS = Table(
    "merged_labels",
    "which landed chargeback file each day of labels was made from, also where it named no transaction",
    _schema(day=pa.date32(), digest=pa.string(), rows=pa.int64()),
    key=("day",),
)  # fmt: skip

PREDICTIONS = Table(
    "predictions",
    "prediction log: one row per answer and one per shadow score; day is the event's day; features are the "
    "model's in the order in which feature_version declares them, a gap is null, as is the list of an answer "
    "without features; would_be is the decision that a holdout row would have had",
    _schema(day=pa.date32(), request_id=pa.string(), transaction_id=pa.int64(), event_time=TIMESTAMP,
            customer_id=pa.int64(), terminal_id=pa.int64(), amount_minor=pa.int64(),
            model_version=pa.string(), variant=pa.string(), step=pa.string(), score=pa.float64(),
            decision=pa.string(), rule=pa.string(), error=pa.string(), latency_ms=pa.float64(),
            served_at=TIMESTAMP, feature_version=pa.string(), would_be=pa.string(),
            features=pa.list_(pa.field("element", pa.float64()))),
    key=("request_id", "variant"),
)  # fmt: skip

SCORES = Table(
    "scores",
    "batch scores of a day by one model version",
    _schema(day=pa.date32(), transaction_id=pa.int64(), model_version=pa.string(), score=pa.float64(),
            decision=pa.string()),
    key=("transaction_id",),
)  # fmt: skip

MONITORING = Table(
    "monitoring",
    "one row per figure of a monitored day; each job that measures replaces its part of the day",
    _schema(part=pa.string(), day=pa.date32(), metric=pa.string(), subject=pa.string(), value=pa.float64(),
            threshold=pa.float64(), status=pa.string(), detail=pa.string()),
    key=("day", "metric", "subject"),
    partition="part",
)  # fmt: skip

HOURLY_MONITORING = Table(
    "hourly_monitoring",
    "one row per figure of a monitored hour, such as 2026-03-10T14; people are told of it, and nothing is "
    "decided by it",
    _schema(hour=pa.string(), day=pa.date32(), metric=pa.string(), subject=pa.string(), value=pa.float64(),
            threshold=pa.float64(), status=pa.string(), detail=pa.string()),
    key=("hour", "metric", "subject"),
    partition="hour",
)  # fmt: skip

REACTIONS = Table(
    "reactions",
    "the monitor's decision of a day with its reason and evidence",
    _schema(day=pa.date32(), decision=pa.string(), reason=pa.string(), model_version=pa.string(),
            evidence=pa.string()),
    key=("day",),
)  # fmt: skip

PROMOTIONS = Table(
    "promotion_steps",
    "verdict of each step of each promotion, with the requests it was decided on",
    _schema(promotion=pa.string(), model_version=pa.string(), step=pa.string(), outcome=pa.string(),
            reason=pa.string(), champion_requests=pa.int64(), challenger_requests=pa.int64(),
            started_at=TIMESTAMP, decided_at=TIMESTAMP, evidence=pa.string()),
    key=("promotion", "step"),
    partition="promotion",
)  # fmt: skip

EXPERIMENT_READOUTS = Table(
    "experiment_readouts",
    "looks at experiments: one row per metric and one for the split (sample_ratio); part is experiment.day, "
    "effect is treatment minus control with the interval of this look, plan and verdict are the look's",
    _schema(part=pa.string(), experiment=pa.string(), day=pa.date32(), look=pa.int64(), metric=pa.string(),
            control=pa.float64(), treatment=pa.float64(), effect=pa.float64(), low=pa.float64(),
            high=pa.float64(), z_score=pa.float64(), p_value=pa.float64(), sequential_p_value=pa.float64(),
            adjusted_p_value=pa.float64(), conclusion=pa.string(), control_customers=pa.int64(),
            treatment_customers=pa.int64(), transactions=pa.int64(), time=pa.float64(), plan=pa.string(),
            verdict=pa.string(), reason=pa.string()),
    key=("experiment", "day", "metric"),
    partition="part",
)  # fmt: skip

EXPERIMENT_SIZES = Table(
    "experiment_sizes",
    "customers that an experiment needs to find a relative change of each metric, from a window of answers",
    _schema(day=pa.date32(), metric=pa.string(), base=pa.float64(), deviation=pa.float64(),
            change=pa.float64(), percent=pa.int64(), control_customers=pa.int64(),
            treatment_customers=pa.int64(), seen_customers=pa.int64(), note=pa.string()),
    key=("day", "metric"),
)  # fmt: skip

PINS = Table(
    "pins",
    "table versions that something still needs, by the name of what needs them: cleaning keeps these",
    _schema(name=pa.string(), table=pa.string(), version=pa.int64()),
    key=("name", "table"),
    partition="name",
)  # fmt: skip

BACKFILLS = Table(
    "backfills",
    "who rewrote which days, when and why: one row for each step of each backfill, the last is its state; "
    "earliest is the first day that late rows of these files reach back to; versions and evidence are JSON",
    _schema(name=pa.string(), step=pa.int64(), state=pa.string(), dag=pa.string(), first=pa.date32(),
            last=pa.date32(), earliest=pa.date32(), person=pa.string(), at=TIMESTAMP, reason=pa.string(),
            code_commit=pa.string(), versions_before=pa.string(), versions_after=pa.string(),
            report=pa.string(), evidence=pa.string()),
    key=("name", "step"),
    partition="name",
)  # fmt: skip


def stored_type(column: Column) -> pa.DataType:
    """How a column of the contract is stored."""
    return STORED_TYPES[column.type]


def transactions_table(contract: Contract) -> Table:
    """The table `transactions` as one contract has it: the columns that every reader knows, and its own."""
    own = contract.transactions.optional_columns
    fields = [pa.field(name, stored_type(column)) for name, column in own.items()]
    return replace(TRANSACTIONS, schema=pa.schema([*TRANSACTIONS.schema, *fields]), optional=tuple(own))


def feed_part(feed: str, day: date) -> str:
    """The partition of a feed's day in the tables that both feeds share."""
    return f"{feed}.{day}"
