"""The state of the model at a glance: what the page in Airflow shows.

In: aliases and tags of the registry, the tables `monitoring`, `reactions` and `promotion_steps`, the record
of alerts, the scoring service's /ready. Out: a `ModelState`. What cannot be read is a sentence in `problems`,
and what hangs on it is missing: nothing is raised, and nothing is made up.
Days are counted back from the newest monitored one, never from today: what stands still is seen to do so.
Airflow's api-server reads it, so nothing here imports MLflow, Spark or what trains.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import httpx
from pydantic import ValidationError

from jobs.alerts import FILE, Alert
from jobs.conf.policy import Policy, policy_of
from jobs.conf.settings import Settings
from jobs.core import SluiceError, StrictModel, midnight
from jobs.lake.store import Lake, lake_of
from jobs.lake.tables import MONITORING, REACTIONS
from jobs.monitoring.figures import LOUD, SEVERITY, UNKNOWN
from jobs.promotion import record, state
from jobs.promotion.registry_rest import RegistryRest

DAYS = 30  # that the pictures span
QUALITY = ("pr_auc", "recall_at_fpr")
WHOLE = (*QUALITY, "alerts_a_day", "fraud_amount_stopped")
NEWEST_ALERTS = 6
ALERT_BYTES = 262_144  # of the record's end that are read
DAY_OF_KEY = re.compile(r"\d{4}-\d{2}-\d{2}(?=[/T])")  # a key of a day, or of an hour of it
RUNNING, TO_COME, LEFT_OUT = "running", "to come", "left out"
SHOWN_TAGS = (
    state.TAG_DAY, state.TAG_REASON, state.TAG_GATE, state.TAG_GATE_REASON, state.TAG_AUTHOR,
    state.TAG_APPROVED_BY, state.TAG_PROMOTION, state.TAG_PROMOTION_ID, state.TAG_PROMOTION_REASON,
    state.TAG_STEP, state.TAG_STEP_STARTED_AT, state.TAG_PERCENT, state.TAG_PREVIOUS,
)  # fmt: skip
Read = TypeVar("Read")


class Step(StrictModel):
    """One step of a promotion: its verdict, or where it stands."""

    name: str
    outcome: str
    requests: int | None = None  # the challenger's, that the verdict was given on
    reason: str = ""


class Version(StrictModel):
    """One version of the model, and how its promotion went or goes."""

    version: str
    tags: dict[str, str]
    pr_auc: float | None = None  # on its own test rows
    steps: tuple[Step, ...] = ()
    decided_at: datetime | None = None  # when the last step was

    def tag(self, name: str) -> str:
        return self.tags.get(name, "")


class Point(StrictModel):
    """A figure of one monitored day."""

    day: date
    value: float | None
    status: str
    subject: str = "all"


class Series(StrictModel):
    """A figure over the days, and the thresholds that it is held against."""

    name: str
    points: tuple[Point, ...] = ()
    limits: tuple[float, ...] = ()


class ModelState(StrictModel):
    """Everything on the page that does not come from Airflow itself."""

    model_name: str
    champion: Version | None = None
    challenger: Version | None = None
    previous: str = ""
    registry_read: bool = False
    scoring: str = UNKNOWN
    monitored: date | None = None
    report: str = ""  # the drift report of that day, below the reports folder
    decision: str = UNKNOWN
    decision_reason: str = ""
    series: tuple[Series, ...] = ()
    open_alerts: tuple[Alert, ...] = ()  # of the newest monitored day, and raised after it
    other_alerts: tuple[Alert, ...] = ()  # the newest of the record besides
    problems: tuple[str, ...] = ()


def gather(settings: Settings, transport: httpx.BaseTransport | None = None) -> ModelState:
    """Read everything once; `transport` takes the place of the network to the registry."""
    problems: list[str] = []
    policy, lake = policy_of(settings), lake_of(settings)

    def attempt(read: Callable[[], Read]) -> Read | None:
        try:
            return read()
        except SluiceError as error:
            problems.append(str(error))
            return None

    found = attempt(lambda: _registry(settings, lake, policy, transport)) or {}
    refused = found.pop("refused", ())
    figures = attempt(lambda: newest_figures(lake)) or []
    monitored = max((row["day"] for row in figures), default=None)
    decision = attempt(lambda: _decision(lake, monitored)) or {}
    alerts = attempt(lambda: read_alerts(settings.home / FILE)) or []
    today, others = split_alerts(alerts, monitored)
    return ModelState(
        model_name=settings.model_name,
        scoring=scoring_state(settings),
        monitored=monitored,
        report=report_of(settings, monitored),
        **decision,
        series=series_of(figures, policy),
        open_alerts=today,
        other_alerts=others,
        problems=(*problems, *refused),
        **found,
    )


# -- the registry -------------------------------------------------------------------------------------------


def _registry(
    settings: Settings, lake: Lake, policy: Policy, transport: httpx.BaseTransport | None
) -> dict[str, Any]:
    with RegistryRest(settings, transport) as registry:
        aliases = registry.aliases()
        known = {version: registry.version(version) for version in set(aliases.values())}
    routing = state.routing_of(aliases, known.get)
    champion = known.get(routing.champion or "")
    challenger = known.get(aliases.get(state.CHALLENGER, ""))
    if challenger and champion and challenger.version == champion.version:
        challenger = None
    has_champion = champion is not None
    return {
        "champion": _version(champion, lake, policy, has_champion) if champion else None,
        "challenger": _version(challenger, lake, policy, has_champion) if challenger else None,
        "previous": aliases.get(state.PREVIOUS, ""),
        "registry_read": True,
        "refused": routing.alerts,
    }


def _version(found: state.VersionState, lake: Lake, policy: Policy, has_champion: bool) -> Version:
    """A version with the steps of its present promotion, as far as the record can be read."""
    promotion = found.tag(state.TAG_PROMOTION_ID)
    try:
        rows = record.read_rows(lake, promotion) if promotion else []
    except SluiceError:
        rows = []
    rows = [row for row in rows if row.model_version == found.version]
    pr_auc = found.evidence(state.TAG_METRICS).get("pr_auc")
    return Version(
        version=found.version,
        tags={key: value for key, value in found.tags.items() if key in SHOWN_TAGS},
        pr_auc=float(pr_auc) if isinstance(pr_auc, int | float) else None,
        steps=steps_of(found, rows, policy, has_champion),
        decided_at=max((row.decided_at for row in rows), default=None),
    )


def steps_of(
    found: state.VersionState, rows: Iterable[record.StepRow], policy: Policy, has_champion: bool
) -> tuple[Step, ...]:
    """The steps of a promotion in order: what has a verdict, what runs, what is to come."""
    decided = {row.step: row for row in rows}
    under_way = found.tag(state.TAG_PROMOTION) in state.UNDER_WAY
    if not decided and not under_way:
        return ()
    known = (record.CHECK_ROW, *state.steps_of(policy), record.PROMOTE_ROW)
    required = {record.CHECK_ROW, record.PROMOTE_ROW, *record.required_steps(policy, has_champion)}

    def step(name: str) -> Step:
        row = decided.get(name)
        if row is not None:
            return Step(name=name, outcome=row.outcome, requests=row.challenger_requests, reason=row.reason)
        if under_way and name == found.tag(state.TAG_STEP):
            return Step(name=name, outcome=RUNNING)
        return Step(name=name, outcome=TO_COME if under_way and name in required else LEFT_OUT)

    return tuple(map(step, (*known, *(name for name in decided if name not in known))))


def scoring_state(settings: Settings) -> str:
    """Whether the scoring service is ready to answer."""
    try:
        answer = httpx.get(f"{settings.scoring_uri.rstrip('/')}/ready", timeout=1.0)
    except (httpx.HTTPError, httpx.InvalidURL):
        return "does not answer"
    return "ready" if answer.status_code == 200 else "not ready"


# -- the tables ---------------------------------------------------------------------------------------------


def newest_figures(lake: Lake) -> list[dict[str, Any]]:
    """Figures of the newest monitored day and the DAYS - 1 before it."""
    days = [part.partition(".")[0] for part in lake.partitions(MONITORING)]
    if not days:
        return []
    last = max(days)
    first = date.fromisoformat(last) - timedelta(days=DAYS - 1)
    columns = ["day", "metric", "subject", "value", "threshold", "status"]
    rows = lake.read(MONITORING, first=f"{first}.", last=f"{last}.~", columns=columns)
    return list(rows.to_pylist())


def _decision(lake: Lake, monitored: date | None) -> dict[str, Any]:
    if monitored is None:
        return {}
    rows = lake.read(REACTIONS, first=monitored, last=monitored, columns=["decision", "reason"]).to_pylist()
    if not rows:
        return {}
    return {"decision": rows[0]["decision"], "decision_reason": rows[0]["reason"]}


def report_of(settings: Settings, monitored: date | None) -> str:
    """Where the day's drift report is; "" where none was drawn."""
    place = f"drift/{monitored}.html"
    return place if (settings.reports / place).exists() else ""


