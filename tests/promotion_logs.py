"""Whole promotions of good versions, from a log: what of chance the verdict's own code makes a rollback of.

Bundles score simulated payments, and rows become what the scoring service makes of them: routing, rules,
holdouts, shadows (jobs/replay/traffic.py, which a test holds to the service). They are appended to a lake and
read back as a look of the promotion reads them. Each promotion has other customers, payments and salt.
What the rows lack is a machine: latencies are drawn, busy in bursts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import pyarrow as pa

from jobs.conf.policy import Policy
from jobs.conf.settings import load_settings
from jobs.core import Outcome, Verdict
from jobs.features.declarations import FEATURE_VERSION, MODEL_FEATURES
from jobs.lake.store import Lake, lake_of
from jobs.lake.tables import PREDICTIONS
from jobs.monitoring.statistics import Floats
from jobs.promotion.evidence import evidence_of
from jobs.promotion.state import Routing, percent_of, steps_of
from jobs.promotion.step_log import StepLog
from jobs.promotion.verdict import judge
from jobs.replay.traffic import PLAIN_MS, Day, Served
from jobs.serving.bundle import ModelBundle
from jobs.serving.log_rows import Prediction, encode
from tests.promotion_trials import CUSTOMERS, DEMO, RATE, SECONDS_AT_MOST, Ended, latencies
from tests.served_bundles import logistic_graph, write_bundle

GOOD = ("identical", "better")
CHAMPION, CHALLENGER = "1", "2"
BEGUN = datetime(2026, 3, 2, 12, tzinfo=UTC)
APPENDED_SECONDS = 10  # of requests that come into the lake at once
TEST_ROWS = 6000
KNOWN_SHARE, KNOWN_SECONDS = 0.5, 3.0  # of frauds that somebody disputes, and after how long
# log-odds that both models know, and a standard normal figure that only the better one knows
SEEN, UNSEEN = MODEL_FEATURES.index("amount"), MODEL_FEATURES.index("terminal_risk_7d")
WEIGHT = 0.6  # of what only the better one knows


class Town:
    """Customers with habits of their own, who differ in how often they pay."""

    def __init__(self, seed: int) -> None:
        self.generator = np.random.default_rng([seed, 32])
        self.habit = self.generator.normal(0, 1.0, CUSTOMERS)
        weights = self.generator.gamma(0.7, 1.0, CUSTOMERS)
        self._activity = weights / weights.sum()
        self._payments = 0

    def payments(self, requests: int, begin: datetime, seconds: float) -> tuple[pd.DataFrame, Floats]:
        """Payments in the order of time with the features of their moment, and which are frauds."""
        draw = self.generator
        customers = draw.choice(CUSTOMERS, requests, p=self._activity)
        suspicious = draw.random(requests) < 0.025
        seen = -5.5 + self.habit[customers] + draw.normal(0, 1, requests) + 6.0 * suspicious
        unseen = draw.normal(0, 1, requests)
        fraud = draw.random(requests) < 1 / (1 + np.exp(-(seen + WEIGHT * unseen)))
        values = np.zeros((requests, len(MODEL_FEATURES)))
        values[:, SEEN], values[:, UNSEEN] = seen, unseen
        first, self._payments = self._payments + 1, self._payments + requests
        offsets = pd.to_timedelta(np.sort(draw.random(requests)) * seconds, unit="s").floor("us")
        events = pd.DataFrame(
            {
                "transaction_id": np.arange(first, first + requests),
                "event_time": pd.Timestamp(begin) + offsets,
                "customer_id": customers,
                "terminal_id": draw.integers(1, 400, requests),
                "amount_minor": draw.integers(100, 20_000, requests),
            }
        )
        return events.join(pd.DataFrame(values, columns=list(MODEL_FEATURES))), fraud

    def test_scores(self, bundle: ModelBundle) -> pd.DataFrame:
        """A version's offline scores on test rows."""
        rows, _ = self.payments(TEST_ROWS, BEGUN, 1.0)
        scores = bundle.score(rows[list(MODEL_FEATURES)].to_numpy(dtype=np.float32))
        return pd.DataFrame({"score": scores, "hour": BEGUN.hour})


@cache
def bundles() -> dict[str, ModelBundle]:
    """By kind: the champion once more, one that is a little better, both calibrated; and a blind one."""
    columns, calibrated = len(MODEL_FEATURES), dict.fromkeys(("xgboost", "torch"), without_what_is_unseen())
    made = {
        "identical": (logistic_graph({SEEN: 1.0}, 0.0, columns), calibrated),
        "better": (logistic_graph({SEEN: 1.0, UNSEEN: WEIGHT}, 0.0, columns), None),
        "blind": (logistic_graph({UNSEEN: WEIGHT}, -3.6, columns), None),
    }
    found = {}
    with TemporaryDirectory() as folder:
        for kind, (graph, calibration) in made.items():
            place = Path(folder) / kind
            write_bundle(
                place, MODEL_FEATURES, graph, calibration=calibration, feature_version=FEATURE_VERSION
            )
            found[kind] = ModelBundle.load(place, DEMO.decisions)
    return found


