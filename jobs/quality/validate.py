"""Validating one landed file of either feed: what both validation jobs share.

In: a landed raw object. Out: `Validation` and the parsed rows in `work/`, a Data Docs page, alerts.
Parsed rows: row_number, the feed's columns typed (int64, int64 minor units, UTC microseconds; null where
unreadable), `rule` ("" for a good row, else all rules it broke) and `row` (a broken row as it came, JSON).
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from jobs.alerts import Alert, raise_alerts
from jobs.conf.contract import contract_of
from jobs.conf.policy import Quality
from jobs.conf.settings import Settings
from jobs.core import GateClosed, Outcome, Receipt, Stopwatch
from jobs.ingest.landing import Landed, newest, read_landed
from jobs.ingest.releases import released_rows, without_released
from jobs.lake.store import lake_of
from jobs.lake.tables import RULE_SEPARATOR, stored_type
from jobs.quality.checkpoint import run_suite, shown
from jobs.quality.feeds import Feed
from jobs.quality.gate import (
    Validation,
    broken_rows,
    judge,
    write_evidence,
)
from jobs.quality.parse import ROW, in_source_unit, parse, read_text
from jobs.quality.suites import Rule

RUN_DIGITS = 16


def validate_landed(
    settings: Settings,
    feed: Feed,
    day: date,
    quality: Quality,
    rules: tuple[Rule, ...],
    *,
    parameters: dict[str, Any],
    extend: Callable[[pd.DataFrame], pd.DataFrame] = lambda frame: frame,
    may_be_empty: bool = False,
) -> Receipt:
    """Read, check, write the evidence; `extend` adds columns that a rule needs.

    Raises:
        GateClosed: the file does not pass; its evidence is written by then.
    """
    watch = Stopwatch()
    landed = newest(settings, feed.name, day)
    where = f"{feed.name} of {day} ({landed.address})"
    frame = extend(parse(read_text(read_landed(settings, landed), feed.format, where), feed, day, where))
    checked = checked_frame(frame, feed)
    run = run_suite(settings, feed.name, day, landed.run_name, rules, checked, parameters)
    released = released_rows(lake_of(settings), feed.name, day, landed.digest)
    broken = without_released(broken_rows(run, rules), released)
    verdict, score, alerts = judge(run, rules, len(frame), quality, may_be_empty=may_be_empty)
    validation = write_evidence(
        settings,
        Validation(
            day=day,
            feed=feed.name,
            landed_digest=landed.digest,
            rows=len(frame),
            good_rows=len(frame) - len(broken),
            broken_by_rule=_counts(broken),
            quality_score=score,
            verdict=verdict,
            alerts=tuple(alerts.values()),
            page=run.page,
            parsed_digest="",
        ),
        parsed_table(frame, feed, broken),
    )
    raise_alerts(settings, quality_alerts(settings, validation, alerts))
    if verdict.outcome is not Outcome.PASS:
        raise GateClosed(verdict, f"{where}; evidence: {settings.reports / run.page}")
    return _receipt(validation, landed, watch)


def quality_alerts(settings: Settings, validation: Validation, found: dict[str, str]) -> list[Alert]:
    """The alerts of a day's feed; `found` is rule -> sentence."""
    return [
        Alert(
            key=f"{validation.day}/{validation.feed}/{rule}",
            cause=f"{validation.feed} of {validation.day}: {sentence}",
            owner=contract_of(settings).owner,
            action="ask the sender whether the file is whole; land and validate the day again if it is not",
            facts={"rows": validation.rows, "good_rows": validation.good_rows, "report": validation.page},
        )
        for rule, sentence in found.items()
    ]


def checked_frame(frame: pd.DataFrame, feed: Feed) -> pd.DataFrame:
    """What the suite sees: numbers in the units of the contract's bounds."""
    view = shown(frame)
    for name, column in feed.columns.items():
        if column.type not in ("timestamp", "text"):
            view[f"{name}_value"] = in_source_unit(frame[f"{name}_value"], column).astype("float64")
    return view


def parsed_table(frame: pd.DataFrame, feed: Feed, broken: dict[int, list[str]]) -> pa.Table:
    """The rows for the jobs that follow."""
    rules = [RULE_SEPARATOR.join(broken.get(number, ())) for number in frame.index]
    columns: dict[str, Any] = {"row_number": pa.array(np.asarray(frame.index, dtype=np.int64))}
    for name, column in feed.columns.items():
        columns[name] = pa.Array.from_pandas(frame[f"{name}_value"], type=stored_type(column))
    columns["rule"] = pa.array(rules, type=pa.string())
    rows = [row if rule else None for row, rule in zip(frame[ROW], rules, strict=True)]
    columns["row"] = pa.array(rows, type=pa.string())
    return pa.table(columns)


def _counts(broken: dict[int, list[str]]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for names in broken.values():
        for name in names:
            counts[name] = counts.get(name, 0) + 1
    return dict(sorted(counts.items()))


def _receipt(validation: Validation, landed: Landed, watch: Stopwatch) -> Receipt:
    return Receipt(
        job=f"validate_{validation.feed}",
        table="validation" if validation.feed == "transactions" else "validation_labels",
        partition=str(validation.day),
        rows=validation.rows,
        digest=validation.parsed_digest[:RUN_DIGITS],
        seconds=watch.seconds,
        facts={
            "verdict": validation.verdict.outcome.value,
            "reason": validation.verdict.reason,
            "good_rows": validation.good_rows,
            "quarantined_rows": validation.rows - validation.good_rows,
            "broken_by_rule": validation.broken_by_rule,
            "quality_score": validation.quality_score,
            "alerts": list(validation.alerts),
            "report": validation.page,
            "landed_version": landed.sequence,
        },
    )
