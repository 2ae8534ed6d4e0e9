"""The state of the model on one screen, for Airflow's UI: HTML with inline pictures, no script.

In: a `ModelState`, the newest runs of Airflow's DAGs, the address of MLflow for people. Out: the page. Every
text is escaped, the page fetches nothing, and what is unknown says so. Links are relative to /reports/model.
Those with `data-form` are the buttons: plugins/model_view.js opens them as trigger forms inside Airflow's UI;
without it they lead to the page of the DAG.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from html import escape
from pathlib import Path
from urllib.parse import quote

from jobs.alerts import Alert
from jobs.core import StrictModel
from jobs.monitoring.figures import INVESTIGATE, OK, UNKNOWN
from jobs.monitoring.model_state import LEFT_OUT, RUNNING, ModelState, Series, Step, Version
from jobs.monitoring.sparkline import sparkline
from jobs.page import NONE, page
from jobs.promotion import state as tags

STYLE = Path(__file__).with_suffix(".css").read_text()
FORMS = (("fraud_train", "Train"), ("fraud_promote", "Promote"), ("fraud_monitor", "Monitor"))
ROLL_BACK = ("fraud_roll_back", "Roll back")
AIRFLOW = ".."  # from /reports/model
RELOAD_SECONDS = 60
TONES = {OK: "good", INVESTIGATE: "good", "nothing": "good", "ready": "good", "success": "good",
         UNKNOWN: "warn", "alert": "warn", "not ready": "warn"}  # fmt: skip
Written = Callable[[float], str]
PICTURES: dict[str, tuple[str, Written]] = {
    "psi": ("Drift: largest PSI", "{:.2f}".format),
    "pr_auc": ("PR-AUC, matured days", "{:.3f}".format),
    "recall_at_fpr": ("Recall at allowed FPR", "{:.1%}".format),
    "alerts_a_day": ("Alerts a day", "{:,.0f}".format),
    "fraud_amount_stopped": ("Fraud amount stopped", "{:.1%}".format),
}


class Run(StrictModel):
    """One run of a DAG."""

    run_id: str
    state: str
    started_at: datetime | None = None
    seconds: float | None = None
    of: str = ""  # the day that it is for, where it has one


class DagRuns(StrictModel):
    """The newest runs of one DAG, the newest first."""

    dag_id: str
    runs: tuple[Run, ...] = ()


def render(state: ModelState, dags: Sequence[DagRuns], mlflow: str) -> str:
    """The page."""
    name = escape(state.model_name)
    monitored = f"newest monitored day {state.monitored}" if state.monitored else "no day is monitored yet"
    shown = {each.dag_id for each in dags}
    parts = [
        f"<header><h1>Model {name}</h1><p>{monitored}</p>{_buttons(shown)}</header>",
        _problems(state.problems),
        '<div class="row three">',
        _champion(state, mlflow),
        _challenger(state, mlflow),
        _watch(state),
        '</div><div class="row five">',
        *(_picture(series, state) for series in state.series),
        '</div><div class="row wide">',
        _alerts(state),
        _runs(dags),
        "</div>",
    ]
    return page(f"Model {state.model_name}", parts, style=STYLE, heading=False, reload_seconds=RELOAD_SECONDS)


def _buttons(shown: set[str]) -> str:
    """Buttons of the DAGs that whoever looks may see."""

    def button(dag: str, text: str, kind: str) -> str:
        return f'<a class="button {kind}" data-form target="_top" href="{AIRFLOW}/dags/{dag}">{text} …</a>'

    found = [button(dag, text, "") for dag, text in FORMS if dag in shown]
    if ROLL_BACK[0] in shown:
        found.append(button(*ROLL_BACK, "grave"))
    return f"<nav>{''.join(found)}</nav>"


def _problems(problems: Sequence[str]) -> str:
    told = "".join(f'<p class="warn">{escape(problem)}</p>' for problem in problems)
    return f'<div class="row"><section class="problem">{told}</section></div>' if told else ""


def _section(title: str, *parts: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{''.join(parts)}</section>"


def _big(text: str, small: str = "", tone: str = "") -> str:
    return f'<div class="big {tone}">{text} <small>{small}</small></div>'


def _facts(rows: Sequence[tuple[str, str]]) -> str:
    """Names and HTML; what has no value is left out."""
    told = "".join(f"<dt>{escape(name)}</dt><dd>{text}</dd>" for name, text in rows if text)
    return f"<dl>{told}</dl>"


def _tone(status: str) -> str:
    return TONES.get(status, "bad")


def _version_link(state: ModelState, version: str, mlflow: str) -> str:
    text = f"version {escape(version)}"
    if not mlflow.startswith(("http://", "https://")):
        return text
    address = (
        f"{mlflow.rstrip('/')}/#/models/{quote(state.model_name, safe='')}/versions/{quote(version, safe='')}"
    )
    return f'<a href="{escape(address)}" target="_blank" rel="noopener">{text}</a>'


def _champion(state: ModelState, mlflow: str) -> str:
    found = state.champion
    if found is None:
        text = "none" if state.registry_read else UNKNOWN
        why = "no version was ever promoted, or what the alias names is refused" if state.registry_read else (
            "the registry cannot be read"
        )  # fmt: skip
        return _section("Champion", _big(text, tone="warn"), f'<p class="soft">{why}</p>')
    since = f"since {found.decided_at:%Y-%m-%d %H:%M} UTC" if found.decided_at else ""
    return _section(
        "Champion",
        _big(_version_link(state, found.version, mlflow), since),
        _facts(
            [*_made(found), ("Way back", f"version {escape(state.previous)}" if state.previous else NONE)]
        ),
        _steps(found.steps),
    )


def _made(found: Version) -> list[tuple[str, str]]:
    """How a version came to be."""
    gate, day = escape(found.tag(tags.TAG_GATE) or NONE), found.tag(tags.TAG_DAY) or UNKNOWN
    person = found.tag(tags.TAG_APPROVED_BY)
    return [
        ("Trained", escape(f"as of {day}: {_short(found.tag(tags.TAG_REASON))}")),
        ("Gate", f"{gate}{f', approved by {escape(person)}' if person else ''}"),
        ("PR-AUC", f"{found.pr_auc:.3f} on its test rows" if found.pr_auc is not None else UNKNOWN),
    ]  # fmt: skip


def _short(text: str, length: int = 110) -> str:
    return text if len(text) <= length else f"{text[: length - 1].rstrip()}…"


def _challenger(state: ModelState, mlflow: str) -> str:
    found = state.challenger
    if found is None:
        text = _big("none" if state.registry_read else UNKNOWN, tone="" if state.registry_read else "warn")
        why = "no promotion is under way" if state.registry_read else "the registry cannot be read"
        return _section("Challenger", text, f'<p class="soft">{why}</p>')
    running = next((step for step in found.steps if step.outcome == RUNNING), None)
    if running:
        share = tags.percent_of(running.name)
        stands = f"{share} % of customers" if share else "in shadow, no answer is its own"
        started = found.tag(tags.TAG_STEP_STARTED_AT)[:16].replace("T", " ")
        step = escape(f"{_named(running.name)} since {started} UTC")
    else:
        stands, step = escape(found.tag(tags.TAG_PROMOTION).replace("_", " ") or "not checked yet"), ""
    reason = escape(_short(found.tag(tags.TAG_PROMOTION_REASON)))
    return _section(
        "Challenger",
        _big(_version_link(state, found.version, mlflow), stands),
        _facts([("Step", step), *_made(found), ("Said", reason)]),
        _steps(found.steps),
    )


def _named(step: str) -> str:
    return step.replace("_", " ")


def _steps(steps: Sequence[Step]) -> str:
    """The steps of a promotion as a row; what was left out (a first version has no canary) is not shown."""
    told = []
    for step in steps:
        if step.outcome == LEFT_OUT:
            continue
        requests = f" · {step.requests:,}" if step.requests else ""
        kind = step.outcome.replace(" ", "-")
        hint = escape(f"{step.outcome}{f': {step.reason}' if step.reason else ''}")
        told.append(f'<li class="{escape(kind)}" title="{hint}">{escape(_named(step.name))}{requests}</li>')
    return f'<ul class="steps">{"".join(told)}</ul>' if told else ""


def _watch(state: ModelState) -> str:
    """What the monitor made of its newest day, and whether anybody is served."""
    day = state.monitored
    report = f'<a href="{escape(state.report)}">drift report of {day}</a>' if state.report else NONE
    return _section(
        "Monitor",
        _big(escape(state.decision), f"on {day}" if day else "", _tone(state.decision)),
        f"<p>{escape(_short(state.decision_reason, 220))}</p>" if state.decision_reason else "",
        _facts([
            ("Scoring service", f'<b class="{_tone(state.scoring)}">{escape(state.scoring)}</b>'),
            ("Report", report),
        ]),
    )  # fmt: skip


def _picture(series: Series, state: ModelState) -> str:
    title, written = PICTURES[series.name]
    newest = series.points[-1] if series.points else None
    if newest is None or state.monitored is None:
        return _section(title, _big(UNKNOWN, tone="warn"), '<p class="soft">no day was measured</p>')
    measured = newest.day == state.monitored and newest.value is not None
    value = written(newest.value) if measured and newest.value is not None else UNKNOWN
    about = newest.subject if measured and newest.subject != "all" else ""
    tone = _tone(newest.status) if measured else "warn"
    first = min(point.day for each in state.series for point in each.points)  # all pictures span the same
    return _section(
        title,
        _big(value, tone=tone),
        f'<p class="soft">{escape(about)}</p>',
        '<div class="below">',
        sparkline(series, first, state.monitored, written),
        f'<div class="axis"><span>{first}</span><span>{state.monitored}</span></div></div>',
    )


def _alerts(state: ModelState) -> str:
    """Open are those of the newest monitored day: the next one raises again what is still so."""
    if not state.open_alerts and not state.other_alerts:
        return _section("Open alerts", '<p class="soft">None.</p>')
    parts = [
        _alert_rows(state.open_alerts)
        or '<p class="soft">None of the newest monitored day, none after it.</p>'
    ]
    if state.other_alerts:
        parts.append(f"<h2 class='later'>Before that</h2>{_alert_rows(state.other_alerts)}")
    return _section(f"Open alerts: {len(state.open_alerts)}", *parts)


def _alert_rows(alerts: Sequence[Alert]) -> str:
    rows = []
    for alert in alerts:
        silent = (
            f' <span class="tag">silent until {alert.silenced_until}</span>' if alert.silenced_until else ""
        )
        action = alert.action.partition(":")[0]
        rows.append(
            f'<tr><td><span class="tag {_tone(alert.status)}">{escape(alert.status)}</span></td>'
            f'<td title="{escape(alert.action)}">{escape(_short(alert.cause, 150))}{silent}</td>'
            f'<td class="who">{escape(_short(action, 30))}<br>{escape(alert.owner)}</td></tr>'
        )
    return f"<table>{''.join(rows)}</table>" if rows else ""


def _runs(dags: Sequence[DagRuns]) -> str:
    """One line a DAG: its newest runs as bars, the newest on the right and in words."""
    rows = []
    for dag in dags:
        home = f"{AIRFLOW}/dags/{quote(dag.dag_id, safe='')}"
        bars = "".join(
            f'<a class="{escape(run.state)}" target="_top" href="{home}/runs/{quote(run.run_id, safe="")}"'
            f' title="{escape(_told(run))}"></a>'
            for run in reversed(dag.runs)
        )
        newest = escape(_when(dag.runs[0])) if dag.runs else "never ran"
        tone = _tone(dag.runs[0].state) if dag.runs and dag.runs[0].state in ("success", "failed") else "soft"
        rows.append(
            f'<tr><th><a target="_top" href="{home}">{escape(dag.dag_id)}</a></th>'
            f'<td class="bars">{bars}</td><td class="n {tone}">{newest}</td></tr>'
        )
    if not rows:
        return _section("Last runs", '<p class="soft">No DAG that you may see.</p>')
    return _section("Last runs", f"<table>{''.join(rows)}</table>")


def _told(run: Run) -> str:
    of = f" for {run.of}" if run.of else ""
    return f"{run.state}{of}: {run.run_id}"


def _when(run: Run) -> str:
    started = f"{run.started_at:%m-%d %H:%M}" if run.started_at else ""
    lasted = f" · {run.seconds:,.0f} s" if run.seconds is not None else ""
    return f"{run.state if not started else ''}{started}{lasted}"
