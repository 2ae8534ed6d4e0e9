"""Drift of a day: the inputs and scores that the champion met, against its own test rows.

In: the day's prediction log (all answers, no shadow), reference rows of the champion. Out: the part
"<day>.drift" of `monitoring` (per feature PSI with its status, Jensen-Shannon, Kullback-Leibler,
Holm-adjusted p; for the scores PSI and chi-square p; for each slice the column that moved most) and the
Evidently report reports/drift/<day>.html. How a day is compared is in comparison.py.
Errors: none for missing or too few rows: they are `unknown`, which alerts and never passes. None for a report
that cannot be drawn: the figure drift_report says why.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from datetime import date, timedelta

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from jobs.alerts import raise_alerts
from jobs.conf.contract import contract_of
from jobs.conf.policy import policy_of
from jobs.conf.settings import Settings
from jobs.core import DayParams, Receipt, Stopwatch
from jobs.features.declarations import MODEL_FEATURES
from jobs.lake.store import Lake, lake_of
from jobs.lake.tables import TRANSACTIONS
from jobs.monitoring.comparison import SCORE, measure, reference_days
from jobs.monitoring.features_logged import latest_answers, logged
from jobs.monitoring.figures import (
    DRIFT,
    INVESTIGATE,
    OK,
    UNKNOWN,
    Figure,
    alerts_of,
    read_champion,
    worst,
    write_figures,
)
from jobs.monitoring.interval import Interval
from jobs.monitoring.reference import load_reference
from jobs.monitoring.report import Drawing, require_evidently, save_index

READS: tuple[str, ...] = ("predictions", "reference", "transactions")
WRITES: tuple[str, ...] = ("monitoring",)

VARIANTS = ("champion", "canary", "holdout", "rules")
REPORT_ROWS = 5_000  # a picture for people: 20,000 of all features took 13 s of processor time


class Params(DayParams):
    pass


def live_rows(
    lake: Lake, when: Interval, version: str, features: Sequence[str] = MODEL_FEATURES
) -> pd.DataFrame:
    """One row per transaction of the interval with the features of its answer, and the version's score."""
    columns = ["transaction_id", "event_time", "amount_minor", "model_version", SCORE, "served_at"]
    found = logged(lake, when, columns, _answered, features)
    rows = latest_answers(found, readable_only=True)
    ours = rows.pop("model_version").eq(version)
    rows[SCORE] = rows[SCORE].where(ours)
    return rows


def _answered(batch: pa.RecordBatch) -> pa.Array:
    variants = pc.is_in(batch["variant"], pa.array(VARIANTS))
    return pc.and_(variants, pc.equal(pc.fill_null(batch["error"], ""), ""))


def history_start(lake: Lake, settings: Settings) -> date:
    """The first day of transactions that features could be made from: late rows of days before are none."""
    days = lake.partitions(TRANSACTIONS)
    if not days:
        return settings.first_day
    latest = date.fromisoformat(days[0]) + timedelta(days=contract_of(settings).transactions.late_days)
    batches = lake.scan(TRANSACTIONS, first=None, last=latest, columns=["file_day"])
    files: list[date] = [pc.min(batch["file_day"]).as_py() for batch in batches if len(batch)]
    return min(files)


def measured(
    reference: pd.DataFrame, current: pd.DataFrame, day: date, settings: Settings, drawing: Drawing | None
) -> tuple[list[Figure], str]:
    """The figures of a day that has a reference, and the page that was drawn beside them, if one was."""
    contract, policy = contract_of(settings), policy_of(settings).drift
    drawing = drawing if len(current) and len(reference) else None
    if drawing is not None:
        alike = reference_days(reference, day, policy.minimum_rows).rows
        drawing.begin(alike, current, rows=REPORT_ROWS)
    start, delay = history_start(lake_of(settings), settings), contract.labels.delay_days
    figures = measure(reference, current, day, start, delay, policy, contract.slices)
    if drawing is None:
        return figures, ""
    problem = drawing.problem()
    if problem:  # figures and alerts are worth more than their picture
        detail = f"not drawn: {problem}"
        figures.append(Figure(metric="drift_report", subject="all", status=INVESTIGATE, detail=detail))
        return figures, ""
    save_index(drawing.path.parent)
    return figures, f"drift/{drawing.path.name}"


def run(params: Params, settings: Settings) -> Receipt:
    watch = Stopwatch()
    if settings.drift_report:
        require_evidently()
    lake = lake_of(settings)
    champion = read_champion(settings)
    reference = load_reference(settings, champion.run_id) if champion else None
    with ExitStack() as ends:
        drawing = None
        if reference is not None and settings.drift_report:
            path = settings.reports / "drift" / f"{params.day}.html"
            drawing = ends.enter_context(Drawing(path))  # it gets ready while the log is read
        current = live_rows(lake, Interval(params.day), champion.version if champion else "")
        if reference is None or champion is None:
            why = "no champion" if champion is None else f"version {champion.version} keeps no reference"
            detail, report = f"{why} to compare with", ""
            figures = [Figure(metric="psi", subject="all", status=UNKNOWN, detail=detail)]
        else:
            figures, report = measured(reference, current, params.day, settings, drawing)
    version = write_figures(lake, params.day, DRIFT, figures)
    alerts = raise_alerts(settings, alerts_of(settings, params.day, figures))
    named = [figure.subject for figure in figures if figure.status not in (OK, INVESTIGATE)]
    psi = {figure.subject: figure.value for figure in figures if figure.metric == "psi"}
    largest = max(psi, key=lambda name: psi[name] or 0.0)
    facts = {
        "status": worst(figures), "model_version": champion.version if champion else "",
        "reference_rows": 0 if reference is None else len(reference), "current_rows": len(current),
        "named": named[:10], "largest_psi": {largest: psi[largest]}, "new_alerts": alerts,
        "report": report,
    }  # fmt: skip
    return Receipt(
        job="measure_drift", table="monitoring", partition=f"{params.day}.{DRIFT}", version=version,
        rows=len(figures), seconds=watch.seconds, facts=facts,
    )  # fmt: skip
