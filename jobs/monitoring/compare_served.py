"""Job compare_served: what the scoring service computed on a day, against what offline says of the same.

In: the day's prediction log, published transactions and features. Out: the part "<day>.skew" of
`monitoring`, the share of rows with any difference, which alerts above the policy's
`features.skew_share_fail`; work/served/DAY/comparison.json with every feature's share, and some of the rows.
A request counts once, and a transaction that was sent several times by its first one. Answers without
features, by features of another declaration, or for transactions that were never published are not compared;
the last two are counted. Offline, batch rows are known from the hour at which the contract's files are due.
In service they come earlier or later: an answer that rests on a row that came before its hour, or on the one
before a row that is late by `quality.freshness_alert_hours` of the policy at most, is compared with that one,
and counted. Of a day with more transactions an even sample of SAMPLE is compared, so that neither Spark nor
memory grows with the volume.
Errors: none for missing data: a day without answers, or whose features are not built, is `unknown`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from jobs.alerts import raise_alerts
from jobs.conf.contract import contract_of
from jobs.conf.policy import policy_of
from jobs.conf.settings import Settings
from jobs.core import (
    Check,
    DayParams,
    Outcome,
    Receipt,
    Stopwatch,
    StrictModel,
    Verdict,
)
from jobs.features.declarations import ENTITIES, FEATURES, MODEL_FEATURES, STORED_FEATURES
from jobs.features.history import historical_features
from jobs.features.tables import BUILT_TABLES, TRANSACTION_VELOCITY
from jobs.files import write_whole
from jobs.lake.store import Lake, lake_of
from jobs.lake.tables import TRANSACTIONS
from jobs.monitoring.features_logged import logged
from jobs.monitoring.figures import ALERT, OK, SKEW, UNKNOWN, Figure, alerts_of, finite, write_figures
from jobs.monitoring.interval import Interval

READS = ("predictions", "transactions", "customer_features", "terminal_features", "transaction_velocity")
WRITES = ("monitoring", "served_comparison")

SAMPLE = 100_000  # transactions: a share of 5 % is known to 0.1 % by then
RELATIVE = 1e-6  # a larger difference is one
NOISE = 1e-9  # an absolute difference below this is none, so that 0 equals 1e-12
SHADOW = "shadow"
KEY = ("request_id", "variant")  # of a row of the log
# what an answer takes from stored rows
BATCH = (
    *STORED_FEATURES,
    *(feature.name for feature in FEATURES if feature.tier == "request" and feature.window),
    *(f"{entity}_missing" for entity in ENTITIES),
)
EVENT = ["transaction_id", "event_time", "customer_id", "terminal_id", "amount_minor"]
EXAMPLES = 20


class Params(DayParams):
    """The day of the events."""


class FeatureDifference(StrictModel):
    """How one feature was served and how it is offline."""

    feature: str
    rows: int
    mismatches: int
    share: float
    worst: float  # largest relative difference of two numbers


def mismatched(served: pd.DataFrame, offline: pd.DataFrame) -> pd.DataFrame:
    """Where two frames of the same rows and columns differ: two numbers, or one number and one null."""
    ours, theirs = served.to_numpy(dtype=np.float64), offline[served.columns].to_numpy(dtype=np.float64)
    gap = np.abs(ours - theirs)
    apart = (gap > NOISE) & (gap > RELATIVE * np.maximum(np.abs(ours), np.abs(theirs)))
    return pd.DataFrame(apart | (np.isnan(ours) != np.isnan(theirs)), served.index, served.columns)


def compare(served: pd.DataFrame, offline: pd.DataFrame) -> list[FeatureDifference]:
    """The differences of each column of `served`; `offline` has the same rows in the same order."""
    differs = mismatched(served, offline)
    return [
        FeatureDifference(
            feature=name,
            rows=len(served),
            mismatches=int(differs[name].sum()),
            share=float(differs[name].mean()) if len(served) else 0.0,
            worst=_worst(served[name], offline[name]),
        )
        for name in served.columns
    ]


def _worst(served: pd.Series, offline: pd.Series) -> float:
    ours, theirs = served.to_numpy(dtype=np.float64), offline.to_numpy(dtype=np.float64)
    gap = np.abs(ours - theirs)
    counted = gap > NOISE  # false for a null
    scale = np.maximum(np.abs(ours), np.abs(theirs))[counted]
    return float(np.max(gap[counted] / scale, initial=0.0))


def first_answers(predictions: pd.DataFrame) -> pd.DataFrame:
    """One row for each transaction of the log: its first request's, an answer rather than its shadow."""
    rows = predictions.assign(shadow=predictions["variant"].eq(SHADOW))
    rows = rows.sort_values(["shadow", "served_at"], kind="stable").drop_duplicates(list(KEY[:1]))
    return rows.sort_values("served_at", kind="stable").drop_duplicates("transaction_id")


