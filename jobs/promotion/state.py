"""State of record of promotions: aliases and tags of the registered model in MLflow.

In: an MLflow client. Out: `Routing` (who serves what share), `VersionState` (one version's tags), and the
few writers that change them. Serving, training and promotion all go through this module, so that a
restart or a second replica reads the same answer. MLflow itself is imported only when it is used.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from jobs import clock
from jobs.conf.policy import Policy
from jobs.conf.settings import Settings
from jobs.core import SluiceError, StrictModel, first_line

if TYPE_CHECKING:
    from mlflow import MlflowClient

CHAMPION: Final = "champion"
CHALLENGER: Final = "challenger"
PREVIOUS: Final = "previous"

TAG_GATE: Final = "sluice.gate"
TAG_GATE_REASON: Final = "sluice.gate_reason"
TAG_GATE_EVIDENCE: Final = "sluice.gate_evidence"
TAG_RUN: Final = "sluice.run"
TAG_DAY: Final = "sluice.day"
TAG_REASON: Final = "sluice.reason"
TAG_DRILL: Final = "sluice.drill"
TAG_METRICS: Final = "sluice.metrics"
TAG_AUTHOR: Final = "sluice.author"
TAG_FEATURE_VERSION: Final = "sluice.feature_version"
TAG_JUDGED_AGAINST: Final = "sluice.judged_against"  # champion of the gate's evidence, "" for none
TAG_BUNDLE_DIGEST: Final = "sluice.bundle_digest"  # of the bundle that was evaluated
TAG_APPROVED_BY: Final = "sluice.approved_by"
TAG_APPROVED_AT: Final = "sluice.approved_at"
TAG_APPROVED_VERSION: Final = "sluice.approved_version"
TAG_APPROVED_PROMOTION: Final = "sluice.approved_promotion"  # missing until its version is offered
TAG_PROMOTION: Final = "sluice.promotion"
TAG_PROMOTION_ID: Final = "sluice.promotion_id"
TAG_PROMOTION_REASON: Final = "sluice.promotion_reason"
TAG_STEP: Final = "sluice.step"
TAG_STEP_STARTED_AT: Final = "sluice.step_started_at"
TAG_PERCENT: Final = "sluice.percent"
# the champion that this version replaced, "" for none; it stays, so whoever has it passed every step once
TAG_PREVIOUS: Final = "sluice.previous"
TAG_MONITORED: Final = "sluice.monitored"  # last monitored day as champion, its decision, its report
TAG_ARCHIVED: Final = "sluice.archived"  # the day for which maintenance let go of what it was trained on

GATE_AUTOMATIC: Final = "automatic"
GATE_PERSON: Final = "person decides"
GATE_BLOCKED: Final = "blocked"

OFFERED: Final = "offered"
IN_SHADOW: Final = "shadow"
IN_CANARY: Final = "canary"
COMPLETED: Final = "completed"
ROLLED_BACK: Final = "rolled_back"
REFUSED: Final = "refused"
UNDER_WAY: Final = (OFFERED, IN_SHADOW, IN_CANARY)

SHADOW_STEP: Final = "shadow"
CANARY_PREFIX: Final = "canary_"


class Routing(StrictModel):
    """Who serves: what the scoring service follows."""

    champion: str | None = None
    challenger: str | None = None  # only while its shadow or canary step runs
    step: str = ""  # "" outside a promotion
    percent: int = 0  # share of customers whose answer comes from the challenger; 0 in shadow
    previous: str | None = None  # whom a rollback of the champion would serve
    alerts: tuple[str, ...] = ()  # refused moves of aliases, each a sentence for a person


class VersionState(StrictModel):
    """One registered version with its tags."""

    version: str
    run_id: str
    source: str
    tags: dict[str, str]
    registered_at: datetime

    def tag(self, name: str) -> str:
        return self.tags.get(name, "")

    def evidence(self, name: str) -> dict[str, Any]:
        """A tag that holds JSON; empty where it is missing or broken."""
        try:
            value = json.loads(self.tags.get(name, "") or "{}")
        except json.JSONDecodeError:
            return {}
        return value if isinstance(value, dict) else {}


LookUp = Callable[[str], VersionState | None]  # a version's state, None where it does not exist


def steps_of(policy: Policy) -> tuple[str, ...]:
    """All steps of a promotion in order: shadow, canary_5, …, canary_100; blue-green has only the last."""
    canary = policy.canary
    steps = canary.steps if canary.mode == "steps" else canary.steps[-1:]
    return (SHADOW_STEP, *(f"{CANARY_PREFIX}{step.percent}" for step in steps))


def percent_of(step: str) -> int:
    """Share of customers that a step gives to the challenger."""
    return int(step.removeprefix(CANARY_PREFIX)) if step.startswith(CANARY_PREFIX) else 0


def minutes_of(step: str, policy: Policy) -> float:
    """How long a step lasts at least."""
    by_step = {f"{CANARY_PREFIX}{item.percent}": item.minutes for item in policy.canary.steps}
    return by_step.get(step, policy.shadow.minutes)


def requests_of(step: str, policy: Policy) -> int:
    """How many requests of the challenger a step needs at least."""
    return policy.shadow.requests if step == SHADOW_STEP else policy.canary.requests


def now_text() -> str:
    """This instant, as the tags hold it."""
    return clock.now().isoformat(timespec="milliseconds")


def quiet_mlflow(settings: Settings) -> None:
    """Point MLflow at the installation's server: few retries, short time-outs, no telemetry."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("DO_NOT_TRACK", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    parts = urlsplit(settings.mlflow_uri)
    if parts.scheme not in ("http", "https"):
        return
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        socket.create_connection((parts.hostname or "", port), timeout=3).close()
    except OSError as error:
        raise SluiceError(
            f"MLflow does not answer at {settings.mlflow_uri} ({error}): start it with `make up`, "
            "or set SLUICE_MLFLOW_URI"
        ) from None