def without_what_is_unseen() -> dict[str, list[float]]:
    """Probability of a fraud where only `SEEN` is known, by the probability that it alone would give."""
    points, weights = np.polynomial.hermite_e.hermegauss(40)
    seen = np.linspace(-16, 16, 321)
    known = (1 / (1 + np.exp(-(seen[:, None] + WEIGHT * points)))) @ (weights / weights.sum())
    return {"x": list(1 / (1 + np.exp(-seen))), "y": list(known)}


class Promotion:
    """One version from its shadow on, its requests in a lake of its own."""

    def __init__(self, lake: Lake, seed: int, kind: str, policy: Policy) -> None:
        salted = policy.canary.model_copy(update={"salt": f"salt{seed}"})
        self.policy = policy.model_copy(update={"canary": salted})
        self._lake, self._town = lake, Town(seed)
        self._models = {
            version: Served(version, bundles()[name], PLAIN_MS)
            for version, name in ((CHAMPION, "identical"), (CHALLENGER, kind))
        }
        self._offline = {
            version: self._town.test_scores(model.bundle) for version, model in self._models.items()
        }
        self._logged = BEGUN  # until when requests have come
        self._known: dict[int, datetime] = {}  # transactions, and when they become known as frauds

    def requests(self, step: str) -> None:
        """Some seconds more of requests, answered and logged."""
        events, frauds = self._town.payments(RATE * APPENDED_SECONDS, self._logged, APPENDED_SECONDS)
        routing = Routing(champion=CHAMPION, challenger=CHALLENGER, step=step, percent=percent_of(step))
        day = Day(events, self.policy)
        rows = self._timed(day.answers(0, len(events), routing, self._models))
        self._lake.append(PREDICTIONS, pa.Table.from_batches([encode(rows)]))
        self._logged += timedelta(seconds=APPENDED_SECONDS)
        through = {row.transaction_id for row in rows if row.variant != "shadow" and row.decision != "block"}
        draw = self._town.generator
        for number, moment in events.loc[frauds, ["transaction_id", "event_time"]].itertuples(index=False):
            if number in through and draw.random() < KNOWN_SHARE:
                self._known[number] = moment + timedelta(seconds=draw.exponential(KNOWN_SECONDS))

    def _timed(self, rows: list[Prediction]) -> list[Prediction]:
        """The rows with latencies of a machine that is busy in bursts."""
        offsets = np.array([row.served_at for row in rows]) - self._logged.timestamp()
        taken = latencies(self._town.generator, offsets)
        return [row._replace(latency_ms=each) for row, each in zip(rows, taken.tolist(), strict=True)]

    def looks(self, step: str) -> Iterator[tuple[float, Verdict]]:
        """Seconds from the step's start, and what the log says then; as often as one asks."""
        started, log = self._logged, pd.DataFrame()
        for number in count(1):
            now = started + timedelta(seconds=number * self.policy.canary.poll_seconds)
            while now > self._logged:
                self.requests(step)
                log = StepLog(self._lake).between(BEGUN)
            evidence = evidence_of(
                log[log["served_at"] <= now],
                {number for number, at in self._known.items() if at <= now},
                version=CHALLENGER, champion=CHAMPION, step=step, step_started=started, now=now,
            )  # fmt: skip
            references = self._offline[CHALLENGER], self._offline[CHAMPION]
            evidence = replace(evidence, challenger_reference=references[0], champion_reference=references[1])
            yield (now - started).total_seconds(), judge(evidence, self.policy)


def promotion(seed: int, kind: str, policy: Policy = DEMO, held: int = 1) -> Ended:
    """One version from its shadow to champion, or to where it was rolled back, or held for too long.

    A step is looked at as often as its DAG does, and as many times as `held` says after it could have passed.
    """
    with TemporaryDirectory() as home:
        running = Promotion(lake_of(load_settings({"SLUICE_HOME": home})), seed, kind, policy)
        looks = 0
        for step in steps_of(policy):
            left = held
            for seconds, verdict in running.looks(step):
                looks += 1
                if verdict.outcome is Outcome.FAIL or seconds > SECONDS_AT_MOST:
                    return Ended(step, verdict.reason, seconds, looks)
                left -= verdict.outcome is Outcome.PASS
                if left < 0:
                    break
    return Ended(looks=looks)