def series_of(figures: list[dict[str, Any]], policy: Policy) -> tuple[Series, ...]:
    """The pictures: drift, quality on matured answers, and what the business sees."""
    drift = Series(
        name="psi", points=largest_psi(figures), limits=(policy.drift.psi_alert, policy.drift.psi_retrain)
    )
    return (drift, *(_of_all(figures, name) for name in WHOLE))


def _of_all(figures: list[dict[str, Any]], name: str) -> Series:
    """One figure of all answers; below the newest threshold of a quality figure a retraining is asked for."""
    rows = [row for row in figures if row["metric"] == name and row["subject"] == "all"]
    rows.sort(key=lambda row: row["day"])
    limits = [row["threshold"] for row in rows if row["threshold"] is not None] if name in QUALITY else []
    points = tuple(Point(day=row["day"], value=row["value"], status=row["status"]) for row in rows)
    return Series(name=name, points=points, limits=tuple(limits[-1:]))


def largest_psi(figures: list[dict[str, Any]]) -> tuple[Point, ...]:
    """Of each day the feature that moved most, with the gravest status of all features."""
    by_day: dict[date, list[dict[str, Any]]] = {}
    for row in figures:
        if row["metric"] == "psi":
            by_day.setdefault(row["day"], []).append(row)
    points = []
    for day, rows in sorted(by_day.items()):
        measured = [row for row in rows if row["value"] is not None]
        most = max(measured, key=lambda row: (row["value"], row["subject"]), default=rows[0])
        status = max((row["status"] for row in rows), key=SEVERITY.index)
        points.append(Point(day=day, value=most["value"], status=status, subject=most["subject"]))
    return tuple(points)


