"""replay.json: what each policy did, its score, and how the policies differ.

In: the installations of a replay that is through. Out: one document, the same for the same input whatever
the machine. What the machine needed is in seconds.json beside it; how long a gate has seen a score take is
left out of its reasons.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from datetime import date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from jobs.conf.contract import contract_of
from jobs.conf.policy import policy_of
from jobs.conf.settings import Settings
from jobs.core import days_between, midnight
from jobs.lake.store import Lake, lake_of
from jobs.lake.tables import MONITORING
from jobs.monitoring.figures import ALERT, PAGE, RETRAIN
from jobs.promotion.state import SHADOW_STEP
from jobs.replay.agenda import Happening
from jobs.replay.loop import read_record
from jobs.replay.plan import Plan, data_settings, matured_last, policy_settings
from jobs.replay.score import COUNTED, answers_of, day_figures, differences, estimates, truth_of
from jobs.replay.versions import false_promotions, version_records
from jobs.training.gate import LATENCY

MEASURED = re.compile(rf"(?<={re.escape(LATENCY)}: )[^,;]+")  # by this machine, in a reason of the gate
FOUND = (ALERT, RETRAIN, PAGE)  # a figure that is not known yet alerts too, and tells of nothing
MONTH = 30.0
Alarms = dict[str, set[tuple[str, str]]]  # monitored day -> metric and subject of each figure that alarms


def report(settings: Settings, plan: Plan) -> dict[str, Any]:
    """The whole result."""
    contract = contract_of(settings)
    last = matured_last(plan.last, contract.labels.maturity_days)
    figures: dict[str, pd.DataFrame] = {}
    policies: dict[str, Any] = {}
    for under_test in plan.policies:
        mine = policy_settings(settings, plan, under_test)
        home = data_settings(settings, plan, under_test).home
        figures[under_test.name], policies[under_test.name] = _policy(mine, home, plan, last)
    first = plan.policies[0].name
    samples = plan.policies[0].policy.replay.bootstrap_samples
    return {
        "from": str(plan.first),
        "to": str(plan.last),
        "scored_to": str(last),
        "contract": contract.name,
        "currency": contract.currency,
        "drift_days": [str(day) for day in plan.scenario.drift_days],
        "policies": policies,
        "differences": {
            f"{name} less {first}": _dumped(differences(rows, figures[first], samples))
            for name, rows in figures.items()
            if name != first
        },
    }


def _policy(
    settings: Settings, data_home: Path, plan: Plan, last: date
) -> tuple[pd.DataFrame, dict[str, Any]]:
    records = [read_record(settings, day) for day in plan.days]
    happened = [
        Happening.model_validate_json(MEASURED.sub("too long", json.dumps(each)))
        for day in records
        for each in day["happened"]
    ]
    monitored = lake_of(settings).read(MONITORING, columns=["day", "metric", "subject", "value", "status"])
    alarms, largest = alarms_of(monitored.to_pandas()), largest_psi(monitored.to_pandas())
    truth = truth_of(Lake(data_home / "lake"))
    answers = answers_of(settings, plan.first, last, truth)
    figures = day_figures(answers, days_between(plan.first, last), contract_of(settings).costs)
    versions = version_records(settings, data_home, happened, answers, truth, last)
    return figures, {
        "score": _dumped(estimates(figures, policy_of(settings).replay.bootstrap_samples)),
        "counts": counts_of(happened, versions),
        "drift": [drift_found(happened, alarms, day) for day in plan.scenario.drift_days],
        "rollbacks": rollbacks(happened),
        "alarms_a_month": alarms_a_month(happened, plan),
        "versions": versions,
        "days": [
            {
                "day": str(day),
                "champion": record["champion"],
                "alarms": len(alarms.get(str(day), ())),
                "largest_psi": largest.get(str(day)),
                **_row(figures, day),
            }
            for day, record in zip(plan.days, records, strict=True)
        ],
        "happened": [each.model_dump(mode="json") for each in happened],
    }


def _row(figures: pd.DataFrame, day: date) -> dict[str, float]:
    if day not in figures.index:
        return {}
    values = figures.loc[[day]].to_numpy(dtype=np.float64)[0]
    return {name: round(float(value), 4) for name, value in zip(COUNTED, values, strict=True)}


def counts_of(happened: list[Happening], versions: list[dict[str, Any]]) -> dict[str, Any]:
    """How often what happened, and what it took."""
    trained = [each for each in happened if each.what == "trained"]
    causes = Counter(each.facts["reason"].partition(":")[0] for each in trained)
    return {
        "trainings": len(trained),
        "trainings_by_cause": dict(sorted(causes.items())),
        "trainings_failed": sum(each.what == "training failed" for each in happened),
        "gates": dict(sorted(Counter(each.facts["gate"] for each in trained).items())),
        "ends": dict(sorted(Counter(each["end"] for each in versions).items())),
        "promotions_beside_the_replaced": false_promotions(versions),
        "rows_in_training_frames": sum(each.facts["rows"] for each in trained),
        "days_monitored": sum(each.what == "monitor" for each in happened),
    }


def alarms_of(figures: pd.DataFrame) -> Alarms:
    """The figures of each monitored day that alarm."""
    found: Alarms = {}
    for row in figures[figures["status"].isin(FOUND)].itertuples():
        found.setdefault(str(row.day), set()).add((str(row.metric), str(row.subject)))
    return found


def largest_psi(figures: pd.DataFrame) -> dict[str, float]:
    """Of each monitored day, the PSI of the feature that has drifted most."""
    values = figures[figures["metric"].eq("psi")].dropna(subset="value").groupby("day")["value"].max()
    return {str(day): round(float(value), 6) for day, value in values.items()}


def rollbacks(happened: list[Happening]) -> list[dict[str, Any]]:
    """How long each version that was rolled back was in its step, under way, and before customers."""
    found = []
    for end in (each for each in happened if each.what == "rolled back"):
        mine = [each for each in happened if each.version == end.version and each.at <= end.at]
        offered = [each.at for each in mine if each.what == "offered"]
        live = [each.at for each in mine if each.what == "step" and each.detail != SHADOW_STEP]
        found.append(
            {
                "version": end.version,
                "step": end.facts["step"],
                "hours_in_step": end.facts["hours_in_step"],
                "hours_since_offered": _hours(offered, end.at),
                "hours_since_first_customer": _hours(live, end.at),
            }
        )
    return found


def _hours(moments: list[datetime], end: datetime) -> float | None:
    return round((end - moments[0]).total_seconds() / 3600, 4) if moments else None


def drift_found(happened: list[Happening], alarms: Alarms, day: date) -> dict[str, Any]:
    """When people first heard of a known change, and when it first led to a training, in days after it began.

    It is told of by a figure that did not alarm on the last day before it; one that went back and comes again
    counts. A day's figures are known on the morning after it.
    """
    looks = [each for each in happened if each.what == "monitor" and each.facts["day"] >= str(day)]
    monitored = [each.facts["day"] for each in happened if each.what == "monitor"]
    before = max((each for each in monitored if each < str(day)), default="")
    standing, alerting = alarms.get(before, set()), []
    for each in looks:
        now = alarms.get(each.facts["day"], set())
        if now - standing:
            alerting.append(each)
        standing = standing & now

    def delay(found: list[Happening]) -> float | None:
        return round((found[0].at - midnight(day)).total_seconds() / 86_400, 2) if found else None

    asked = [each for each in looks if each.facts["decision"] == "retrain"]
    return {"day": str(day), "days_to_alert": delay(alerting), "days_to_retraining": delay(asked)}


def alarms_a_month(happened: list[Happening], plan: Plan) -> float | None:
    """Retrainings asked for per 30 days before the first known change; none without such days."""
    until = min(plan.scenario.drift_days, default=None)
    looks = [
        each
        for each in happened
        if each.what == "monitor" and (until is None or each.facts["day"] < str(until))
    ]
    asked = sum(each.facts["decision"] == "retrain" for each in looks)
    return round(asked * MONTH / len(looks), 3) if looks else None


def seconds_of(settings: Settings) -> dict[str, Any]:
    """What the days of a policy cost this machine; the last word on a day counts.

    A training that was not due, or had too little to learn from, is none: its seconds are in `by_part` alone.
    """
    file = settings.home / "seconds.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    days = {line["day"]: {key: value for key, value in line.items() if key != "day"} for line in lines}
    training = [day["train"] for name, day in days.items() if _trained(settings, name)]
    plain = [sum(value for key, value in day.items() if key != "train") for day in days.values()]
    return {
        "days": len(days),
        "seconds_a_day_without_training": round(sum(plain) / len(plain), 3) if plain else None,
        "seconds_of_trainings_a_day_with_one": round(sum(training) / len(training), 3) if training else None,
        "by_part": {
            part: round(sum(day.get(part, 0.0) for day in days.values()), 1)
            for part in sorted({part for day in days.values() for part in day})
        },
    }


def _trained(settings: Settings, day: str) -> bool:
    happened = read_record(settings, date.fromisoformat(day))["happened"]
    return any(each["what"] == "trained" for each in happened)


def _dumped(found: dict[str, Any]) -> dict[str, Any]:
    return {name: each.model_dump() for name, each in found.items()}
