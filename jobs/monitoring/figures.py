"""Figures of a monitored day: one row per metric and subject, in the table `monitoring`.

In: `Figure`s. Out: rows. Each job writes a part of its own ("<day>.drift"), so that none replaces what
another measured. Figures of an hour have a table of their own, which no decision reads.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date
from math import isfinite
from operator import itemgetter
from typing import Any

import pyarrow as pa

from jobs.alerts import Alert
from jobs.conf.contract import contract_of
from jobs.conf.policy import policy_of
from jobs.conf.settings import Settings
from jobs.core import StrictModel
from jobs.lake.store import Lake
from jobs.lake.tables import HOURLY_MONITORING, MONITORING
from jobs.monitoring.interval import Interval
from jobs.promotion import state as registry

OK, INVESTIGATE, ALERT, RETRAIN, UNKNOWN, PAGE = (
    "ok", "investigate", "alert", "retrain", "unknown", "page",
)  # fmt: skip
SEVERITY = (OK, INVESTIGATE, UNKNOWN, ALERT, RETRAIN, PAGE)
DRIFT, PERFORMANCE = "drift", "performance"
SERVICE, SKEW = "service", "skew"
LOUD = (UNKNOWN, ALERT, RETRAIN, PAGE)  # what is told
NOT_MEASURED = "not measured"
OF_VERSION = "version "  # begins the subject of a figure of a version that was replaced
REPLACED = "replaced version"
# figure -> the cause under which the policy's runbook says what to do
CAUSES = {
    "psi": "feature drift",
    "prediction_psi": "prediction drift",
    "slice_psi": "slice drift",
    "pr_auc": "performance drop",
    "recall_at_fpr": "performance drop",
    "alerts_a_day": "business figures",
    "fraud_amount_stopped": "business figures",
    "fraud_share": "label drift",
    "early_disputes": "early disputes",
    "unsure_share": "confidence",
    "mean_score": "confidence",
    "alert_share": "business figures",
    "error_share": "service errors",
    "latency_p99_ms": "latency",
    "null_share_online": "features missing online",
    "missing_online": "stale features online",
    "skew_share": "served features differ",
    "answers": "volume",
    "quarantined_share": "data quality",
}
WORSE = {  # cause and status -> a graver cause
    ("feature drift", RETRAIN): "feature drift that lasts",
    ("performance drop", PAGE): "performance fall",
    ("performance drop", ALERT): "slice performance",
}


class Figure(StrictModel):
    """One measured figure and what it means."""

    metric: str
    subject: str
    value: float | None = None
    threshold: float | None = None
    status: str = OK
    detail: str = ""


def worst(figures: Iterable[Figure]) -> str:
    """The gravest status; unknown where nothing was measured."""
    return max((figure.status for figure in figures), key=SEVERITY.index, default=UNKNOWN)


def write_figures(lake: Lake, day: date, group: str, figures: list[Figure]) -> int:
    """Replace one group's figures of a day."""
    part = f"{day}.{group}"
    rows = [{"part": part, "day": day, **figure.model_dump()} for figure in figures]
    return lake.replace(MONITORING, pa.Table.from_pylist(rows, MONITORING.schema), part)


def read_figures(lake: Lake, day: date, group: str = "") -> list[Figure]:
    """Figures of a day, of one group or of all: by group, whichever was measured first."""
    first, last = (f"{day}.{group}",) * 2 if group else (f"{day}.", f"{day}.~")
    rows = lake.read(MONITORING, first=first, last=last).to_pylist()
    return _figures(sorted(rows, key=itemgetter("part")))


def write_hour(lake: Lake, hour: Interval, figures: list[Figure]) -> int:
    """Replace the figures of an hour."""
    rows = [{"hour": str(hour), "day": hour.day, **figure.model_dump()} for figure in figures]
    table = pa.Table.from_pylist(rows, HOURLY_MONITORING.schema)
    return lake.replace(HOURLY_MONITORING, table, str(hour))


def read_hour(lake: Lake, hour: Interval) -> list[Figure]:
    """Figures of an hour; none where nobody has looked."""
    return _figures(lake.read(HOURLY_MONITORING, first=str(hour), last=str(hour)).to_pylist())


def _figures(rows: list[dict[str, Any]]) -> list[Figure]:
    return [Figure.model_validate({key: row[key] for key in Figure.model_fields}) for row in rows]


def finite(value: float) -> float | None:
    """A figure as the table holds it: nothing where it is not defined."""
    return round(float(value), 6) if isfinite(value) else None


def read_champion(settings: Settings) -> registry.VersionState | None:
    """The champion that the registry accepts."""
    client = registry.registry_client(settings)
    version = registry.read_routing(client, settings.model_name).champion
    return registry.read_version(client, settings.model_name, version) if version else None


def cause_of(figure: Figure) -> str:
    """The runbook's name for what a figure says."""
    if figure.status == UNKNOWN:
        return NOT_MEASURED
    if figure.subject.startswith(OF_VERSION):
        return REPLACED
    cause = CAUSES[figure.metric]
    return WORSE.get((cause, figure.status), cause)


def alerts_of(settings: Settings, when: date | Interval, figures: Iterable[Figure]) -> list[Alert]:
    """The alerts that figures of a day or an hour lead to, each with what the runbook says of its cause."""
    owner, runbook = contract_of(settings).owner, policy_of(settings).alerts.runbook
    found = []
    for figure in figures:
        if figure.status in LOUD:
            cause = cause_of(figure)
            found.append(
                Alert(
                    key=f"{when}/{figure.metric} {figure.subject}",
                    cause=f"{figure.metric} {figure.subject} of {when}: {figure.detail or figure.value}",
                    owner=owner,
                    action=f"{runbook[cause].action}: {runbook[cause].text}",
                    status=figure.status,
                    facts={"cause": cause, "value": figure.value, "threshold": figure.threshold},
                )
            )
    return found
