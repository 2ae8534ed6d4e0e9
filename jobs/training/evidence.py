"""What is known about a challenger when the gate judges it: plain figures, None where there is none."""

from __future__ import annotations

import math
from datetime import date

from pydantic import Field

from jobs.core import StrictModel

# what must have been tried before a gate may open
BEHAVIOURS = (
    "identifiers_and_labels_exchanged",
    "row_order",
    "one_row_at_a_time",
    "riskiest_terminal",
    "amount_times_5",
)
PLANTED = ("planted", "planted_with_gaps")
LEAK_CHECKS = ("labels_shuffled", *PLANTED)
DIGITS = 9  # by which figures are compared: 0.51 against 0.50 is +2 %, not a rounding error more


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


class Savings(StrictModel):
    """What the decision bands save a day on the test rows, in minor units; rules take no part."""

    challenger_minor: float | None
    champion_minor: float | None = None
    difference: Difference = Difference()  # its interval is Student's, over the days


class SliceFigures(StrictModel):
    """One slice of the test rows."""

    name: str
    rows: int
    positives: int
    pr_auc: float | None = None
    pr_auc_low: float | None = None
    pr_auc_high: float | None = None
    champion_pr_auc: float | None = None
    difference: Difference = Difference()


class WeekFigures(StrictModel):
    """Seven days of the test rows, counted from the first; the last may be fewer."""

    first: date
    last: date
    rows: int
    positives: int
    pr_auc: float | None = None
    pr_auc_low: float | None = None
    pr_auc_high: float | None = None


class DecisionFigures(StrictModel):
    """What lies in one decision band of the policy; amounts in minor units."""

    decision: str
    frauds: int
    good: int
    fraud_amount_minor: int
    good_amount_minor: int


class CostPoint(StrictModel):
    """What it costs to stop everything at or above a threshold, over all test rows, in minor units."""

    threshold: float
    cost_minor: float
    false_positive_rate: float
    fraud_caught: float


class Contribution(StrictModel):
    """What a feature moves the margin of the boosted trees by, over the explained rows."""

    feature: str
    mean_absolute: float = Field(description="mean of the contribution's size, in log-odds")
    rises: float | None = Field(None, description="rank correlation of the value with the contribution")


class Reason(StrictModel):
    """One feature's part in one score."""

    feature: str
    value: float | None = Field(description="None where it is missing")
    contribution: float = Field(description="to the margin of the boosted trees, in log-odds")


class CaseFigures(StrictModel):
    """One transaction with what raised its score most."""

    transaction_id: int
    day: date
    score: float
    is_fraud: bool
    reasons: tuple[Reason, ...]


class BehaviourFigures(StrictModel):
    """What scores do when the input changes in a way whose effect is known beforehand."""

    name: str
    expected: str
    rows: int = Field(description="rows whose input was changed")
    change: float | None = Field(description="largest (invariance) or mean (direction) change of the score")
    share_wrong: float | None = Field(description="share of the rows that move the wrong way")
    held: bool


class LeakFigures(StrictModel):
    """A check of the checks: a fault is put in on purpose, or the signal is taken out."""

    name: str
    expected: str
    value: float | None
    low: float | None = None
    high: float | None = None
    chance: float | None = None
    held: bool


class BandFigures(StrictModel):
    """One band of a group: which share of its frauds and of its good rows is above the threshold."""

    name: str
    rows: int
    positives: int
    true_positive_rate: float | None = None
    false_positive_rate: float | None = None
    champion_true_positive_rate: float | None = None
    champion_false_positive_rate: float | None = None


class GroupFigures(StrictModel):
    """One group of the contract, in its bands."""

    name: str
    bands: tuple[BandFigures, ...]


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
    groups_named: tuple[str, ...] = Field((), description="groups of the contract")
    groups: tuple[GroupFigures, ...] = ()
    latency_p50_ms: float | None = None
    latency_p99_ms: float | None = None
    operating_point: dict[str, float] = Field(default_factory=dict)
    cost_curve: tuple[CostPoint, ...] = ()
    decisions: tuple[DecisionFigures, ...] = ()
    champion_decisions: tuple[DecisionFigures, ...] = ()
    saved: Savings | None = None
    weeks: tuple[WeekFigures, ...] = ()
    importance: dict[str, float] = Field(default_factory=dict)
    contributions: tuple[Contribution, ...] = ()  # the largest first
    cases: tuple[CaseFigures, ...] = ()  # the highest scores
    behaviour: tuple[BehaviourFigures, ...] = ()
    leak_checks: tuple[LeakFigures, ...] = ()

    @property
    def has_champion(self) -> bool:
        return bool(self.champion_version) or self.champion is not None


def known(value: float | None) -> float | None:
    """A figure, or None where there is none or it is not a finite number."""
    return float(value) if value is not None and math.isfinite(value) else None
