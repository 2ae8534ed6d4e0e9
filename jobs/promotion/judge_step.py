"""The verdict on the running step of a promotion, from the prediction log.

In: the version, its step, the log since the step's start. Out: a receipt with `outcome` pass or inconclusive,
and a row of the record once the step is decided. Inconclusive is no error: the operator that waits looks
again after the policy's poll_seconds; its owner hears once where a step is held for long, or where no row of
it comes into the log while customers have the version. Where alias champion points at a version that serving
does not accept, the step is compared with the champion of the gate's evidence, and does not pass until the
alias is set back.
Errors: GateClosed where the step fails; the challenger's traffic is taken away before it is raised, so that
nothing depends on who handles it; and where the step does not run. Any other error is no verdict: look again.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from pydantic import Field

from jobs.alerts import Alert, raise_alerts
from jobs.clock import now as utc_now
from jobs.conf.contract import contract_of
from jobs.conf.policy import Policy, policy_of
from jobs.conf.settings import Settings
from jobs.core import Check, GateClosed, JobParams, Outcome, Receipt, Stopwatch, Verdict
from jobs.lake.store import Lake, lake_of
from jobs.promotion import state as registry
from jobs.promotion.evidence import gather
from jobs.promotion.look import StepEvidence, latest_look, requests_in, step_alpha
from jobs.promotion.record import (
    StepRow,
    closed,
    evidence_text,
    instant,
    passed_steps,
    read_rows,
    require_offered,
    required_steps,
    write_row,
)
from jobs.promotion.roll_back import withdraw
from jobs.promotion.start_step import known_step, known_version
from jobs.promotion.state import VersionState
from jobs.promotion.timeline import log_timeline, save_page
from jobs.promotion.verdict import judge

if TYPE_CHECKING:
    from mlflow import MlflowClient

READS: tuple[str, ...] = ("registry", "predictions", "labels", "reference")
WRITES: tuple[str, ...] = ("promotion_steps", "alerts")

HELD_TIMES, HELD_MINUTES = 3.0, 60.0  # as long as the step takes at least, and no less: then its owner hears
SILENT_MINUTES = 10.0  # without a row of the log: nobody can tell then how a canary does


class Params(JobParams):
    version: str = Field(pattern=r"^\d+$", description="version of the registered model")
    step: str = Field(description="shadow, canary_5, … as the policy names them")


def run(params: Params, settings: Settings) -> Receipt:
    watch = Stopwatch()
    policy, name = policy_of(settings), settings.model_name
    where = f"judge_step {params.step} of version {params.version}"
    known_step(params.step, policy, where)
    state = known_version(settings, params.version, where)
    client, lake = registry.registry_client(settings), lake_of(settings)
    aliases = registry.read_aliases(client, name)
    champion_version, champion_problem = registry.settled_champion(client, name)
    passed = passed_steps(lake, state)
    if params.step in passed:
        return _receipt(params, state, passed[params.step], watch)
    needed = params.step in required_steps(policy, bool(champion_version))
    if not champion_problem and (champion_version == params.version or not needed):
        facts = {"outcome": "pass", "model_version": params.version, "step": params.step,
                 "skipped": "no canary without a champion to stand beside"}  # fmt: skip
        return Receipt(job="judge_step", seconds=watch.seconds, facts=facts)
    require_offered(aliases, params.version, where)
    started = _started(state, params.step, where)
    if champion_problem:
        champion_version = state.tag(registry.TAG_JUDGED_AGAINST)  # serving keeps the last accepted one
    rows = read_rows(lake, state.tag(registry.TAG_PROMOTION_ID))
    champion = registry.read_version(client, name, champion_version) if champion_version else None
    now = utc_now()
    evidence = gather(
        settings,
        state=state,
        champion=champion,
        step=params.step,
        step_started=started,
        promotion_started=min([started, *(row.started_at for row in rows)]),
        now=now,
    )
    verdict = judge(evidence, policy)
    if champion_problem:
        held = Check(name="champion", outcome=Outcome.INCONCLUSIVE, detail=champion_problem)
        verdict = Verdict.of([held, *verdict.checks])
    row = _row(params, state, verdict, evidence, policy, started, now)
    if verdict.outcome is Outcome.INCONCLUSIVE:
        if alerts := _alerts(row, evidence, policy, contract_of(settings).owner):
            raise_alerts(settings, alerts)
        return _receipt(params, state, row, watch)
    if verdict.outcome is Outcome.FAIL:
        # the record may wait for a lake that does not answer, customers may not
        withdraw(client, name, params.version, f"{params.step}: {verdict.reason}")
        write_row(lake, row)
        raise GateClosed(verdict, where, _told(client, state, lake, settings))
    version = write_row(lake, row)
    report = _told(client, state, lake, settings)
    return _receipt(params, state, row, watch, version, report)


def _told(client: MlflowClient, state: VersionState, lake: Lake, settings: Settings) -> str:
    """Picture and page of the promotion so far; gives the page's place."""
    promotion = state.tag(registry.TAG_PROMOTION_ID)
    rows = read_rows(lake, promotion)
    log_timeline(client, state, rows)
    return save_page(settings, promotion, rows)


