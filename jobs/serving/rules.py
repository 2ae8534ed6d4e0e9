"""The rules layer: what is decided before and beside any model, by the policy's lists and caps.

In: one request. Out: the rule that fired, if any, with its decision; the stricter of rule and model wins.
"""

from __future__ import annotations

from dataclasses import dataclass

from jobs.conf.policy import Rules
from jobs.serving.bundle import Decision

STRICTNESS: dict[Decision, int] = {"approve": 0, "review": 1, "challenge": 2, "block": 3}


@dataclass(frozen=True)
class RuleHit:
    """A rule that fired."""

    rule: str
    decision: Decision


class RulesLayer:
    """The rules of one policy."""

    def __init__(self, rules: Rules) -> None:
        self._customers = frozenset(rules.deny_customers)
        self._terminals = frozenset(rules.deny_terminals)
        self._cap = rules.amount_cap_minor

    def apply(self, customer_id: int, terminal_id: int, amount_minor: int) -> RuleHit | None:
        """The first rule that fires: deny lists block, an amount above the cap goes to a person."""
        if customer_id in self._customers:
            return RuleHit("deny_customer", "block")
        if terminal_id in self._terminals:
            return RuleHit("deny_terminal", "block")
        if amount_minor > self._cap:
            return RuleHit("amount_cap", "review")
        return None


def stricter(hit: RuleHit | None, decision: Decision) -> tuple[Decision, str]:
    """(decision, rule) of a rule and a model together; the rule is "" where the model decided."""
    if hit is None or STRICTNESS[decision] > STRICTNESS[hit.decision]:
        return decision, ""
    return hit.decision, hit.rule
