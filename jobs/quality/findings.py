"""What a suite found: the form that the judging and the gate share."""

from __future__ import annotations

from typing import NamedTuple


class Finding(NamedTuple):
    """What one rule found."""

    rule: str
    passed: bool
    checked: int  # rows that it applies to
    broken: int  # rows that broke it
    observed: float | None  # a value that broke it
    error: str  # the rule could not be evaluated


class SuiteRun(NamedTuple):
    """What a suite found, and the page that shows it (relative to `<home>/reports`)."""

    findings: tuple[Finding, ...]
    page: str
