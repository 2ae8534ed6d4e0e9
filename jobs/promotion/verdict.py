"""The verdict on one promotion step: rows of the prediction log in, a `Verdict` out. No I/O, no clock.

In: `StepEvidence`, see jobs/promotion/look.py.
Out: fail as soon as the evidence is beyond chance, whatever the time; pass only when time, sample and every
figure are there; inconclusive otherwise.

A rollback for noise costs a good version: over all steps, checks and looks of a promotion together, chance
may cost it one time in 1 / `canary.alpha`, see jobs/promotion/sequential.py. Requests of one customer are
alike, and latency comes in bursts that hit both variants: customers, and slices of time, are what is drawn.
"""

from __future__ import annotations

from math import nan

import pandas as pd
from scipy import stats

from jobs.conf.policy import Policy
from jobs.core import Check, Outcome, Verdict
from jobs.promotion.customer_checks import calibration, decisions, disputes, sample_ratio
from jobs.promotion.latency_checks import latency
from jobs.promotion.look import StepEvidence, latest_look, made_check, requests_in, step_alpha
from jobs.promotion.score_checks import agreement, scores
from jobs.promotion.sequential import is_proven
from jobs.promotion.state import SHADOW_STEP, minutes_of, percent_of, requests_of


def judge(evidence: StepEvidence, policy: Policy) -> Verdict:
    """The verdict on a step at this look."""
    look, alpha = latest_look(evidence, policy), step_alpha(policy)
    checks = [
        _time(evidence, policy),
        _sample(evidence, policy),
        _errors(evidence, policy, alpha),
        latency(look, policy),
        *scores(look, policy),
    ]
    if evidence.has_champion and evidence.step == SHADOW_STEP:
        checks.append(agreement(look, policy))
    if evidence.has_champion and percent_of(evidence.step) < 100:
        checks += decisions(evidence, policy, alpha)
    if percent_of(evidence.step):
        checks.append(calibration(evidence, policy, alpha))
    if evidence.side_by_side:
        checks += [disputes(evidence, alpha), sample_ratio(look, policy)]
    return Verdict.of(checks)


def _time(evidence: StepEvidence, policy: Policy) -> Check:
    needed = minutes_of(evidence.step, policy)
    done = evidence.elapsed_minutes >= needed
    return Check(
        name="time",
        outcome=Outcome.PASS if done else Outcome.INCONCLUSIVE,
        value=round(evidence.elapsed_minutes, 3),
        threshold=needed,
        detail="" if done else f"{evidence.elapsed_minutes:.2f} of {needed:g} minutes have passed",
    )


def _sample(evidence: StepEvidence, policy: Policy) -> Check:
    needed, got = requests_of(evidence.step, policy), requests_in(evidence.challenger)
    detail = "" if got >= needed else f"{got} of {needed} requests of the challenger"
    return Check(
        name="requests",
        outcome=Outcome.PASS if got >= needed else Outcome.INCONCLUSIVE,
        value=got,
        threshold=needed,
        detail=detail if got else "no traffic reached the challenger",
    )


def _errors(evidence: StepEvidence, policy: Policy, alpha: float) -> Check:
    """Share of requests on which the challenger raised or gave no score."""
    limit, rows, failed = policy.canary.error_rate_max, *_failures(evidence.challenger)
    rate = failed / rows if rows else nan
    allowed = max(limit, _champion_errors(evidence, limit, alpha))
    if is_proven(failed, rows, allowed, alpha):
        detail = f"error rate {rate:.1%} ({failed} of {rows}), allowed {allowed:.1%}"
        return made_check("error rate", Outcome.FAIL, rate, limit, detail)
    if rows == 0 or rate > allowed:
        detail = f"{failed} errors in {rows} requests: too few to tell from {allowed:.1%}"
        return made_check("error rate", Outcome.INCONCLUSIVE, rate, limit, detail)
    return made_check("error rate", Outcome.PASS, rate, limit)


def _failures(rows: pd.DataFrame) -> tuple[int, int]:
    return requests_in(rows), requests_in(rows[rows["failed"].eq(1)])


def _champion_errors(evidence: StepEvidence, limit: float, alpha: float) -> float:
    """What the champion's error rate may be: a fault of both, such as a store that is down, is no one's."""
    rows, failed = _failures(evidence.champion)
    if not evidence.has_champion or rows == 0 or failed / rows <= limit:
        return 0.0
    return 1.0 if failed == rows else float(stats.beta.isf(alpha, failed + 1, rows - failed))
