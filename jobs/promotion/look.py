"""What a verdict looks at: the evidence of a step, and what each check may spend of a promotion's alpha."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import isnan

import numpy as np
import pandas as pd

from jobs.conf.policy import Policy
from jobs.core import Check, Outcome
from jobs.monitoring.statistics import Floats
from jobs.promotion.sequential import look_number, look_size, spent_at
from jobs.promotion.state import percent_of, steps_of

TEXTS = ("request_id", "decision")
NUMBERS = ("customer_id", "score", "failed", "latency_ms", "seconds", "ruled", "passed", "disputed")

# what can roll a version back; each has the same share of the step's alpha
CHECKS = (
    "error rate", "latency", "own shadow", "offline", "agreement", "decisions", "disputes", "calibration",
    "sample ratio",
)  # fmt: skip


def no_rows() -> pd.DataFrame:
    """A frame of evidence without rows.

    Columns: request_id, customer_id, score (NaN where none), failed (1: it raised or gave no score),
    latency_ms, seconds since the step's start, decision before any holdout, ruled (1: a rule decided),
    passed (1: the payment went through), disputed (1: known as fraud by now).
    """
    texts = {name: pd.Series(dtype="object") for name in TEXTS}
    return pd.DataFrame(texts | {name: pd.Series(dtype="float64") for name in NUMBERS})


@dataclass(frozen=True)
class StepEvidence:
    """What is known about a step at one look."""

    step: str
    elapsed_minutes: float
    has_champion: bool
    challenger: pd.DataFrame  # its canary rows, or its shadow rows in the shadow step
    champion: pd.DataFrame  # the champion's answers in the same window
    champion_before: pd.DataFrame = field(default_factory=no_rows)  # of the promotion's earlier steps
    shadow: pd.DataFrame = field(default_factory=no_rows)  # the challenger's own shadow rows
    challenger_reference: Floats | None = None  # its offline scores on its test rows
    champion_reference: Floats | None = None

    @property
    def side_by_side(self) -> bool:
        """Whether both variants answer customers of one kind in this window."""
        return self.has_champion and 0 < percent_of(self.step) < 100


def step_alpha(policy: Policy) -> float:
    """The chance of a rollback by chance that one check of one step has, over all its looks."""
    return policy.canary.alpha / (len(steps_of(policy)) * len(CHECKS))


@dataclass(frozen=True)
class Look:
    """The latest planned look: the evidence as it was then, and what a check may spend on it."""

    number: int  # 0: before the first
    alpha: float
    evidence: StepEvidence


def latest_look(evidence: StepEvidence, policy: Policy) -> Look:
    """The evidence up to the request that made the latest planned look due.

    Asking twice between two looks gives the same evidence: it is one look, not two.
    """
    number = look_number(len(evidence.challenger))
    if number == 0:
        return Look(0, 0.0, evidence)
    times = evidence.challenger["seconds"].to_numpy(dtype=np.float64)
    end = float(np.partition(times, look_size(number) - 1)[look_size(number) - 1])
    mine = evidence.challenger[evidence.challenger["seconds"] <= end]
    others = evidence.champion[evidence.champion["seconds"] <= end]
    alpha = spent_at(number, step_alpha(policy))
    return Look(number, alpha, replace(evidence, challenger=mine, champion=others))


def latest_rows(rows: pd.DataFrame, column: str, at_most: int) -> pd.DataFrame:
    """The latest rows that have a value: enough for an estimate, few enough to draw from."""
    found = rows[rows[column].notna()]
    return found if len(found) <= at_most else found.nlargest(at_most, "seconds")


def made_check(name: str, outcome: Outcome, value: float, threshold: float, detail: str = "") -> Check:
    """A check whose missing value is no value."""
    return Check(
        name=name,
        outcome=outcome,
        value=None if isnan(value) else round(float(value), 6),
        threshold=threshold,
        detail=detail,
    )
