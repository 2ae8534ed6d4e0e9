"""Record that a person approved a version: mirrored to the version's tags in MLflow.

In: the version, who, when (ISO instant). Out: tags sluice.approved_by, sluice.approved_at,
sluice.approved_version and sluice.approved_promotion. An approval is bound to one promotion of one version
(given before the version is offered: to its next one), expires (policy), and opens no gate that found a
fault.
Errors: SluiceError where there is no such version or the instant cannot be read; GateClosed where the gate
blocked the version, its author approves it or is not known, or the instant is too old or still to come.
"""

from __future__ import annotations

from pydantic import Field

from jobs import clock
from jobs.conf.policy import policy_of
from jobs.conf.settings import Settings
from jobs.core import JobParams, Receipt, SluiceError, Stopwatch
from jobs.promotion.record import age_problem, author_problem, closed, instant
from jobs.promotion.state import (
    GATE_AUTOMATIC,
    GATE_PERSON,
    TAG_APPROVED_AT,
    TAG_APPROVED_BY,
    TAG_APPROVED_PROMOTION,
    TAG_APPROVED_VERSION,
    TAG_GATE,
    TAG_GATE_REASON,
    TAG_PROMOTION,
    TAG_PROMOTION_ID,
    UNDER_WAY,
    now_text,
    read_version,
    registry_client,
    remove_tags,
    write_tags,
)

READS: tuple[str, ...] = ("registry",)
WRITES: tuple[str, ...] = ("registry",)


class Params(JobParams):
    version: str = Field(pattern=r"^\d+$", description="version of the registered model")
    person: str = Field(pattern=r"\S", description="who approves")
    at: str = Field("", description="ISO instant of the approval, now where empty")


def run(params: Params, settings: Settings) -> Receipt:
    watch = Stopwatch()
    client, name = registry_client(settings), settings.model_name
    where = f"record_approval version {params.version}"
    state = read_version(client, name, params.version)
    if state is None:
        raise SluiceError(f"{where}: {name} has no such version; look it up in MLflow")
    if state.tag(TAG_GATE) not in (GATE_AUTOMATIC, GATE_PERSON):
        reason = state.tag(TAG_GATE_REASON) or "no gate evidence"
        raise closed("gate", f"the gate is closed ({reason}); an approval cannot open it", where)
    if problem := author_problem(state, params.person):
        raise closed("approver", problem, where)
    at = instant(params.at or now_text())
    if problem := age_problem(at.isoformat(), policy_of(settings), clock.now()):
        raise closed("approval", problem, where)
    promotion = state.tag(TAG_PROMOTION_ID) if state.tag(TAG_PROMOTION) in UNDER_WAY else ""
    tags = {
        **({TAG_APPROVED_PROMOTION: promotion} if promotion else {}),
        TAG_APPROVED_VERSION: params.version,
        TAG_APPROVED_AT: at.isoformat(timespec="milliseconds"),
        TAG_APPROVED_BY: params.person.strip(),  # last: without it there is no approval
    }
    # first the name goes: half an approval must not borrow an earlier person's
    remove_tags(client, name, state, TAG_APPROVED_BY, TAG_APPROVED_PROMOTION)
    write_tags(client, name, params.version, tags)
    facts = {"person": params.person, "at": tags[TAG_APPROVED_AT], "model_version": params.version}
    return Receipt(job="record_approval", table="registry", seconds=watch.seconds, facts=facts)
