"""The rules layer: what is decided before and beside any model, by the policy's lists, caps and velocities.

In: one request and its features, as far as they are known. Out: the strictest rule that fired, if any, with
its decision; the stricter of rule and model wins. A rule whose feature is missing does not fire.
Counts and sums are of the customer's payments in the window before the event, and of this one; where there is
none before, a single amount is the cap's matter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jobs.conf.policy import Rules
from jobs.serving.bundle import Decision

STRICTNESS: dict[Decision, int] = {"approve": 0, "review": 1, "challenge": 2, "block": 3}
MINOR_UNITS = 100
NEW_PAIR = "pair_is_new_30d"
# what the rules read of the features, which are of the time before the event
RULE_FEATURES = (
    "customer_count_5m",
    "customer_count_1h",
    "customer_amount_sum_5m",
    "customer_amount_sum_1h",
    NEW_PAIR,
)


@dataclass(frozen=True, slots=True)
class RuleHit:
    """A rule that fired."""

    rule: str
    decision: Decision


class RulesLayer:
    """The rules of one policy, reading features in the order of `names`."""

    def __init__(self, rules: Rules, names: Sequence[str]) -> None:
        self._customers = frozenset(rules.deny_customers)
        self._terminals = frozenset(rules.deny_terminals)
        self._cap = rules.amount_cap_minor
        self._new_pair_cap = rules.new_pair_amount_max_minor
        places = {name: place for place, name in enumerate(names)}
        self._new_pair = places.get(NEW_PAIR)
        # (place, the most that the payments before may come to, whether this payment's amount is part of it)
        limits = {
            "customer_count_5m": (float(rules.customer_count_5m_max - 1), False),
            "customer_count_1h": (float(rules.customer_count_1h_max - 1), False),
            "customer_amount_sum_5m": (rules.customer_amount_5m_max_minor / MINOR_UNITS, True),
            "customer_amount_sum_1h": (rules.customer_amount_1h_max_minor / MINOR_UNITS, True),
        }
        self._velocity = [
            (RuleHit(name, "challenge"), places[name], most, adds)
            for name, (most, adds) in limits.items()
            if name in places
        ]

    def apply(
        self, customer_id: int, terminal_id: int, amount_minor: int, values: Sequence[float] | None
    ) -> RuleHit | None:
        """The strictest rule that fires: lists block, velocities challenge, amounts go to a person."""
        if customer_id in self._customers:
            return DENY_CUSTOMER
        if terminal_id in self._terminals:
            return DENY_TERMINAL
        if values is not None:
            amount = amount_minor / MINOR_UNITS
            for hit, place, most, adds in self._velocity:
                # NaN is above nothing: a missing feature fires no rule
                before = values[place]
                if before > 0 and before + (amount if adds else 0.0) > most:
                    return hit
        if amount_minor > self._cap:
            return AMOUNT_CAP
        if (
            values is not None
            and amount_minor > self._new_pair_cap
            and self._new_pair is not None
            and values[self._new_pair] == 1.0
        ):
            return NEW_PAIR_AMOUNT
        return None


DENY_CUSTOMER = RuleHit("deny_customer", "block")
DENY_TERMINAL = RuleHit("deny_terminal", "block")
AMOUNT_CAP = RuleHit("amount_cap", "review")
NEW_PAIR_AMOUNT = RuleHit("new_pair_amount", "review")


def stricter(hit: RuleHit | None, decision: Decision) -> tuple[Decision, str]:
    """(decision, rule) of a rule and a model together; the rule is "" where the model decided."""
    if hit is None or STRICTNESS[decision] > STRICTNESS[hit.decision]:
        return decision, ""
    return hit.decision, hit.rule
