"""What evidence holds beside the figures that the gate compares: the least of each part that it needs."""

from __future__ import annotations

from datetime import date
from typing import Any

from jobs.training.evidence import (
    BEHAVIOURS,
    LEAK_CHECKS,
    BehaviourFigures,
    CaseFigures,
    Contribution,
    CostPoint,
    DecisionFigures,
    Difference,
    LeakFigures,
    Reason,
    Savings,
    WeekFigures,
)

OTHER_FIGURES = {
    "pr_auc_low": 0.5, "pr_auc_high": 0.6, "roc_auc": 0.9, "roc_auc_low": 0.88, "roc_auc_high": 0.92,
    "brier": 0.01, "recall_at_fpr": 0.7, "card_precision": 0.3,
}  # fmt: skip
DECISIONS = tuple(
    DecisionFigures(
        decision=decision,
        frauds=frauds,
        good=good,
        fraud_amount_minor=frauds * 100_00,
        good_amount_minor=good * 5_00,
    )
    for decision, frauds, good in (
        ("approve", 50, 8_900),
        ("review", 5, 20),
        ("challenge", 6, 10),
        ("block", 29, 1),
    )
)
SHOWN: dict[str, Any] = {
    "latency_p50_ms": 1.0,
    "latency_p99_ms": 2.0,
    "operating_point": {"chosen_threshold": 0.5, "chosen_cost_minor": 100_00.0},
    "cost_curve": (
        CostPoint(threshold=0.5, cost_minor=100_00.0, false_positive_rate=0.01, fraud_caught=0.8),
    ),
    "decisions": DECISIONS,
    "champion_decisions": DECISIONS,
    "saved": Savings(
        challenger_minor=950_00.0,
        champion_minor=900_00.0,
        difference=Difference(value=50_00.0, low=-10_00.0, high=110_00.0),
    ),
    "weeks": (
        WeekFigures(first=date(2026, 1, 30), last=date(2026, 2, 5), rows=9_000, positives=90, pr_auc=0.55),
    ),
    "importance": {"amount": 1.0},
    "contributions": (Contribution(feature="amount", mean_absolute=0.2, rises=0.9),),
    "cases": (
        CaseFigures(
            transaction_id=1,
            day=date(2026, 1, 30),
            score=0.99,
            is_fraud=True,
            reasons=(Reason(feature="amount", value=900.0, contribution=2.0),),
        ),
    ),
    "behaviour": tuple(
        BehaviourFigures(name=name, expected="", rows=200, change=0.0, share_wrong=0.0, held=True)
        for name in BEHAVIOURS
    ),
    "leak_checks": tuple(LeakFigures(name=name, expected="", value=1.0, held=True) for name in LEAK_CHECKS),
}
