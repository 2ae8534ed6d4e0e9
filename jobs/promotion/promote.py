"""Make a version the champion, after every step that it needs has passed.

In: a version. Out: its record `completed`, alias `previous` on the old champion, `champion` on the version,
no `challenger`. The alias `champion` moves in one call, and everything before it leaves all as it is, the old
champion with its record and the version with its share, so a failure in the middle, and a second run after
it, is harmless.
Errors: GateClosed where a step has not passed, a needed approval does not hold, the version is no longer
the challenger, the gate judged it against another champion, or alias champion points at a version that
serving does not accept.
"""

from __future__ import annotations

from pydantic import Field

from jobs import clock
from jobs.conf.policy import policy_of
from jobs.conf.settings import Settings
from jobs.core import JobParams, Outcome, Receipt, Stopwatch
from jobs.lake.store import lake_of
from jobs.promotion import state as registry
from jobs.promotion.record import (
    PROMOTE_ROW,
    StepRow,
    closed,
    passed_steps,
    read_rows,
    require_approval,
    require_evidence,
    require_offered,
    require_settled,
    required_steps,
    write_row,
)
from jobs.promotion.start_step import known_version
from jobs.promotion.timeline import log_timeline, save_page

READS: tuple[str, ...] = ("registry", "promotion_steps")
WRITES: tuple[str, ...] = ("registry", "promotion_steps")


class Params(JobParams):
    version: str = Field(pattern=r"^\d+$", description="version that becomes champion")


def run(params: Params, settings: Settings) -> Receipt:
    watch = Stopwatch()
    started = clock.now()
    client, name, lake = registry.registry_client(settings), settings.model_name, lake_of(settings)
    where = f"promote_champion version {params.version}"
    state = known_version(settings, params.version, where)
    aliases = registry.read_aliases(client, name)
    old, champion_problem = registry.settled_champion(client, name, besides=params.version)
    require_settled(champion_problem, where)
    promotion = state.tag(registry.TAG_PROMOTION_ID)
    if old != params.version:
        policy = policy_of(settings)
        require_offered(aliases, params.version, where)
        require_evidence(state, old, where)
        require_approval(state, policy, where, has_champion=bool(old))
        passed = passed_steps(lake, state)
        missing = [step for step in required_steps(policy, bool(old)) if step not in passed]
        if missing or not promotion:
            raise closed("steps", f"no passed verdict for {', '.join(missing) or 'its check'}", where)
        tags = {registry.TAG_PREVIOUS: old, registry.TAG_PROMOTION: registry.COMPLETED}
        registry.write_tags(client, name, params.version, tags)
        if old:
            registry.move_alias(client, name, registry.PREVIOUS, old)
        registry.move_alias(client, name, registry.CHAMPION, params.version)
    elif state.tag(registry.TAG_PROMOTION) != registry.COMPLETED:
        reason = "it serves as the version to go back to, without a completed promotion of its own"
        raise closed("record", reason, where)
    registry.remove_alias(client, name, registry.CHALLENGER, params.version)
    registry.remove_tags(client, name, state, registry.TAG_STEP, registry.TAG_PERCENT)
    version = -1
    rows = read_rows(lake, promotion)
    replaced = old if old != params.version else state.tag(registry.TAG_PREVIOUS)
    if not any(row.step == PROMOTE_ROW for row in rows):
        row = StepRow(
            promotion=promotion, model_version=params.version, step=PROMOTE_ROW,
            outcome=Outcome.PASS.value, reason=f"champion, in place of {replaced or 'none'}",
            champion_requests=sum(row.champion_requests for row in rows),
            challenger_requests=sum(row.challenger_requests for row in rows),
            started_at=started, decided_at=clock.now(),
        )  # fmt: skip
        version = write_row(lake, row)
        rows = read_rows(lake, promotion)
    log_timeline(client, state, rows)
    facts = {
        "outcome": Outcome.PASS.value,
        "model_version": params.version,
        "promotion_id": promotion,
        "champion": params.version,
        "previous": registry.read_aliases(client, name).get(registry.PREVIOUS, ""),
        "report": save_page(settings, promotion, rows) if promotion else "",
    }
    return Receipt(
        job="promote_champion", table="promotion_steps" if version >= 0 else "registry",
        partition=promotion, version=version, seconds=watch.seconds, facts=facts,
    )  # fmt: skip
