"""May this version be offered any traffic at all? The check before its shadow.

In: a version that the alias `challenger` was given to. Out: the version marked `offered` with a promotion
id, and the row `check` of the record. The bundle is fetched, loaded, and queried with the version's own
test rows before a single request meets it.
Errors: GateClosed where the version is refused: it does not exist, its gate is blocked or missing, it is
champion already, its bundle does not answer, or its features are of another version than the current
ones. A refusal takes the alias `challenger` away from it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field

from jobs.conf.policy import policy_of
from jobs.conf.settings import Settings
from jobs.core import Check, GateClosed, JobParams, Outcome, Receipt, SluiceError, Stopwatch, Verdict
from jobs.features.declarations import FEATURE_VERSION, MODEL_FEATURES
from jobs.lake.store import Lake
from jobs.monitoring.reference import load_reference
from jobs.promotion import state as registry
from jobs.promotion.record import (
    CHECK_ROW,
    StepRow,
    approval_problem,
    evidence_text,
    promotion_name,
    write_row,
)
from jobs.promotion.state import VersionState
from jobs.serving.bundle import ModelBundle
from jobs.serving.bundles import fetch_bundle

if TYPE_CHECKING:
    from mlflow import MlflowClient

READS: tuple[str, ...] = ("registry",)
WRITES: tuple[str, ...] = ("registry", "promotion_steps")

QUERY_ROWS = 200


class Params(JobParams):
    version: str = Field(pattern=r"^\d+$", description="version of the registered model")
    promotion_id: str = Field("", description="id of the promotion, made where empty")


def check_state(state: VersionState | None, aliases: Mapping[str, str]) -> list[Check]:
    """What the registry says about a version."""
    champion, challenger = aliases.get(registry.CHAMPION), aliases.get(registry.CHALLENGER)
    if state is None:
        return [_failed("version", "there is no such version; look it up in MLflow")]
    gate, reason = state.tag(registry.TAG_GATE), state.tag(registry.TAG_GATE_REASON)
    checks = []
    if challenger not in (None, state.version):
        checks.append(_failed("challenger", f"version {challenger} is the challenger now"))
    if gate in (registry.GATE_AUTOMATIC, registry.GATE_PERSON):
        checks.append(_passed("gate", f"{gate}: {reason}"))
    else:
        said = f"blocked it: {reason}" if gate == registry.GATE_BLOCKED else "left no evidence"
        checks.append(_failed("gate", f"the gate {said}"))
    if state.version == champion:
        checks.append(_failed("champion", "it is the champion already"))
    else:
        checks.append(_passed("champion", f"champion is {champion or 'not set'}"))
    return checks


def check_bundle(state: VersionState, settings: Settings) -> list[Check]:
    """What the bundle itself says: it loads, its features are the current ones, its scores are finite."""
    try:
        bundle = ModelBundle.load(fetch_bundle(settings, state.version), policy_of(settings).decisions)
        reference = load_reference(settings, state.run_id)
    except SluiceError as error:
        return [_failed("bundle", str(error))]
    found = bundle.version_info.feature_version
    if found != FEATURE_VERSION or bundle.features != MODEL_FEATURES:
        detail = f"its features are of version {found}, the current ones of {FEATURE_VERSION}: train again"
        return [_failed("feature version", detail)]
    if reference is None or reference.empty:
        return [_failed("bundle", "the run keeps no reference/reference.parquet to query it with")]
    rows = reference.head(QUERY_ROWS)
    try:
        scores = bundle.score(rows[list(bundle.features)].to_numpy(dtype=np.float32))
    except (SluiceError, KeyError) as error:
        return [_failed("bundle", f"queried with {len(rows)} of its test rows: {error}")]
    if not (np.isfinite(scores).all() and (scores >= 0).all() and (scores <= 1).all()):
        return [_failed("bundle", f"{len(rows)} of its test rows gave scores that are no probability")]
    apart = float(np.abs(scores - rows["score"].to_numpy(dtype=np.float64)).max())
    detail = f"{len(rows)} test rows scored, at most {apart:.2g} from the offline scores"
    return [
        Check(name="bundle", outcome=Outcome.PASS, value=round(apart, 6), detail=detail),
        _passed("feature version", found),
    ]


def run(params: Params, settings: Settings) -> Receipt:
    watch = Stopwatch()
    started = datetime.now(UTC)
    client, name = registry.registry_client(settings), settings.model_name
    aliases = registry.read_aliases(client, name)
    state = registry.read_version(client, name, params.version)
    if state and _under_way(state, aliases):
        promotion = state.tag(registry.TAG_PROMOTION_ID)
        return _receipt(state, promotion, aliases, settings, watch, "already under way")
    promotion = promotion_name(params.promotion_id, params.version)
    checks = check_state(state, aliases)
    if state and Verdict.of(checks).outcome is Outcome.PASS:
        checks += check_bundle(state, settings)
    verdict = Verdict.of(checks)
    row = StepRow(
        promotion=promotion,
        model_version=params.version,
        step=CHECK_ROW,
        outcome=verdict.outcome.value,
        reason=verdict.reason,
        started_at=started,
        decided_at=datetime.now(UTC),
        evidence=evidence_text(verdict),
    )
    write_row(Lake(settings.lake), row)
    if state is None or verdict.outcome is not Outcome.PASS:
        _refuse(client, name, params.version, state, aliases, promotion, verdict)
        raise GateClosed(verdict, f"check_challenger version {params.version}")
    _offer(client, name, state, promotion)
    return _receipt(state, promotion, aliases, settings, watch, verdict.reason)


def _under_way(state: VersionState, aliases: dict[str, str]) -> bool:
    """A restart in the middle goes on with the promotion that is running."""
    running = state.tag(registry.TAG_PROMOTION) in (
        registry.OFFERED, registry.IN_SHADOW, registry.IN_CANARY,
    )  # fmt: skip
    challenger = aliases.get(registry.CHALLENGER) == state.version
    return running and challenger and bool(state.tag(registry.TAG_PROMOTION_ID))


def _offer(client: MlflowClient, name: str, state: VersionState, promotion: str) -> None:
    registry.remove_tags(
        client, name, state, registry.TAG_STEP, registry.TAG_STEP_STARTED_AT, registry.TAG_PERCENT,
        registry.TAG_PROMOTION_REASON,
    )  # fmt: skip
    tags = {registry.TAG_PROMOTION_ID: promotion, registry.TAG_PROMOTION: registry.OFFERED}
    registry.write_tags(client, name, state.version, tags)
    if registry.read_aliases(client, name).get(registry.CHALLENGER) != state.version:
        registry.move_alias(client, name, registry.CHALLENGER, state.version)


def _refuse(
    client: MlflowClient,
    name: str,
    version: str,
    state: VersionState | None,
    aliases: dict[str, str],
    promotion: str,
    verdict: Verdict,
) -> None:
    # the records of champion and rollback target are what serving trusts: a refusal leaves them alone
    trusted = version in (aliases.get(registry.CHAMPION), aliases.get(registry.PREVIOUS))
    if state and not trusted:
        tags = {
            registry.TAG_PROMOTION_REASON: verdict.reason[:1000],
            registry.TAG_PROMOTION_ID: promotion,
            registry.TAG_PROMOTION: registry.REFUSED,
        }
        registry.write_tags(client, name, version, tags)
    registry.remove_alias(client, name, registry.CHALLENGER, version)


def _receipt(
    state: VersionState,
    promotion: str,
    aliases: dict[str, str],
    settings: Settings,
    watch: Stopwatch,
    reason: str,
) -> Receipt:
    has_champion = registry.CHAMPION in aliases
    problem = approval_problem(state, policy_of(settings), datetime.now(UTC), has_champion=has_champion)
    facts = {
        "outcome": Outcome.PASS.value,
        "model_version": state.version,
        "promotion_id": promotion,
        "champion": aliases.get(registry.CHAMPION, ""),
        "gate": state.tag(registry.TAG_GATE),
        "needs_person": registry.needs_person(state, has_champion),
        "approved": not problem,
        "approval_problem": problem,
        "steps": list(registry.steps_of(policy_of(settings)) if has_champion else ("shadow",)),
        "reason": reason,
        "metrics": json.dumps(state.evidence(registry.TAG_METRICS))[:300],
    }
    return Receipt(
        job="check_challenger", table="promotion_steps", partition=promotion,
        seconds=watch.seconds, facts=facts,
    )  # fmt: skip


def _passed(name: str, detail: str) -> Check:
    return Check(name=name, outcome=Outcome.PASS, detail=detail)


def _failed(name: str, detail: str) -> Check:
    return Check(name=name, outcome=Outcome.FAIL, detail=detail)