def answers_of(lake: Lake, day: date) -> pd.DataFrame:
    """The first answers of a day that have features, and whether these are by today's declaration."""
    columns = [*KEY, "transaction_id", "served_at"]
    found = logged(lake, Interval(day), columns, lambda batch: pc.is_valid(batch["features"]))
    return first_answers(found.rows.assign(readable=found.readable))


def served_features(lake: Lake, day: date, answers: pd.DataFrame) -> pd.DataFrame:
    """The features of some answers, in their order."""
    requests = pa.array(answers["request_id"].to_numpy(), pa.string())
    found = logged(
        lake, Interval(day), KEY, lambda batch: pc.is_in(batch["request_id"], requests), MODEL_FEATURES,
        np.float64,
    )  # fmt: skip
    places = found.rows.drop_duplicates(list(KEY)).reset_index(names="place")
    chosen = answers[list(KEY)].merge(places, on=list(KEY), how="left")["place"]
    return found.at(chosen.to_numpy(dtype=np.int64))[list(MODEL_FEATURES)]


def examples(events: pd.DataFrame, served: pd.DataFrame, offline: pd.DataFrame) -> list[dict[str, object]]:
    """Some of the values that differ, one of each row, for a person to look into."""
    differs = mismatched(served, offline)
    found: list[dict[str, object]] = []
    for place in np.flatnonzero(differs.to_numpy().any(axis=1))[:EXAMPLES]:
        name = str(differs.columns[int(differs.iloc[place].to_numpy().argmax())])
        found.append(
            {
                "transaction_id": int(events["transaction_id"].iloc[place]),
                "feature": name,
                "served": _or_null(float(served[name].iloc[place])),
                "offline": _or_null(float(offline[name].iloc[place])),
            }
        )
    return found


def shifts(settings: Settings) -> dict[str, timedelta]:
    """How far a row may come before its hour, and behind it: offline has it when asked so much later."""
    return {
        "published_early": timedelta(hours=contract_of(settings).published_after_hours),
        "published_late": -timedelta(hours=policy_of(settings).quality.freshness_alert_hours),
    }


def by_the_row_beside(
    events: pd.DataFrame, served: pd.DataFrame, offline: pd.DataFrame, shift: timedelta, settings: Settings
) -> tuple[pd.DataFrame, int]:
    """`offline`, with the batch rows of another moment where an answer rests on these; and how many do."""
    columns = list(BATCH)
    other = np.flatnonzero(mismatched(served[columns], offline).any(axis=1))
    if not other.size or not shift:
        return offline, 0
    asked = events.iloc[other][EVENT]
    beside = historical_features(asked.assign(event_time=asked["event_time"] + shift), settings)[columns]
    rests = ~mismatched(served.iloc[other][columns], beside).any(axis=1).to_numpy()
    replaced, found = offline.copy(), beside[rests]
    replaced.loc[found.index, columns] = found
    return replaced, len(found)


