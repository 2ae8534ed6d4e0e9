"""Canary assignment: deterministic, salted, sticky, monotone, and as large as it was asked to be."""

from __future__ import annotations

from fractions import Fraction
from hashlib import blake2b

from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, chisquare

from jobs.serving.routing import assign, bucket_of, in_canary

CUSTOMERS = st.integers(0, 2**63 - 1)
PERCENTS = st.integers(0, 100)
SALTS = st.text(min_size=1, max_size=20)


@given(CUSTOMERS, PERCENTS, PERCENTS, SALTS)
def test_whoever_is_in_a_small_share_is_in_every_larger_one(
    customer: int, first: int, second: int, salt: str
) -> None:
    small, large = sorted((first, second))
    assert not in_canary(customer, small, salt) or in_canary(customer, large, salt)


@given(CUSTOMERS, SALTS)
def test_nobody_is_in_0_percent_and_everybody_is_in_100(customer: int, salt: str) -> None:
    assert not in_canary(customer, 0, salt)
    assert in_canary(customer, 100, salt)


@given(CUSTOMERS, PERCENTS, SALTS)
def test_the_answer_is_the_definition_in_exact_fractions(customer: int, percent: int, salt: str) -> None:
    digest = blake2b(f"{salt}:{customer}".encode()).digest()
    exact = Fraction(int.from_bytes(digest[:8], "big"), 2**64) * 100
    assert in_canary(customer, percent, salt) == (exact < percent)
    assert abs(bucket_of(customer, salt) - float(exact)) < 1e-9
    assert 0.0 <= bucket_of(customer, salt) < 100.0


@given(CUSTOMERS, PERCENTS, SALTS)
def test_without_a_challenger_everybody_has_the_champion(customer: int, percent: int, salt: str) -> None:
    assert assign(customer, percent, salt, challenger=False) == "champion"


def test_the_buckets_are_even_and_the_shares_are_those_asked_for() -> None:
    buckets = [bucket_of(customer, "sluice") for customer in range(20_000)]
    counts = [0] * 20
    for bucket in buckets:
        counts[int(bucket // 5)] += 1
    assert chisquare(counts).pvalue > 0.001
    for percent in (5, 25, 50):
        inside = sum(in_canary(customer, percent, "sluice") for customer in range(20_000))
        assert binomtest(inside, 20_000, percent / 100).pvalue > 0.001


def test_another_salt_draws_another_canary() -> None:
    first = {customer for customer in range(20_000) if in_canary(customer, 5, "first")}
    second = {customer for customer in range(20_000) if in_canary(customer, 5, "second")}
    shared = len(first & second)
    assert binomtest(shared, 20_000, 0.05 * 0.05).pvalue > 0.001
