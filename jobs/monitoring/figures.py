"""Figures of a monitored day: one row per metric and subject, in the table `monitoring`.

In: `Figure`s. Out: rows. Drift and performance write parts of their own ("<day>.drift"), so that neither
replaces what the other measured.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date
from math import isfinite

import pyarrow as pa

from jobs.alerts import Alert
from jobs.conf.contract import contract_of
from jobs.conf.settings import Settings
from jobs.core import StrictModel
from jobs.lake.store import Lake
from jobs.lake.tables import MONITORING
from jobs.promotion import state as registry

OK, INVESTIGATE, ALERT, RETRAIN, UNKNOWN, PAGE = (
    "ok", "investigate", "alert", "retrain", "unknown", "page",
)  # fmt: skip
SEVERITY = (OK, INVESTIGATE, UNKNOWN, ALERT, RETRAIN, PAGE)
DRIFT, PERFORMANCE = "drift", "performance"
ACTIONS = {
    UNKNOWN: "look why there is nothing to measure: champion, its reference, the prediction log",
    ALERT: "review the figure and its slice; nothing is changed by itself",
    RETRAIN: "a retraining is started unless its cooldown or its sample forbids it",
    PAGE: "look now: roll back to the previous champion if the new one brought it",
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
    """Figures of a day, of one group or of all."""
    first, last = (f"{day}.{group}",) * 2 if group else (f"{day}.", f"{day}.~")
    rows = lake.read(MONITORING, first=first, last=last).to_pylist()
    return [Figure.model_validate({key: row[key] for key in Figure.model_fields}) for row in rows]


def finite(value: float) -> float | None:
    """A figure as the table holds it: nothing where it is not defined."""
    return round(float(value), 6) if isfinite(value) else None


def read_champion(settings: Settings) -> registry.VersionState | None:
    """The champion that the registry accepts."""
    client = registry.registry_client(settings)
    version = registry.read_routing(client, settings.model_name).champion
    return registry.read_version(client, settings.model_name, version) if version else None


def alerts_of(settings: Settings, day: date, figures: Iterable[Figure]) -> list[Alert]:
    """The alerts that figures of a day lead to."""
    owner = contract_of(settings).owner
    return [
        Alert(
            key=f"{day}/{figure.metric} {figure.subject}",
            cause=f"{figure.metric} {figure.subject} of {day}: {figure.detail or figure.value}",
            owner=owner,
            action=ACTIONS[figure.status],
            status=figure.status,
            facts={"value": figure.value, "threshold": figure.threshold},
        )
        for figure in figures
        if figure.status in ACTIONS
    ]
