"""Cases whose goal is that there is none of something."""

from __future__ import annotations

from tests.benchmarks.__main__ import Case


def none(case: str, count: int) -> Case:
    """A case whose goal is that there is none."""
    return Case(case, count, None, "", "0", count == 0)


def within(case: str, seconds: float, goal: float) -> Case:
    """A case whose goal is to take no longer."""
    return Case(case, seconds, None, "s", f"<= {goal:g}", seconds <= goal)