# -- alerts -------------------------------------------------------------------------------------------------


def read_alerts(path: Path) -> list[Alert]:
    """The newest alerts of the record, the oldest first; a line that is no alert is left out."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - ALERT_BYTES))
            lines = file.read().decode(errors="replace").splitlines()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise SluiceError(f"{path} cannot be read: {error.strerror}") from None
    found = []
    for line in lines:
        try:
            found.append(Alert.model_validate_json(line))
        except ValidationError:
            continue  # cut at the front, or left unfinished by a writer that was killed
    return found


def split_alerts(alerts: list[Alert], monitored: date | None) -> tuple[tuple[Alert, ...], tuple[Alert, ...]]:
    """Those of the newest monitored day and what was raised after it, the gravest first; the newest before.

    What is said of an earlier day or its hours is not open, whenever it was raised: the newest day says
    whether it is still so.
    """
    still = [each for each in alerts if _is_open(each, monitored)]
    others = [each for each in reversed(alerts) if each not in still]
    return tuple(sorted(still, key=_gravity)), tuple(others[:NEWEST_ALERTS])


def _is_open(alert: Alert, monitored: date | None) -> bool:
    if monitored is None or alert.key.startswith(f"{monitored}/"):
        return True
    of_day = DAY_OF_KEY.match(alert.key)
    if of_day and of_day[0] <= str(monitored):
        return False
    return alert.raised_at is not None and alert.raised_at >= midnight(monitored + timedelta(days=1))


def _gravity(alert: Alert) -> tuple[int, str]:
    grave = LOUD.index(alert.status) if alert.status in LOUD else -1
    return -grave, alert.key
