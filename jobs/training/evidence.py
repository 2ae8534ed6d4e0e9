"""What is known about a challenger when the gate judges it: plain figures, None where there is none."""

from __future__ import annotations

import math
from datetime import date

from pydantic import Field

from jobs.core import StrictModel


class Figures(StrictModel):
    """One model on the test rows."""

    name: str
    pr_auc: float | None = None
    pr_auc_low: float | None = None
    pr_auc_high: float | None = None
    roc_auc: float | None = None
    roc_auc_low: float | None = None
    roc_auc_high: float | None = None
    ece: float | None = None
    brier: float | None = None
    recall_at_fpr: float | None = None
    card_precision: float | None = None


class Difference(StrictModel):
    """Challenger minus the model that it is compared with, on the same rows."""

    value: float | None = None
    low: float | None = None  # ends of the paired 95 % bootstrap interval
    high: float | None = None


class SliceFigures(StrictModel):
    """One slice of the test rows."""

    name: str
    rows: int
    positives: int
    pr_auc: float | None = None
    champion_pr_auc: float | None = None
    difference: Difference = Difference()


class Evidence(StrictModel):
    """Everything that the gate may look at."""

    run: str
    day: date
    test_first: date
    test_last: date
    rows: int
    positives: int
    bundle_digest: str
    challenger: Figures
    champion: Figures | None = None
    champion_version: str = ""
    champion_digest: str = ""
    champion_problem: str = Field("", description="why the champion could not be rescored")
    difference: Difference = Difference()
    baselines: tuple[Figures, ...] = ()
    slices_named: tuple[str, ...] = Field((), description="slices of the contract")
    slices: tuple[SliceFigures, ...] = ()
    latency_p50_ms: float | None = None
    latency_p99_ms: float | None = None
    operating_point: dict[str, float] = Field(default_factory=dict)
    importance: dict[str, float] = Field(default_factory=dict)


def known(value: float) -> float | None:
    """A figure, or None where it is not a finite number."""
    return float(value) if math.isfinite(value) else None
