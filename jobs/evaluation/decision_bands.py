"""What lies in each decision band of the policy: frauds and good rows, with their amounts.

In: calibrated scores, labels 0/1, amounts in minor units. Out: DecisionFigures, the mildest band first.
The bands are those by which jobs.serving.bundle decides: a score on an edge belongs to the milder one, and
the strictest that applies counts. Rules take no part.
"""

from __future__ import annotations

import numpy as np

from jobs.conf.policy import Decisions
from jobs.training.evidence import DecisionFigures


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
