"""Start a step of a promotion: shadow, then the canary's shares of the policy.

In: a version that was checked, and the step's name. Out: tags sluice.step, sluice.step_started_at and
sluice.percent, which serving follows within seconds. Starting a step that runs already, or one that is
passed, changes nothing: a restart in the middle keeps the step and its time.
Errors: GateClosed where the version is no longer the challenger, a needed approval does not hold, the
step before has not passed, the gate judged it against another champion, or alias champion points at a
version that serving does not accept, and where there is no such version or step.
"""

from __future__ import annotations

from pydantic import Field

from jobs.conf.policy import Policy, policy_of
from jobs.conf.settings import Settings
from jobs.core import JobParams, Receipt, Stopwatch
from jobs.lake.store import lake_of
from jobs.promotion import state as registry
from jobs.promotion.record import (
    closed,
    passed_steps,
    require_approval,
    require_evidence,
    require_offered,
    require_settled,
    required_steps,
)
from jobs.promotion.state import VersionState

READS: tuple[str, ...] = ("registry", "promotion_steps")
WRITES: tuple[str, ...] = ("registry",)


class Params(JobParams):
    version: str = Field(pattern=r"^\d+$", description="version of the registered model")
    step: str = Field(description="shadow, canary_5, … as the policy names them")


def known_version(settings: Settings, version: str, where: str) -> VersionState:
    """The version's state.

    Raises:
        GateClosed: there is none.
    """
    client = registry.registry_client(settings)
    state = registry.read_version(client, settings.model_name, version)
    if state is None:
        raise closed("version", f"{settings.model_name} has no such version; look it up in MLflow", where)
    return state


def known_step(step: str, policy: Policy, where: str) -> None:
    """Raises GateClosed where the policy has no such step."""
    steps = registry.steps_of(policy)
    if step not in steps:
        raise closed("step", f"no step {step!r} in the policy; it has {', '.join(steps)}", where)


def run(params: Params, settings: Settings) -> Receipt:
    watch = Stopwatch()
    policy, name = policy_of(settings), settings.model_name
    where = f"start_step {params.step} of version {params.version}"
    known_step(params.step, policy, where)
    state = known_version(settings, params.version, where)
    client = registry.registry_client(settings)
    aliases = registry.read_aliases(client, name)
    champion, champion_problem = registry.settled_champion(client, name)
    passed = passed_steps(lake_of(settings), state)
    facts = {"model_version": params.version, "step": params.step, "champion": champion}

    def receipt(outcome: str, **more: object) -> Receipt:
        return Receipt(
            job="start_step", table="registry", partition=state.tag(registry.TAG_PROMOTION_ID),
            seconds=watch.seconds, facts={**facts, "outcome": outcome, **more},
        )  # fmt: skip

    if params.step in passed or champion == params.version:
        return receipt("pass", already_passed=True)
    require_settled(champion_problem, where)
    if params.step not in required_steps(policy, bool(champion)):
        return receipt("pass", skipped="no champion to stand beside: the first version has no canary")
    require_offered(aliases, params.version, where)
    require_evidence(state, champion, where)
    require_approval(state, policy, where, has_champion=bool(champion))
    _require_steps_before(params.step, tuple(passed), state, policy, where)
    if state.tag(registry.TAG_STEP) == params.step and _is_running(state):
        return receipt("running", started_at=state.tag(registry.TAG_STEP_STARTED_AT), kept=True)
    started_at = registry.now_text()
    percent = registry.percent_of(params.step)
    tags = {
        registry.TAG_STEP_STARTED_AT: started_at,
        registry.TAG_PERCENT: str(percent),
        registry.TAG_PROMOTION: registry.IN_CANARY if percent else registry.IN_SHADOW,
        registry.TAG_STEP: params.step,  # last: serving follows it, and a half-made start has no step
    }
    registry.write_tags(client, name, params.version, tags)
    return receipt("running", started_at=started_at, percent=percent)


def _is_running(state: VersionState) -> bool:
    return state.tag(registry.TAG_PROMOTION) in (registry.IN_SHADOW, registry.IN_CANARY) and bool(
        state.tag(registry.TAG_STEP_STARTED_AT)
    )


def _require_steps_before(
    step: str, passed: tuple[str, ...], state: VersionState, policy: Policy, where: str
) -> None:
    if state.tag(registry.TAG_PROMOTION) not in registry.UNDER_WAY:
        record = state.tag(registry.TAG_PROMOTION) or "missing"
        raise closed("check", f"its promotion record is {record}: `sluice check_challenger` first", where)
    steps = registry.steps_of(policy)
    for before in steps[: steps.index(step)]:
        if before not in passed:
            raise closed("order", f"step {before} has not passed yet", where)