def registry_client(settings: Settings) -> MlflowClient:
    """A client of the registry that fails within seconds where MLflow is not reachable.

    Raises:
        SluiceError: nothing answers at the address.
    """
    quiet_mlflow(settings)
    from mlflow import MlflowClient

    with registry_errors():
        return MlflowClient(tracking_uri=settings.mlflow_uri, registry_uri=settings.mlflow_uri)


@contextmanager
def registry_errors() -> Iterator[None]:
    """Turn MLflow's errors into one sentence for a person."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        raise SluiceError(
            f"MLflow registry: {first_line(error)}; is the server up and the name right?"
        ) from error


def read_aliases(client: MlflowClient, model_name: str) -> dict[str, str]:
    """Alias -> version; empty where the model is not registered yet."""
    from mlflow.exceptions import MlflowException

    with registry_errors():
        try:
            model = client.get_registered_model(model_name)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return {}
            raise
    return {alias: str(version) for alias, version in model.aliases.items()}


def read_version(client: MlflowClient, model_name: str, version: str) -> VersionState | None:
    """One version with its tags, None where it does not exist."""
    from mlflow.exceptions import MlflowException

    with registry_errors():
        try:
            found = client.get_model_version(model_name, version)
        except MlflowException as error:
            if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                return None
            raise
    return _state_of(found)


def read_versions(client: MlflowClient, model_name: str) -> list[VersionState]:
    """All versions, the latest first; none where the model is not registered yet."""
    from mlflow.exceptions import MlflowException

    found: list[VersionState] = []
    token = None
    while True:
        with registry_errors():
            try:
                page = client.search_model_versions(
                    f"name='{model_name}'", max_results=1_000, page_token=token
                )
            except MlflowException as error:
                if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                    return []
                raise
        found += [_state_of(each) for each in page]
        token = page.token
        if not token:
            return sorted(found, key=lambda each: int(each.version), reverse=True)


def _state_of(found: Any) -> VersionState:
    return VersionState(
        version=str(found.version),
        run_id=str(found.run_id or ""),
        source=str(found.source or ""),
        tags={str(key): str(value) for key, value in found.tags.items()},
        registered_at=datetime.fromtimestamp(found.creation_timestamp / 1000, UTC),
    )


def read_routing(client: MlflowClient, model_name: str) -> Routing:
    """Who serves according to the registry.

    Raises:
        SluiceError: the registry does not answer.
    """
    aliases = read_aliases(client, model_name)
    return routing_of(aliases, lambda version: read_version(client, model_name, version))


def routing_of(aliases: Mapping[str, str], look_up: LookUp) -> Routing:
    """Who serves, by the aliases and the versions that they name.

    The champion counts only with a completed promotion record, or when it is the version of the alias
    `previous` and had one once (a person's way back). Any other move is named in `alerts` and gives champion
    None: the caller keeps the last champion that it accepted.
    """
    alerts: list[str] = []
    champion = _accepted_champion(aliases, look_up, alerts)
    challenger, step = _running_challenger(aliases, look_up)
    if challenger is not None and challenger == aliases.get(CHAMPION):
        challenger, step = None, ""
    return Routing(
        champion=champion,
        challenger=challenger,
        step=step,
        percent=percent_of(step),
        previous=aliases.get(PREVIOUS) if aliases.get(PREVIOUS) != aliases.get(CHAMPION) else None,
        alerts=tuple(alerts),
    )


def settled_champion(client: MlflowClient, model_name: str, *, besides: str = "") -> tuple[str, str]:
    """The champion that serving accepts, and what a person must put right where that cannot be told.

    ("", "") only where there has never been a champion: the next version is the first. `besides` is a
    version whose own completed record does not count: its promotion may have been cut off.
    """
    routing = read_routing(client, model_name)
    if routing.champion is not None:
        return routing.champion, ""
    back = "set alias champion back to the version that serves, then go on"
    if routing.alerts:
        return "", f"{routing.alerts[0]}; {back}"
    completed = [version for version in _completed_versions(client, model_name) if version != besides]
    if completed:
        known = ", ".join(completed[:5])
        return "", f"alias champion is gone, but promotions were completed before (version {known}): {back}"
    return "", ""


def _completed_versions(client: MlflowClient, model_name: str) -> list[str]:
    """Versions with a completed promotion record, the latest first."""
    wanted = f"name = '{model_name}' and tags.`{TAG_PROMOTION}` = '{COMPLETED}'"
    with registry_errors():
        found = client.search_model_versions(wanted, max_results=100)
    return sorted((str(each.version) for each in found), key=int, reverse=True)


def _accepted_champion(aliases: Mapping[str, str], look_up: LookUp, alerts: list[str]) -> str | None:
    version = aliases.get(CHAMPION)
    if version is None:
        return None
    state = look_up(version)
    record = state.tag(TAG_PROMOTION) if state else ""
    if record == COMPLETED or (version == aliases.get(PREVIOUS) and has_served(state)):
        return version
    alerts.append(
        f"alias champion points at version {version} whose promotion record is "
        f"{record or 'missing'}: not served; move it back, or promote the version through challenger"
    )
    return None


def has_served(state: VersionState | None) -> bool:
    """Whether a version has ever completed a promotion, whatever became of it since."""
    return state is not None and (state.tag(TAG_PROMOTION) == COMPLETED or TAG_PREVIOUS in state.tags)


def _running_challenger(aliases: Mapping[str, str], look_up: LookUp) -> tuple[str | None, str]:
    version = aliases.get(CHALLENGER)
    state = look_up(version) if version else None
    # one whose promotion is completed keeps its share until alias champion has moved to it
    if state is None or state.tag(TAG_PROMOTION) not in (IN_SHADOW, IN_CANARY, COMPLETED):
        return None, ""
    step = state.tag(TAG_STEP)
    # a version without a step has not passed its check, or is between two states: it gets no traffic
    return (state.version, step) if step else (None, "")


def write_tags(client: MlflowClient, model_name: str, version: str, tags: Mapping[str, str]) -> None:
    """Set tags of one version, in the mapping's order."""
    with registry_errors():
        for key, value in tags.items():
            client.set_model_version_tag(model_name, version, key, value)


def remove_tags(client: MlflowClient, model_name: str, state: VersionState, *tags: str) -> None:
    """Remove those tags that the version has."""
    with registry_errors():
        for key in tags:
            if key in state.tags:
                client.delete_model_version_tag(model_name, state.version, key)


def move_alias(client: MlflowClient, model_name: str, alias: str, version: str) -> None:
    """Point an alias at a version."""
    with registry_errors():
        client.set_registered_model_alias(model_name, alias, version)


def remove_alias(client: MlflowClient, model_name: str, alias: str, version: str = "") -> None:
    """Remove an alias; with a version, only while the alias points at it."""
    held = read_aliases(client, model_name).get(alias)
    if held is None or (version and held != version):
        return
    with registry_errors():
        client.delete_registered_model_alias(model_name, alias)


def archived_text(day: str) -> str:
    """What is to be done about a version that was archived."""
    return f"it was archived as of {day}, and the tables that it was trained on may be gone: train again"


def needs_person(state: VersionState, has_champion: bool) -> bool:
    """Whether a person must approve: the gate left it open, or there is nothing to compare with yet."""
    return state.tag(TAG_GATE) == GATE_PERSON or not has_champion
