"""Job offer_version: give a version the alias `challenger`, which starts the promotion. It skips no verdict.

In: a version. Out: the alias, and a sentence for whoever asked. Whatever the check before the shadow would
refuse for what the registry says is refused here, before the alias moves.
A training offers what it has registered; where that may not be, there is nothing to do, for the reason given.
Errors: GateClosed (`offer`) or NothingToDo (the job) where the version may not be offered, or another
promotion is under way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from jobs import clock
from jobs.conf.policy import policy_of
from jobs.conf.settings import Settings
from jobs.core import GateClosed, JobParams, NothingToDo, Outcome, Receipt, Stopwatch, Verdict
from jobs.promotion import state as registry
from jobs.promotion.check import check_state
from jobs.promotion.record import approval_problem

if TYPE_CHECKING:
    from mlflow import MlflowClient

READS: tuple[str, ...] = ("registry",)
WRITES: tuple[str, ...] = ("challenger",)


class Params(JobParams):
    version: str = Field(pattern=r"^\d+$", description="version of the registered model")


def offer(client: MlflowClient, settings: Settings, version: str) -> str:
    """Make the version the challenger; says what happens next."""
    name = settings.model_name
    aliases = registry.read_aliases(client, name)
    champion, problem = registry.settled_champion(client, name)
    state = registry.read_version(client, name, version)
    verdict = Verdict.of(check_state(state, aliases.get(registry.CHALLENGER), champion, problem))
    if state is None or verdict.outcome is not Outcome.PASS:
        raise GateClosed(verdict, f"offer of version {version}")
    if aliases.get(registry.CHALLENGER) == version:
        step = state.tag(registry.TAG_STEP) or "its check"
        return f"version {version} is the challenger already, at {step}"
    registry.move_alias(client, name, registry.CHALLENGER, version)
    waiting = approval_problem(
        # an approval that was given before the offer is bound to the promotion that begins now
        state.model_copy(update={"tags": {**state.tags, registry.TAG_PROMOTION_ID: ""}}),
        policy_of(settings),
        clock.now(),
        has_champion=bool(champion),
    )
    told = f"version {version} is the challenger: fraud_promote checks it now"
    return f"{told}, then waits: {waiting}" if waiting else told


def run(params: Params, settings: Settings) -> Receipt:
    watch = Stopwatch()
    try:
        told = offer(registry.registry_client(settings), settings, params.version)
    except GateClosed as closed:
        raise NothingToDo(f"version {params.version} is not offered: {closed.verdict.reason}") from None
    return Receipt(
        job="offer_version",
        table="challenger",
        partition=params.version,
        rows=1,
        seconds=watch.seconds,
        facts={"told": told},
    )