def _alerts(row: StepRow, evidence: StepEvidence, policy: Policy, owner: str) -> list[Alert]:
    """What a person should know of a step that is held, once per step."""
    minutes = max(HELD_TIMES * registry.minutes_of(row.step, policy), HELD_MINUTES)
    place, step = f"{row.promotion}/{row.step}", f"step {row.step} of version {row.model_version}"
    found = []
    if evidence.elapsed_minutes > minutes:
        cause = f"{step} is held after {evidence.elapsed_minutes:.0f} minutes: {row.reason}"
        action = "see what is missing; take the version back where nothing will change"
        found.append(Alert(key=f"promotion-held/{place}", cause=cause, owner=owner, action=action))
    if registry.percent_of(row.step) and evidence.silent_minutes > SILENT_MINUTES:
        cause = f"{step} has no row in the prediction log for {evidence.silent_minutes:.0f} minutes"
        action = (
            "look at the scoring service and its log: customers may have the version, and nobody judges it"
        )
        found.append(Alert(key=f"promotion-unseen/{place}", cause=cause, owner=owner, action=action))
    return found


def _started(state: VersionState, step: str, where: str) -> datetime:
    running, at = state.tag(registry.TAG_STEP), state.tag(registry.TAG_STEP_STARTED_AT)
    if running != step or not at:
        reason = f"the running step is {running or 'none'}; `sluice start_step` starts one"
        raise closed("step", reason, where)
    return instant(at)


def _row(
    params: Params,
    state: VersionState,
    verdict: Verdict,
    evidence: StepEvidence,
    policy: Policy,
    started: datetime,
    now: datetime,
) -> StepRow:
    return StepRow(
        promotion=state.tag(registry.TAG_PROMOTION_ID),
        model_version=params.version,
        step=params.step,
        outcome=verdict.outcome.value,
        reason=verdict.reason,
        champion_requests=requests_in(evidence.champion),
        challenger_requests=requests_in(evidence.challenger),
        started_at=started,
        decided_at=now,
        evidence=evidence_text(
            verdict,
            {
                "champion_customers": int(evidence.champion["customer_id"].nunique()),
                "challenger_customers": int(evidence.challenger["customer_id"].nunique()),
                "look": latest_look(evidence, policy).number,
                "alpha": step_alpha(policy),
            },
        ),
    )


def _receipt(
    params: Params,
    state: VersionState,
    row: StepRow,
    watch: Stopwatch,
    version: int = -1,
    report: str = "",
) -> Receipt:
    facts = {
        "outcome": row.outcome,
        "reason": row.reason[:500],
        "model_version": params.version,
        "step": params.step,
        "promotion_id": row.promotion,
        "champion_requests": row.champion_requests,
        "challenger_requests": row.challenger_requests,
        "started_at": row.started_at.isoformat(),
        "decided_at": row.decided_at.isoformat(),
        "report": report,
    }
    return Receipt(
        job="judge_step", table="promotion_steps" if version >= 0 else "", partition=row.promotion,
        version=version, rows=row.champion_requests + row.challenger_requests,
        seconds=watch.seconds, facts=facts,
    )  # fmt: skip