def judge(
    rows: int, mismatches: int, differences: list[FeatureDifference], allowed: float, why: str = ""
) -> Verdict:
    """Fails above the allowed share of rows that differ in any feature; `why` there are none to compare."""
    if not rows:
        reason = why or "no answer of the day can be compared"
        return Verdict(outcome=Outcome.INCONCLUSIVE, reason=reason)
    share = mismatches / rows
    worst = sorted(differences, key=lambda each: each.share, reverse=True)[:3]
    named = ", ".join(f"{each.feature} {each.share:.1%}" for each in worst if each.mismatches)
    detail = f"{mismatches} of {rows} served rows differ from offline ({share:.2%}, allowed {allowed:.2%})"
    return Verdict.of(
        [
            Check(
                name="served rows that differ from offline",
                outcome=Outcome.PASS if share <= allowed else Outcome.FAIL,
                value=share,
                threshold=allowed,
                detail=f"{detail}: {named}" if named else detail,
            )
        ]
    )


def not_built(lake: Lake, day: date) -> str:
    """What of the offline features is missing for the day; "" where nothing is."""
    missing = [table.name for table in BUILT_TABLES if lake.version(table) < 0]
    if missing:
        return f"the table {missing[0]} is not built yet"
    if str(day) not in lake.partitions(TRANSACTION_VELOCITY):
        return f"the features of {day} are not built yet: run fraud_features, then this again"
    return ""


def skew_figure(verdict: Verdict, allowed: float) -> Figure:
    """The day's figure: what cannot be compared is unknown."""
    status = {Outcome.PASS: OK, Outcome.FAIL: ALERT}.get(verdict.outcome, UNKNOWN)
    check = next(iter(verdict.checks), None)
    value = None if check is None or check.value is None else finite(check.value)
    detail = check.detail if check else verdict.reason
    return Figure(
        metric="skew_share", subject="all", value=value, threshold=allowed, status=status, detail=detail
    )


def run(params: Params, settings: Settings) -> Receipt:
    """Compare the day, keep the evidence, and tell where too many rows differ."""
    watch = Stopwatch()
    lake, day = lake_of(settings), params.day
    answers = answers_of(lake, day)
    usable = answers[answers["readable"]].drop(columns="served_at")
    published = lake.read(TRANSACTIONS, first=day, last=day, columns=EVENT).to_pandas()
    events = published.merge(usable, on="transaction_id", validate="one_to_one").sort_values("transaction_id")
    counts = {"other_declaration": len(answers) - len(usable), "unpublished": len(usable) - len(events)}
    why = not_built(lake, day) if len(events) else ""
    events = events.iloc[:0] if why else evenly(events)
    events = events.reset_index(drop=True)
    served = served_features(lake, day, events)
    offline = historical_features(events[EVENT], settings)[list(MODEL_FEATURES)] if len(events) else served
    for name, shift in shifts(settings).items():
        offline, counts[name] = by_the_row_beside(events, served, offline, shift, settings)
    differences = compare(served, offline)
    mismatches = int(mismatched(served, offline).any(axis=1).sum())
    allowed = policy_of(settings).features.skew_share_fail
    verdict = judge(len(events), mismatches, differences, allowed, why)
    counts |= {"rows": len(events), "mismatched_rows": mismatches}
    path = settings.work / "served" / str(day) / "comparison.json"
    evidence = {
        "day": str(day),
        "outcome": verdict.outcome.value,
        "reason": verdict.reason,
        **counts,
        "features": [each.model_dump() for each in differences],
        "examples": examples(events, served, offline),
    }
    keep(path, evidence)
    figures = [skew_figure(verdict, allowed)]
    version = write_figures(lake, day, SKEW, figures)
    alerts = raise_alerts(settings, alerts_of(settings, day, figures))
    return Receipt(
        job="compare_served",
        table=WRITES[0],
        partition=f"{day}.{SKEW}",
        version=version,
        rows=len(events),
        seconds=watch.seconds,
        facts={"outcome": verdict.outcome.value, "evidence": str(path), "new_alerts": alerts, **counts},
    )


def evenly(events: pd.DataFrame) -> pd.DataFrame:
    """At most SAMPLE of the rows, from the whole of them."""
    if len(events) <= SAMPLE:
        return events
    return events.iloc[np.linspace(0, len(events) - 1, SAMPLE).astype(int)]


def keep(path: Path, evidence: Mapping[str, object]) -> None:
    """Write the evidence in one step."""
    write_whole(path, json.dumps(evidence, indent=1, allow_nan=False))


def _or_null(value: float) -> float | None:
    return None if np.isnan(value) else value
