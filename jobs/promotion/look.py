"""What a verdict looks at: the evidence of a step, and what each check may spend of a promotion's alpha."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import isnan

import numpy as np
import pandas as pd

from jobs.conf.policy import Policy
from jobs.core import Check, Outcome
from jobs.promotion.sequential import look_number, look_size, spent_at
from jobs.promotion.state import percent_of, steps_of

TEXTS = ("request_id", "decision")
NUMBERS = ("customer_id", "score", "failed", "latency_ms", "seconds", "hour", "compared", "passed",
           "disputed", "requests")  # fmt: skip
CERTAIN = 1.0 - 1e-9  # no score says more: its log must be finite
SCORES_AT_MOST, LATENCIES_AT_MOST = 20_000, 5_000  # the latest of a look: enough for an estimate
HOUR_AT_MOST = 2_000  # scores from before the step in one hour of the day

# what can roll a version back; each has the same share of the step's alpha
CHECKS = (
    "error rate", "latency", "own shadow", "offline", "agreement", "decisions", "disputes", "calibration",
    "sample ratio",
)  # fmt: skip


def no_rows() -> pd.DataFrame:
    """A frame of evidence without rows.

    Columns: request_id, customer_id, score (NaN where none), failed (1: it raised or gave no score),
    latency_ms, seconds since the step's start, hour of the day (UTC) of the payment, decision before any
    holdout, compared (1: a model decided, and in shadow both have decided this request), passed (1: the
    payment went through), disputed (1: known as fraud by now), requests that the row stands for.
    A row of one request is that request. Rows of many, see `reduced`, have no request_id and no latency, and
    as their score the chance that one of them is a fraud.
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
    challenger_reference: pd.DataFrame | None = None  # its test rows: score, hour of the day
    champion_reference: pd.DataFrame | None = None
    silent_minutes: float = 0.0  # since the step's latest row

    @property
    def side_by_side(self) -> bool:
        """Whether both variants answer customers of one kind in this window."""
        return self.has_champion and 0 < percent_of(self.step) < 100


def joined(*frames: pd.DataFrame) -> pd.DataFrame:
    """One frame of all rows; an empty frame must not settle what kind its columns are of."""
    return pd.concat([each for each in frames if len(each)] or frames[:1], ignore_index=True)


def requests_in(rows: pd.DataFrame) -> int:
    """How many requests the rows stand for."""
    return int(rows["requests"].sum())


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
    number = look_number(requests_in(evidence.challenger))
    if number == 0:
        return Look(0, 0.0, evidence)
    in_order = evidence.challenger.sort_values("seconds", kind="stable")
    place = int(np.searchsorted(in_order["requests"].cumsum().to_numpy(), look_size(number)))
    end = float(in_order["seconds"].iloc[place])
    mine = evidence.challenger[evidence.challenger["seconds"] <= end]
    others = evidence.champion[evidence.champion["seconds"] <= end]
    alpha = spent_at(number, step_alpha(policy))
    return Look(number, alpha, replace(evidence, challenger=mine, champion=others))


def latest_scores(rows: pd.DataFrame) -> pd.DataFrame:
    """The latest requests with a score: enough for an estimate, few enough to draw from."""
    return _latest(rows, "score", SCORES_AT_MOST)


def latest_latencies(rows: pd.DataFrame) -> pd.DataFrame:
    """The latest requests with a latency."""
    return _latest(rows, "latency_ms", LATENCIES_AT_MOST)


def _latest(rows: pd.DataFrame, column: str, at_most: int) -> pd.DataFrame:
    # always in the order of time: which customers are drawn together must not follow the order of files
    return rows[rows[column].notna() & rows["request_id"].ne("")].nlargest(at_most, "seconds")


def latest_of_hours(rows: pd.DataFrame) -> pd.DataFrame:
    """Of each hour of the day the latest requests with a score: what a step at that hour is held against."""
    return _latest(rows, "score", len(rows)).groupby("hour", sort=False).head(HOUR_AT_MOST)


def sampled(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of a step that an estimate can ask for."""
    wanted = latest_scores(rows).index.union(latest_latencies(rows).index)
    return rows.loc[rows.index.isin(wanted)]


def has_latencies(rows: pd.DataFrame) -> bool:
    """Whether no estimate of latencies would ask for earlier rows."""
    return len(latest_latencies(rows)) == LATENCIES_AT_MOST


def covers(rows: pd.DataFrame, hours: set[int]) -> bool:
    """Whether no estimate at these hours of the day would ask for earlier rows."""
    full = rows["hour"].value_counts() >= HOUR_AT_MOST
    return hours <= set(full.index[full])


def reduced(rows: pd.DataFrame, look_end: float) -> pd.DataFrame:
    """Rows with the same verdict, as many as there are customers and a sample, however many requests.

    What a look's estimates ask for stays as it is; the rest is what counts: by customer, how many requests
    of each kind. `look_end` is the second at which the latest planned look ends.
    """
    in_look = rows["seconds"] <= look_end
    kept = sampled(rows[in_look])
    rest = rows[~rows.index.isin(kept.index)]
    if rest.empty:
        return rows
    kind = pd.factorize(rest["decision"])[0] * 2 + in_look[rest.index].to_numpy()
    for mark in ("failed", "compared", "passed", "disputed"):
        kind = kind * 2 + rest[mark].to_numpy(dtype=np.int64)
    customer = pd.factorize(rest["customer_id"])[0].astype(np.int64)
    group = pd.factorize(customer * (int(kind.max()) + 1) + kind)[0]
    left = np.log1p(-np.clip(rest["score"].fillna(0.0).to_numpy(dtype=np.float64), 0.0, CERTAIN))
    summed = rest[~pd.Series(group, index=rest.index).duplicated()].assign(
        request_id="",
        latency_ms=np.nan,
        seconds=rest["seconds"].groupby(group).min().to_numpy(),
        requests=np.bincount(group, rest["requests"].to_numpy(dtype=np.float64)),
    )
    score = -np.expm1(np.bincount(group, left))
    return joined(kept, summed.assign(score=np.where(summed["failed"].eq(1), np.nan, score)))


def made_check(name: str, outcome: Outcome, value: float, threshold: float, detail: str = "") -> Check:
    """A check whose missing value is no value."""
    return Check(
        name=name,
        outcome=outcome,
        value=None if isnan(value) else round(float(value), 6),
        threshold=threshold,
        detail=detail,
    )
