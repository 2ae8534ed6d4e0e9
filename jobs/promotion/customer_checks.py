"""What happens to customers under each variant: decisions, disputes, calibration, and who got which variant.

Requests of one customer are alike, so customers are counted: who was stopped at first, who has a fraud that
is known by now. A chi-square test on such counts is wrong exactly where a canary is young, with three blocks
expected and a millionth of alpha to spend: an e-process is right at every count and every look.
Labels are early: a fraud that is not known yet is no good payment. Both variants wait alike, so disputes are
compared with the champion's, and never with what the scores promise, where they are fewer. But the champion
is not the truth: after a drift it is the one who promises wrongly. Only more frauds than promised end a step.
"""

from __future__ import annotations

from math import nan

import numpy as np
import pandas as pd
from scipy import stats

from jobs.conf.policy import Policy
from jobs.core import Check, Outcome
from jobs.promotion.look import CERTAIN, Look, StepEvidence, made_check
from jobs.promotion.sequential import is_proven
from jobs.promotion.state import SHADOW_STEP, percent_of

APPROVE, BLOCK = "approve", "block"


def decisions(evidence: StepEvidence, policy: Policy, alpha: float) -> list[Check]:
    """Customers whom the challenger stops, and blocks, at their first request, against the champion's.

    In shadow both have decided the same requests; in the canary customers of the same kind. Of customers who
    come again and again either version stops nearly all some day: their ratio would go to one.
    """
    mine, others = (_first_requests(rows) for rows in (evidence.challenger, evidence.champion))
    stopped = [_customers(rows, ~rows["decision"].isin([APPROVE, ""])) for rows in (mine, others)]
    blocked = [_customers(rows, rows["decision"].eq(BLOCK)) for rows in (mine, others)]
    seen = len(mine), len(others)
    paired = evidence.step == SHADOW_STEP
    return [
        _mix_check(name, found[0], found[1], seen, policy.canary.decision_ratio_max, alpha / 2, paired=paired)
        for name, found in (
            ("customers stopped / champion", stopped),
            ("customers blocked / champion", blocked),
        )
    ]


def _first_requests(rows: pd.DataFrame) -> pd.DataFrame:
    """Of each customer the first request that can be compared."""
    in_order = rows[rows["compared"].eq(1)].sort_values("seconds", kind="stable")
    return in_order.drop_duplicates("customer_id")


def _customers(rows: pd.DataFrame, chosen: pd.Series) -> set[float]:
    return set(rows.loc[chosen, "customer_id"])


def _mix_check(
    name: str,
    mine: set[float],
    others: set[float],
    seen: tuple[int, int],
    limit: float,
    alpha: float,
    *,
    paired: bool,
) -> Check:
    if min(seen) == 0:
        return made_check(name, Outcome.INCONCLUSIVE, nan, limit, f"{name}: no requests to compare")
    ratio = ((len(mine) + 0.5) / seen[0]) / ((len(others) + 0.5) / seen[1])
    # on the same requests only those tell anything on which the two differ (McNemar 1947)
    first, second = (len(mine - others), len(others - mine)) if paired else (len(mine), len(others))
    share = 0.5 if paired else seen[0] / sum(seen)
    more = ratio > limit and is_proven(first, first + second, share, alpha / 2)
    fewer = ratio < 1 / limit and is_proven(second, first + second, 1 - share, alpha / 2)
    if more or fewer:
        detail = (
            f"{name} is {ratio:.2f} ({len(mine)} of {seen[0]}, {len(others)} of {seen[1]}), "
            f"allowed {1 / limit:.2g} to {limit:g}"
        )
        return made_check(name, Outcome.FAIL, ratio, limit, detail)
    return made_check(name, Outcome.PASS, ratio, limit, _by_chance(ratio, limit, len(mine) + len(others)))


def _by_chance(ratio: float, limit: float, customers: int) -> str:
    return "" if 1 / limit <= ratio <= limit else f"{customers} customers: it may be chance"


def disputes(evidence: StepEvidence, alpha: float) -> Check:
    """Customers with a known fraud that was let through, against the champion's in the same window."""
    name = "disputed customers, share of the challenger's"
    found = []
    for rows in (evidence.challenger, evidence.champion):
        through = rows[rows["decision"].ne(BLOCK) & rows["failed"].eq(0)]
        found.append((len(_customers(through, through["disputed"].eq(1))), rows["customer_id"].nunique()))
    (mine, customers), (others, beside) = found
    if customers == 0 or beside == 0:
        return made_check(name, Outcome.INCONCLUSIVE, nan, 0.0, "no customers to compare disputes of")
    intended, total = customers / (customers + beside), mine + others
    value = mine / total if total else nan
    if is_proven(mine, total, intended, alpha):
        detail = (
            f"early disputes are more: {mine} of {customers} customers of the challenger, "
            f"{others} of {beside} of the champion"
        )
        return made_check(name, Outcome.FAIL, value, intended, detail)
    return made_check(name, Outcome.PASS, value, intended)


