"""The rules layer, and the share of blocks that is let through."""

from __future__ import annotations

import math
from typing import Any

import pytest

from jobs.conf.policy import load_policy
from jobs.serving.routing import held_out, in_canary
from jobs.serving.rules import RULE_FEATURES, RuleHit, RulesLayer, stricter

RULES = load_policy().rules
QUIET = dict.fromkeys(RULE_FEATURES, 0.0)


def fired(amount: float = 10.0, rules: dict[str, Any] | None = None, **features: float) -> RuleHit | None:
    """What fires for customer 1 at terminal 2, whose features are 0 where nothing else is said."""
    layer = RulesLayer(RULES.model_copy(update=rules or {}), RULE_FEATURES)
    return layer.apply(1, 2, round(amount * 100), [*(QUIET | features).values()])


def test_an_ordinary_payment_fires_nothing() -> None:
    assert fired() is None


@pytest.mark.parametrize(
    ("amount", "features", "expected"),
    [
        (10, {"customer_count_5m": 2.0}, None),  # the third
        (10, {"customer_count_5m": 3.0}, ("customer_count_5m", "challenge")),  # the fourth
        (10, {"customer_count_1h": 4.0}, None),
        (10, {"customer_count_1h": 5.0}, ("customer_count_1h", "challenge")),
        (300, {"customer_amount_sum_5m": 500.0}, None),  # 800 in all
        (300.01, {"customer_amount_sum_5m": 500.0}, ("customer_amount_sum_5m", "challenge")),
        (100, {"customer_amount_sum_1h": 1400.0}, None),
        (100.01, {"customer_amount_sum_1h": 1400.0}, ("customer_amount_sum_1h", "challenge")),
        (300, {"pair_is_new_30d": 1.0}, None),
        (300.01, {"pair_is_new_30d": 1.0}, ("new_pair_amount", "review")),
        (300.01, {"pair_is_new_30d": 0.0}, None),
        (5000.0, {}, None),
        (5000.01, {}, ("amount_cap", "review")),  # one payment is no velocity
        (5000.01, {"customer_amount_sum_1h": 0.01}, ("customer_amount_sum_1h", "challenge")),  # the strictest
    ],
)
def test_each_rule_fires_just_above_its_threshold(
    amount: float, features: dict[str, float], expected: tuple[str, str] | None
) -> None:
    found = fired(amount, **features)
    assert (None if found is None else (found.rule, found.decision)) == expected


def test_a_list_blocks_whatever_else_is_known() -> None:
    assert fired(rules={"deny_customers": (1,)}) == RuleHit("deny_customer", "block")
    assert fired(rules={"deny_terminals": (2,)}, customer_count_5m=9.0) == RuleHit("deny_terminal", "block")


def test_the_stricter_of_rule_and_model_wins() -> None:
    cap = RuleHit("amount_cap", "review")
    assert stricter(None, "approve") == ("approve", "")
    assert stricter(cap, "approve") == ("review", "amount_cap")
    assert stricter(cap, "review") == ("review", "amount_cap")
    assert stricter(cap, "block") == ("block", "")
    assert stricter(RuleHit("deny_customer", "block"), "approve") == ("block", "deny_customer")


def test_a_missing_feature_fires_nothing() -> None:
    assert fired(4999, **dict.fromkeys(RULE_FEATURES, math.nan)) is None
    layer = RulesLayer(RULES, RULE_FEATURES)
    assert layer.apply(1, 2, 499_900, None) is None
    assert layer.apply(1, 2, 500_001, None) == RuleHit("amount_cap", "review")
    # a model whose features the rules do not know
    assert RulesLayer(RULES, ("amount",)).apply(1, 2, 499_900, [4999.0]) is None


def test_the_holdout_is_a_fixed_share_of_transactions_and_no_matter_of_the_canary() -> None:
    share, numbers = 0.02, range(50_000)
    chosen = {number for number in numbers if held_out(number, share, "salt")}
    assert abs(len(chosen) / len(numbers) - share) < 4 * math.sqrt(share * (1 - share) / len(numbers))
    assert {number for number in numbers if held_out(number, share / 2, "salt")} < chosen  # monotone
    assert chosen != {number for number in numbers if held_out(number, share, "another")}
    in_both = sum(in_canary(number, 50, "salt") for number in chosen) / len(chosen)
    assert abs(in_both - 0.5) < 4 * math.sqrt(0.25 / len(chosen))
    assert not any(held_out(number, 0.0, "salt") for number in numbers)
    assert all(held_out(number, 1.0, "salt") for number in numbers)
