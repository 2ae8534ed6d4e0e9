"""May this version be offered any traffic at all? The check before its shadow.

In: a version that the alias `challenger` was given to. Out: the version marked `offered` with a promotion
id, and the row `check` of the record. The bundle is fetched, loaded, and queried with the version's own
test rows before a single request meets it.
Errors: GateClosed where the version is refused: it does not exist, it is archived, its gate is blocked or
missing, it is champion already, the gate judged it against another champion than the present one, alias
champion points at a version that serving does not accept, its bundle does not answer, is not the evaluated
one or scores its test rows otherwise, or its features are of another version than the current ones. A
refusal takes the alias `challenger` away from it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field

from jobs import clock
from jobs.conf.policy import policy_of
from jobs.conf.settings import Settings
from jobs.core import Check, GateClosed, JobParams, Outcome, Receipt, SluiceError, Stopwatch, Verdict
from jobs.features.declarations import FEATURE_VERSION, MODEL_FEATURES
from jobs.lake.store import lake_of
from jobs.monitoring.reference import load_reference
from jobs.promotion import state as registry
from jobs.promotion.record import (
    CHECK_ROW,
    StepRow,
    approval_problem,
    evidence_problem,
    evidence_text,
    promotion_name,
    unused_name,
    write_row,
)
from jobs.promotion.state import VersionState
from jobs.promotion.timeline import log_timeline, save_page
from jobs.serving.bundle import ModelBundle
from jobs.serving.bundles import fetch_bundle
from jobs.training.bundle_writer import LIVE_DRILLS, bundle_digest

if TYPE_CHECKING:
    from mlflow import MlflowClient

READS: tuple[str, ...] = ("registry",)
WRITES: tuple[str, ...] = ("registry", "promotion_steps")

QUERY_ROWS = 200
APART = 1e-4  # of a score: another machine adds up in another order, and a calibration map can be steep


class Params(JobParams):
    version: str = Field(pattern=r"^\d+$", description="version of the registered model")
    promotion_id: str = Field("", description="id of the promotion, made where empty")


def check_state(
    state: VersionState | None, challenger: str | None, champion: str, champion_problem: str
) -> list[Check]:
    """What the registry says about a version."""
    if state is None:
        return [_failed("version", "there is no such version; look it up in MLflow")]
    gate, reason = state.tag(registry.TAG_GATE), state.tag(registry.TAG_GATE_REASON)
    checks = []
    archived = state.tag(registry.TAG_ARCHIVED)
    if archived:
        checks.append(_failed("archived", registry.archived_text(archived)))
    if challenger not in (None, state.version):
        checks.append(_failed("challenger", f"version {challenger} is the challenger now"))
    if gate in (registry.GATE_AUTOMATIC, registry.GATE_PERSON):
        checks.append(_passed("gate", f"{gate}: {reason}"))
    else:
        said = f"blocked it: {reason}" if gate == registry.GATE_BLOCKED else "left no evidence"
        checks.append(_failed("gate", f"the gate {said}"))
    if champion_problem:
        return [*checks, _failed("champion", champion_problem)]
    if state.version == champion:
        return [*checks, _failed("champion", "it is the champion already")]
    checks.append(_passed("champion", f"champion is {champion or 'not set'}"))
    problem = evidence_problem(state, champion)
    judged = f"judged against {champion or 'the baselines, for want of a champion'}"
    return [*checks, _failed("evidence", problem) if problem else _passed("evidence", judged)]


def check_bundle(state: VersionState, settings: Settings) -> list[Check]:
    """What the bundle itself says: it loads, its features are the current ones, its scores are finite."""
    try:
        folder = fetch_bundle(settings, state.version)
        bundle = ModelBundle.load(folder, policy_of(settings).decisions)
        reference = load_reference(settings, state.run_id)
    except SluiceError as error:
        return [_failed("bundle", str(error))]
    judged = state.tag(registry.TAG_BUNDLE_DIGEST)
    if not judged:
        return [_failed("bundle", f"no {registry.TAG_BUNDLE_DIGEST} says which one was judged: train again")]
    # a live drill spoils the bundle behind the gate's back: that is what it tries out
    spoilt = state.tag(registry.TAG_DRILL) in LIVE_DRILLS
    if not spoilt and bundle_digest(folder) != judged:
        return [_failed("bundle", "it is not the bundle that the gate judged: train again")]
    found = bundle.version_info.feature_version
    if found != FEATURE_VERSION or bundle.features != MODEL_FEATURES:
        detail = f"its features are of version {found}, the current ones of {FEATURE_VERSION}: train again"
        return [_failed("feature version", detail)]
    if reference is None or reference.empty:
        return [_failed("bundle", "the run keeps no reference/reference.parquet to query it with")]
    rows = reference.head(QUERY_ROWS)
    try:
        scores = bundle.score(rows[list(bundle.features)].to_numpy(dtype=np.float32))
    except Exception as error:  # whatever its graph raises, customers must not meet it
        return [_failed("bundle", f"queried with {len(rows)} of its test rows: {error}")]
    if not (np.isfinite(scores).all() and (scores >= 0).all() and (scores <= 1).all()):
        return [_failed("bundle", f"{len(rows)} of its test rows gave scores that are no probability")]
    apart = float(np.abs(scores - rows["score"].to_numpy(dtype=np.float64)).max())
    detail = f"{len(rows)} test rows scored, at most {apart:.2g} from the offline scores"
    if not spoilt and not apart <= APART:  # NaN is no answer either
        return [_failed("bundle", f"{detail}, allowed {APART:g}: train again")]
    return [
        Check(name="bundle", outcome=Outcome.PASS, value=round(apart, 6), threshold=APART, detail=detail),
        _passed("feature version", found),
    ]


def run(params: Params, settings: Settings) -> Receipt:
    watch = Stopwatch()
    started = clock.now()
    client, name = registry.registry_client(settings), settings.model_name
    lake = lake_of(settings)
    aliases = registry.read_aliases(client, name)
    champion, champion_problem = registry.settled_champion(client, name)
    state = registry.read_version(client, name, params.version)
    if state and _under_way(state, aliases):
        return _receipt(state, champion, settings, watch, "already under way")
    promotion = unused_name(lake, promotion_name(params.promotion_id, params.version))
    checks = check_state(state, aliases.get(registry.CHALLENGER), champion, champion_problem)
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
        decided_at=clock.now(),
        evidence=evidence_text(verdict),
    )
    write_row(lake, row)
    if state is None or verdict.outcome is not Outcome.PASS:
        if state and not _trusted(state, aliases, champion_problem):
            _mark_refused(client, name, state, promotion, verdict)
        registry.remove_alias(client, name, registry.CHALLENGER, params.version)
        if state:
            log_timeline(client, state, [row])
        report = save_page(settings, promotion, [row])
        raise GateClosed(verdict, f"check_challenger version {params.version}", report)
    _offer(client, name, state, promotion)
    offered = registry.read_version(client, name, params.version) or state
    return _receipt(offered, champion, settings, watch, verdict.reason)


def _under_way(state: VersionState, aliases: dict[str, str]) -> bool:
    """A restart in the middle goes on with the promotion that is running."""
    running = state.tag(registry.TAG_PROMOTION) in registry.UNDER_WAY
    challenger = aliases.get(registry.CHALLENGER) == state.version
    return running and challenger and bool(state.tag(registry.TAG_PROMOTION_ID))


def _offer(client: MlflowClient, name: str, state: VersionState, promotion: str) -> None:
    registry.remove_tags(
        client, name, state, registry.TAG_STEP, registry.TAG_STEP_STARTED_AT, registry.TAG_PERCENT,
        registry.TAG_PROMOTION_REASON,
    )  # fmt: skip
    tags = {registry.TAG_PROMOTION_ID: promotion, registry.TAG_PROMOTION: registry.OFFERED}
    registry.write_tags(client, name, state.version, _bound_approval(state, promotion) | tags)
    if registry.read_aliases(client, name).get(registry.CHALLENGER) != state.version:
        registry.move_alias(client, name, registry.CHALLENGER, state.version)


def _bound_approval(state: VersionState, promotion: str) -> dict[str, str]:
    """An approval given before the offer is for this one promotion, however it ends."""
    free = state.tag(registry.TAG_APPROVED_BY) and not state.tag(registry.TAG_APPROVED_PROMOTION)
    return {registry.TAG_APPROVED_PROMOTION: promotion} if free else {}


def _trusted(state: VersionState, aliases: Mapping[str, str], champion_problem: str) -> bool:
    """Whether serving relies on the version's record, so that a refusal must leave it alone."""
    if champion_problem and state.tag(registry.TAG_PROMOTION) == registry.COMPLETED:
        return True  # it may be the version that the alias has to be set back to
    return state.version in (aliases.get(registry.CHAMPION), aliases.get(registry.PREVIOUS))


def _mark_refused(
    client: MlflowClient, name: str, state: VersionState, promotion: str, verdict: Verdict
) -> None:
    tags = {
        **_bound_approval(state, promotion),
        registry.TAG_PROMOTION_REASON: verdict.reason[:1000],
        registry.TAG_PROMOTION_ID: promotion,
        registry.TAG_PROMOTION: registry.REFUSED,
    }
    registry.write_tags(client, name, state.version, tags)


def _receipt(
    state: VersionState, champion: str, settings: Settings, watch: Stopwatch, reason: str
) -> Receipt:
    has_champion, promotion = bool(champion), state.tag(registry.TAG_PROMOTION_ID)
    problem = approval_problem(state, policy_of(settings), clock.now(), has_champion=has_champion)
    facts = {
        "outcome": Outcome.PASS.value,
        "model_version": state.version,
        "promotion_id": promotion,
        "champion": champion,
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
