"""The story of one promotion as a picture and a table, in MLflow and behind Airflow's button `Report`.

In: the record's rows. Out: artifacts promotion/<id>.png and promotion/<id>.json of the version's run, and the
page reports/promotions/<id>.html. The promotion does not depend on them: where the artifact store or the disk
does not answer, they are left out and the log says so. Each step's end keeps the whole story so far, so what
was left out comes with the next one.
"""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Iterator
from html import escape
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from jobs.conf.settings import Settings
from jobs.core import Check
from jobs.page import Cell, figure, page, table
from jobs.promotion.record import StepRow
from jobs.promotion.state import VersionState

if TYPE_CHECKING:
    from mlflow import MlflowClient

LOGGER = logging.getLogger("sluice.promotion")
COLOURS = {"pass": "#2a9d5c", "fail": "#c8453b", "inconclusive": "#b8b8b8"}


def draw(rows: list[StepRow], title: str) -> Figure:
    """Steps over time, each with its outcome and its requests per variant."""
    figure = Figure(figsize=(9, 0.6 + 0.45 * max(len(rows), 2)), layout="constrained")
    axes = figure.add_subplot()
    origin = min(row.started_at for row in rows)
    end = max(row.decided_at for row in rows)
    span = max((end - origin).total_seconds(), 1.0)
    for place, row in enumerate(rows):
        start = (row.started_at - origin).total_seconds()
        width = max((row.decided_at - row.started_at).total_seconds(), span / 200)
        axes.barh(place, width, left=start, color=COLOURS.get(row.outcome, "#888888"), height=0.6)
        told = f"{row.outcome}: {row.champion_requests} champion, {row.challenger_requests} challenger"
        axes.text(span * 1.03, place, told, va="center", fontsize=8)
    axes.set_yticks(range(len(rows)), [row.step for row in rows])
    axes.invert_yaxis()
    axes.set_xlim(0, span * 1.6)
    axes.set_xlabel(f"seconds since {origin:%Y-%m-%d %H:%M:%S} UTC")
    axes.set_title(title)
    return figure


def log_timeline(client: MlflowClient, state: VersionState, rows: list[StepRow]) -> None:
    """Keep picture and table with the version's run."""
    if not rows or not state.run_id:
        return
    name = rows[0].promotion
    try:
        with tempfile.TemporaryDirectory() as folder:
            picture, table = Path(folder) / f"{name}.png", Path(folder) / f"{name}.json"
            draw(rows, f"promotion {name} of version {state.version}").savefig(picture, dpi=110)
            table.write_text(json.dumps([row.model_dump(mode="json") for row in rows], indent=1))
            client.log_artifact(state.run_id, str(picture), "promotion")
            client.log_artifact(state.run_id, str(table), "promotion")
    except Exception as error:  # the picture is no reason to stop a rollback
        LOGGER.warning("timeline of promotion %s not kept: %s", name, error)


def promotion_page(rows: list[StepRow]) -> str:
    """The page of one promotion: its picture, its steps, and every figure of every step."""
    name, version = rows[0].promotion, rows[0].model_version
    title, last = f"Promotion {name} of version {version}", rows[-1]
    picture = BytesIO()
    draw(rows, title).savefig(picture, format="png", dpi=110)
    kind = last.outcome if last.outcome in COLOURS else "inconclusive"
    steps = (
        (
            row.step,
            row.outcome,
            f"{row.started_at:%Y-%m-%d %H:%M:%S}",
            f"{(row.decided_at - row.started_at).total_seconds():,.1f}",
            row.challenger_requests,
            row.champion_requests,
            row.reason,
        )
        for row in rows
    )
    head = ("step", "outcome", "started (UTC)", "seconds", "challenger", "champion", "reason")
    ended = f"<b class='{kind}'>{escape(last.step)}: {escape(last.outcome)}</b>"
    parts = [
        f"<p>Last: {ended}, {escape(last.reason)}</p>",
        figure("Steps over time, with the requests of both variants", picture.getvalue()),
        "<h2>Steps</h2>",
        table(head, steps),
    ]
    for row in rows:
        figures = list(_figures(row))
        if figures:
            parts.append(f"<h2>Figures of {escape(row.step)}</h2>")
            parts.append(table(("check", "outcome", "value", "threshold", "detail"), figures))
    return page(title, parts)


def _figures(row: StepRow) -> Iterator[tuple[Cell, ...]]:
    for found in json.loads(row.evidence or "{}").get("checks", []):
        check = Check.model_validate_json(json.dumps(found))
        yield check.name, check.outcome.value, check.value, check.threshold, check.detail


def save_page(settings: Settings, promotion: str, rows: list[StepRow]) -> str:
    """Write the page; gives its place below the reports folder, "" where there is none."""
    place = f"promotions/{promotion}.html"
    path = settings.reports / place
    if not rows:
        return ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(promotion_page(rows))
    except OSError as error:  # the page is no reason to stop a rollback
        LOGGER.warning("page of promotion %s not kept: %s", promotion, error)
        return ""
    return place
