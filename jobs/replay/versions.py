"""What became of each trained version, and what it would have been worth.

In: what happened, the vectors of the days after each training, the last word on the labels. Out: one record a
version: its gate, its end, and its PR-AUC and money on the days after its training beside what was served on
these days; for a champion, beside the version that it replaced: a promotion is false where it was worse.
A version that served nobody is scored as a shadow would have been, by the same bundle and decisions.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from jobs.conf.contract import contract_of
from jobs.conf.policy import Policy, policy_of
from jobs.conf.settings import Settings
from jobs.core import SluiceError, days_between
from jobs.evaluation.metrics import Ranking
from jobs.features.declarations import MODEL_FEATURES
from jobs.replay.agenda import Happening
from jobs.replay.data import read_vectors
from jobs.replay.score import Estimate, Floats, day_figures, drawn_days, estimate
from jobs.serving.bundle import ModelBundle, decide
from jobs.serving.bundles import BundleRefused, fetch_bundle

FEWEST_FRAUDS = 10
ENDS = ("champion", "rolled back", "refused", "not offered")


def version_records(
    settings: Settings,
    data_home: Path,
    happened: Sequence[Happening],
    answers: pd.DataFrame,
    truth: pd.Series,
    last: date,
) -> list[dict[str, Any]]:
    """One record for each trained version, in order."""
    scored = _Scored(settings, data_home, truth)
    records = []
    for trained in (each for each in happened if each.what == "trained"):
        version = trained.version
        ends = [each for each in happened if each.version == version and each.what in ENDS]
        day = date.fromisoformat(trained.facts["day"])
        record = {
            "version": version,
            "day": str(day),
            **{key: trained.facts[key] for key in ("reason", "drill", "gate", "gate_reasons", "rows")},
            "end": ends[-1].what if ends else "under way",
            "why": ends[-1].detail if ends else "",
        }
        record["instead"] = scored.beside_served(version, day + timedelta(days=1), last, answers)
        crowned = next((each for each in ends if each.what == "champion"), None)
        replaced = crowned.detail.removeprefix("in place of ") if crowned else "none"
        if crowned and replaced != "none":
            record["replaced"] = replaced
            record["against_replaced"] = scored.beside_version(version, replaced, crowned.at.date(), last)
        records.append(record)
    return records


class _Scored:
    """Versions on days, each pair scored once."""

    def __init__(self, settings: Settings, data_home: Path, truth: pd.Series) -> None:
        self.settings = settings
        self.data = settings.model_copy(update={"home": data_home})
        self.policy: Policy = policy_of(settings)
        self.truth = truth
        self._rows: dict[tuple[str, date], pd.DataFrame] = {}

    def rows(self, version: str, day: date) -> pd.DataFrame:
        """transaction_id, day, amount_minor, is_fraud, score, decision of every row of a day."""
        if (version, day) not in self._rows:
            events = read_vectors(self.data, day)
            bundle = ModelBundle.load(fetch_bundle(self.settings, version), self.policy.decisions)
            scores, decisions = self._answers(version, bundle, events)
            self._rows[version, day] = pd.DataFrame(
                {
                    "transaction_id": events["transaction_id"],
                    "day": day,
                    "amount_minor": events["amount_minor"],
                    "is_fraud": events["transaction_id"].map(self.truth).fillna(0.0),
                    "score": scores,
                    "decision": decisions,
                }
            )
        return self._rows[version, day]

    def _answers(self, version: str, bundle: ModelBundle, events: pd.DataFrame) -> tuple[Floats, list[str]]:
        try:
            scores = bundle.score(events[list(MODEL_FEATURES)].to_numpy(dtype=np.float32))
            return scores, [decide(float(score), self.policy.decisions) for score in scores]
        except SluiceError as error:
            raise BundleRefused(f"version {version}: {error}") from error

    def beside_served(self, version: str, first: date, last: date, answers: pd.DataFrame) -> dict[str, Any]:
        """The version on the days after its training, beside the answers that were given."""
        days = self._days(first, last)
        return self._compared(
            days, lambda day: self.rows(version, day), lambda day: answers[answers["day"] == day]
        )

    def beside_version(self, version: str, replaced: str, first: date, last: date) -> dict[str, Any]:
        """A champion on its first days, beside the version that it replaced."""
        days = self._days(first, last)
        return self._compared(days, lambda day: self.rows(version, day), lambda day: self.rows(replaced, day))

    def _days(self, first: date, last: date) -> list[date]:
        end = min(last, first + timedelta(days=self.policy.replay.counterfactual_days - 1))
        return [day for day in days_between(first, end) if len(read_vectors(self.data, day))]

    def _compared(self, days: list[date], mine: Any, other: Any) -> dict[str, Any]:
        if not days:
            return {"days": 0}
        try:
            own = pd.concat([mine(day) for day in days], ignore_index=True)
        except BundleRefused as error:
            return {"days": len(days), "problem": str(error)[:300]}
        rest = pd.concat([other(day) for day in days], ignore_index=True)
        own = own[own["transaction_id"].isin(rest["transaction_id"])].sort_values("transaction_id")
        rest = rest.sort_values("transaction_id")
        frauds = int(own["is_fraud"].sum())
        found: dict[str, Any] = {
            "days": len(days),
            "first": str(days[0]),
            "last": str(days[-1]),
            "frauds": frauds,
        }
        if len(own) != len(rest) or frauds < FEWEST_FRAUDS:
            return found | {"problem": f"{frauds} frauds, needed {FEWEST_FRAUDS}"}
        drawn = drawn_days(days, self.policy.replay.bootstrap_samples)
        found["pr_auc"], found["pr_auc_of_the_other"], found["pr_auc_difference"] = _ranked(
            own, rest, days, drawn
        )
        costs = contract_of(self.settings).costs
        saved = [day_figures(rows, days, costs)["saved"].to_numpy() / 100 for rows in (own, rest)]
        gained = (saved[0] - saved[1]).astype(np.float64)
        a_day = (drawn @ gained) / np.maximum(drawn.sum(axis=1), 1.0)
        found["saved_a_day_difference"] = estimate(float(gained.mean()), a_day).model_dump()
        return found


def _ranked(
    own: pd.DataFrame, rest: pd.DataFrame, days: list[date], drawn: Floats
) -> tuple[float, float, dict[str, Any]]:
    """PR-AUC of both on the same rows, and the interval of the difference over days."""
    truth = own["is_fraud"].to_numpy()
    rankings = [Ranking(rows["score"].fillna(0.0).to_numpy(dtype=np.float64), truth) for rows in (own, rest)]
    value = [float(each.average_precision(None)) for each in rankings]
    places = np.searchsorted(np.array(days), own["day"].to_numpy()).astype(np.int64)
    draws = [drawn_precision(each, places, drawn) for each in rankings]
    difference: Estimate = estimate(value[0] - value[1], draws[0] - draws[1])
    return round(value[0], 6), round(value[1], 6), difference.model_dump()


def drawn_precision(ranking: Ranking, places: npt.NDArray[np.int64], drawn: Floats) -> Floats:
    """Average precision under each row of weights [samples, days]; `places` is the day of each row."""
    shape = drawn.shape[1], ranking.size
    hits, rows = np.zeros(shape), np.zeros(shape)
    np.add.at(rows, (places, ranking.bins), 1.0)
    np.add.at(hits, (places[ranking.frauds], ranking.bins[ranking.frauds]), 1.0)
    caught, flagged = drawn @ np.cumsum(hits, axis=1), drawn @ np.cumsum(rows, axis=1)
    precision = np.divide(caught, flagged, out=np.zeros_like(caught), where=flagged > 0)
    gained = np.diff(caught, axis=1, prepend=0.0) * precision
    total = caught[:, -1]
    found = np.divide(gained.sum(axis=1), total, out=np.full(len(total), np.nan), where=total > 0)
    return np.asarray(found)


def false_promotions(records: Sequence[dict[str, Any]]) -> dict[str, int]:
    """Champions by how they did beside the version that they replaced."""
    counts = {"worse": 0, "not clearly either": 0, "better": 0, "not known": 0}
    for record in records:
        compared = record.get("against_replaced")
        if compared is None:
            continue
        difference = compared.get("pr_auc_difference")
        if difference is None or difference["high"] is None:
            counts["not known"] += 1
        elif difference["high"] < 0:
            counts["worse"] += 1
        elif difference["low"] > 0:
            counts["better"] += 1
        else:
            counts["not clearly either"] += 1
    return counts
