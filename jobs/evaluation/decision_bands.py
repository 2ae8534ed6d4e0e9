"""What lies in each decision band of the policy, frauds and good rows with their amounts, and what it saves.

In: calibrated scores, labels 0/1, amounts in minor units. Out: DecisionFigures, the mildest band first;
Savings, the money of two models on the same rows.
The bands are those by which jobs.serving.bundle decides: a score on an edge belongs to the milder one, and
the strictest that applies counts. Rules take no part.
"""

from __future__ import annotations

from datetime import date

import numpy as np
import pandas as pd

from jobs.conf.contract import ErrorCosts
from jobs.conf.policy import Decisions
from jobs.evaluation.money import Floats, by_day, paired_interval, saved_minor
from jobs.training.evidence import DecisionFigures, Difference, Savings, known


def band_masks(scores: np.ndarray, decisions: Decisions) -> dict[str, np.ndarray]:
    """Rows of each decision."""
    open_rows = np.ones(len(scores), dtype=bool)
    found = {}
    for name, above in (
        ("block", decisions.block_above),
        ("challenge", decisions.challenge_above),
        ("review", decisions.review_above),
    ):
        found[name] = open_rows & (scores > above)
        open_rows &= ~found[name]
    return {"approve": open_rows} | dict(reversed(found.items()))


def decision_figures(
    scores: np.ndarray, labels: np.ndarray, amounts: np.ndarray, decisions: Decisions
) -> tuple[DecisionFigures, ...]:
    """Counts and amounts of frauds and good rows in each band."""
    fraud = labels == 1
    return tuple(
        DecisionFigures(
            decision=name,
            frauds=int((mask & fraud).sum()),
            good=int((mask & ~fraud).sum()),
            fraud_amount_minor=int(amounts[mask & fraud].sum()),
            good_amount_minor=int(amounts[mask & ~fraud].sum()),
        )
        for name, mask in band_masks(scores, decisions).items()
    )


def savings(
    challenger: np.ndarray,
    champion: np.ndarray | None,
    rows: pd.DataFrame,
    days: list[date],
    decisions: Decisions,
    costs: ErrorCosts,
) -> Savings:
    """What two models' decisions save a day on the same rows, and the difference."""

    def saved(scores: np.ndarray) -> Floats:
        stopped = ~band_masks(scores, decisions)["approve"]
        return by_day(saved_minor(stopped, rows["is_fraud"], rows["amount_minor"], costs), rows["day"], days)

    own = saved(challenger)
    if champion is None:
        return Savings(challenger_minor=known(own.mean()))
    other = saved(champion)
    low, high = paired_interval(own - other)
    difference = Difference(value=known((own - other).mean()), low=known(low), high=known(high))
    return Savings(
        challenger_minor=known(own.mean()), champion_minor=known(other.mean()), difference=difference
    )