def calibration(evidence: StepEvidence, policy: Policy, alpha: float) -> Check:
    """Known frauds over what the scores promise, against the champion's ratio in the same window.

    More than promised, and more than the champion's, fails. Where only the two differ, either may be wrong:
    the step is held, unless more frauds than the champion promised show that it is the champion.
    Where no champion answers beside it, only more frauds than promised tell anything: fewer are fewer labels.
    """
    limit = policy.canary.calibration_ratio_max
    mine, promised, customers = _known_and_promised(evidence.challenger)
    if not evidence.side_by_side:
        share = min(limit * promised / customers, 1.0) if customers else nan
        value = mine / promised if promised > 0 else nan
        if is_proven(mine, customers, share, alpha):
            detail = f"{mine} customers with a known fraud, its scores promise {promised:.1f}"
            return made_check("known frauds / promised", Outcome.FAIL, value, limit, detail)
        return made_check("known frauds / promised", Outcome.PASS, value, limit)
    name = "known frauds per promised / champion's"
    others, beside, theirs = _known_and_promised(evidence.champion)
    if promised <= 0 or beside <= 0:
        return made_check(name, Outcome.INCONCLUSIVE, nan, limit, "no scores to hold known frauds against")
    ratio = ((mine + 0.5) / promised) / ((others + 0.5) / beside)
    share, total = promised / (promised + beside), mine + others
    more = ratio > limit and is_proven(mine, total, share, alpha / 2)
    fewer = ratio < 1 / limit and is_proven(others, total, 1 - share, alpha / 2)
    if not (more or fewer):
        return made_check(name, Outcome.PASS, ratio if total else nan, limit, _by_chance(ratio, limit, total))
    detail = (
        f"{mine} customers with a known fraud of {promised:.1f} promised, the champion's {others} of "
        f"{beside:.1f}"
    )
    if more and is_proven(mine, customers, promised / customers, alpha / 2):
        return made_check(name, Outcome.FAIL, ratio, limit, f"scores promise too little: {detail}")
    if fewer and is_proven(others, theirs, beside / theirs, alpha / 2):
        return made_check(name, Outcome.PASS, ratio, limit, f"the champion promises too little: {detail}")
    mine_are, theirs_are = ("little", "much") if more else ("much", "little")
    said = f"scores promise too {mine_are}, or the champion's too {theirs_are}: {detail}"
    return made_check(name, Outcome.INCONCLUSIVE, ratio, limit, said)


def _known_and_promised(rows: pd.DataFrame) -> tuple[int, float, int]:
    """Customers with a known fraud, those that the scores promise, and all, over payments that went through.

    A customer is promised with one minus the product of what the scores leave.
    """
    through = rows[rows["passed"].eq(1) & rows["score"].notna()]
    left = np.log1p(-np.clip(through["score"].to_numpy(dtype=np.float64), 0.0, CERTAIN))
    codes, customers = pd.factorize(through["customer_id"])
    promised = float(-np.expm1(np.bincount(codes, weights=left, minlength=len(customers))).sum())
    return len(_customers(through, through["disputed"].eq(1))), promised, len(customers)


def sample_ratio(look: Look, policy: Policy) -> Check:
    """Customers who got the challenger against the intended share; requests of one are no fresh draws.

    Below the policy's p-value the step is held; below what the look may spend it fails.
    """
    name, limit = "sample ratio p", policy.canary.sample_ratio_p_value
    mine = look.evidence.challenger["customer_id"].nunique()
    others = look.evidence.champion["customer_id"].nunique()
    intended = percent_of(look.evidence.step) / 100
    if look.number == 0 or mine == 0:
        return made_check(name, Outcome.INCONCLUSIVE, nan, limit, "too few customers in the canary")
    p_value = float(stats.binomtest(mine, mine + others, intended).pvalue)
    detail = f"{mine} of {mine + others} customers in the canary, intended {intended:.0%}: p {p_value:.1g}"
    if p_value < min(look.alpha, limit):
        return made_check(name, Outcome.FAIL, p_value, limit, f"sample-ratio mismatch, {detail}")
    if p_value < limit:
        return made_check(name, Outcome.INCONCLUSIVE, p_value, limit, f"sample-ratio mismatch?, {detail}")
    return made_check(name, Outcome.PASS, p_value, limit)
