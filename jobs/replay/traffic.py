"""A day's transactions as live traffic: the routing, rules, models and decisions of the scoring service.

In: transactions with the features of their moment, who serves. Out: rows of the prediction log, as the
service writes them: one per answer, one per failure of a model, one per shadow score.
A transaction is served at its own time. Models score many rows in one call, which gives what single calls
give (tests/jobs/test_replay_traffic.py). No request travels, so there is no latency to measure: a request
takes PLAIN_MS, and SLOW_MS more where the version needs more than SLOW_FROM_MS for one row.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from jobs.conf.policy import Policy
from jobs.core import SluiceError
from jobs.features.declarations import FEATURE_VERSION, MODEL_FEATURES
from jobs.promotion.state import Routing
from jobs.serving.bundle import Decision, ModelBundle, decide
from jobs.serving.bundles import BundleRefused
from jobs.serving.log_rows import Prediction
from jobs.serving.routing import assign, held_out
from jobs.serving.rules import RuleHit, RulesLayer, stricter

PLAIN_MS = 2.0
SLOW_MS = 40.0
SLOW_FROM_MS = 10.0
Scores = npt.NDArray[np.float64]


@dataclass
class Served:
    """A loaded version."""

    version: str
    bundle: ModelBundle
    latency_ms: float
    errors: dict[int, str] = field(default_factory=dict)  # of the day at hand, by row


def load(version: str, folder: Path, policy: Policy) -> Served:
    """A version that can be served.

    Raises:
        BundleRefused: it was made for other features.
    """
    bundle = ModelBundle.load(folder, policy.decisions)
    if bundle.version_info.feature_version != FEATURE_VERSION or bundle.features != MODEL_FEATURES:
        raise BundleRefused(f"version {version}: made for other features than this code computes")
    slow = _one_row_ms(bundle) > SLOW_FROM_MS
    return Served(version, bundle, PLAIN_MS + (SLOW_MS if slow else 0.0))


def _one_row_ms(bundle: ModelBundle) -> float:
    """Processor time of the quickest of some calls: what else runs on the machine must not count."""
    row, taken = np.zeros((1, len(bundle.features)), dtype=np.float32), []
    for _ in range(5):
        start = time.thread_time()
        bundle.score(row)
        taken.append(time.thread_time() - start)
    return min(taken) * 1000


class Day:
    """The traffic of one day: columns as lists, scores of each version once."""

    def __init__(self, events: pd.DataFrame, policy: Policy) -> None:
        self.times = [moment.to_pydatetime() for moment in events["event_time"]]
        self.seconds = events["event_time"].astype("datetime64[us, UTC]").astype("int64").to_numpy() / 1e6
        self.columns = {
            name: events[name].astype("int64").tolist()
            for name in ("transaction_id", "customer_id", "terminal_id", "amount_minor")
        }
        self.matrix = events[list(MODEL_FEATURES)].to_numpy(dtype=np.float64)
        self.values: list[list[float]] = self.matrix.tolist()
        self.policy = policy
        self.rules = RulesLayer(policy.rules, MODEL_FEATURES)
        self._scores: dict[str, Scores] = {}

    def rows_until(self, moment: float) -> int:
        """How many of the day's rows came before an instant, in seconds since the epoch."""
        return int(np.searchsorted(self.seconds, moment, side="left"))

    def scores(self, model: Served) -> Scores:
        """Calibrated scores of all rows; NaN where the model raises, and `errors` says why."""
        if model.version not in self._scores:
            self._scores[model.version] = self._score(model)
        return self._scores[model.version]

    def _score(self, model: Served) -> Scores:
        model.errors = {}
        matrix = self.matrix.astype(np.float32)
        try:
            return model.bundle.score(matrix)
        except SluiceError:
            found = np.full(len(matrix), np.nan)
        for place, values in enumerate(self.values):
            try:
                found[place] = model.bundle.score_one(values)
            except SluiceError as error:
                model.errors[place] = str(error)[:300]
        return found

    def answers(self, first: int, last: int, routing: Routing, models: dict[str, Served]) -> list[Prediction]:
        """The log of the rows [first, last) under one routing; versions not in `models` are absent."""
        champion = models.get(routing.champion or "")
        challenger = models.get(routing.challenger or "")
        rows: list[Prediction] = []
        for place in range(first, last):
            rows += self._one(place, routing, champion, challenger)
        return rows

    def _one(
        self, place: int, routing: Routing, champion: Served | None, challenger: Served | None
    ) -> list[Prediction]:
        variant = assign(
            self.columns["customer_id"][place],
            routing.percent,
            self.policy.canary.salt,
            challenger=challenger is not None,
        )
        asked = [("champion", champion)]
        if variant == "canary":
            asked.insert(0, ("canary", challenger))
        rows, score, name, answering = [], None, "rules", None
        for name, model in asked:
            if model is None:
                continue
            value = float(self.scores(model)[place])
            if np.isfinite(value):
                score, answering = value, model
                break
            rows.append(self._row(place, routing, name, model, None, "", "", self._why(model, place)))
        hit = self.rules.apply(
            self.columns["customer_id"][place],
            self.columns["terminal_id"][place],
            self.columns["amount_minor"][place],
            self.values[place],
        )
        decision: Decision
        would_be = ""
        if answering is None or score is None:
            reason = "model_failed" if rows else "no_model"
            decision, rule = (hit.decision, hit.rule) if hit else ("approve", reason)
            name = "rules"
        else:
            decision, rule = decide(score, self.policy.decisions), ""
            if decision == "block" and self._is_held_out(place, hit):
                name, would_be, decision = "holdout", decision, "approve"
            else:
                decision, rule = stricter(hit, decision)
        rows.append(self._row(place, routing, name, answering, score, decision, rule, "", would_be=would_be))
        if challenger is not None and variant != "canary":
            rows.append(self._shadow(place, routing, challenger))
        return rows

    def _is_held_out(self, place: int, hit: RuleHit | None) -> bool:
        """Whether a would-be block is let through; never what a list blocks."""
        share, salt = self.policy.serving.holdout_share, self.policy.canary.salt
        denied = hit is not None and hit.decision == "block"
        return not denied and held_out(self.columns["transaction_id"][place], share, salt)

    def _shadow(self, place: int, routing: Routing, model: Served) -> Prediction:
        value = float(self.scores(model)[place])
        if not np.isfinite(value):
            return self._row(place, routing, "shadow", model, None, "", "", self._why(model, place))
        decision = decide(value, self.policy.decisions)
        return self._row(place, routing, "shadow", model, value, decision, "", "")

    def _why(self, model: Served, place: int) -> str:
        return model.errors.get(place, "the score is not finite")

    def _row(
        self,
        place: int,
        routing: Routing,
        variant: str,
        model: Served | None,
        score: float | None,
        decision: str,
        rule: str,
        error: str,
        *,
        would_be: str = "",
    ) -> Prediction:
        transaction = self.columns["transaction_id"][place]
        return Prediction(
            request_id=blake2b(f"replay:{transaction}".encode(), digest_size=16).hexdigest(),
            transaction_id=transaction,
            event_time=self.times[place],
            customer_id=self.columns["customer_id"][place],
            terminal_id=self.columns["terminal_id"][place],
            amount_minor=self.columns["amount_minor"][place],
            model_version=model.version if model else "",
            variant=variant,
            step=routing.step,
            score=score,
            decision=decision,
            rule=rule,
            error=error,
            latency_ms=model.latency_ms if model else PLAIN_MS,
            served_at=float(self.seconds[place]),
            names=MODEL_FEATURES,
            features=self.values[place],
            feature_version=FEATURE_VERSION,
            would_be=would_be,
        )
