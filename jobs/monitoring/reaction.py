"""What a day's figures lead to: nothing, an alert, or a retraining. Never a promotion.

In: the figures of `monitoring`, trainings so far (the versions' tags), matured transactions. Out: one row in
`reactions` with decision, reason and evidence: the figures, and for each cause the runbook's action, which is
a person's but for the retraining; alerts of the day in home/alerts.jsonl; the day as a point of the
champion's curves in MLflow.
A performance drop retrains at once: its window spans days. Feature drift retrains on its second day in a
row, so that one odd day does not. After a fall that pages somebody the search begins at nothing, else at the
last winner. A retraining needs its cooldown, enough matured rows that no training has seen, and no promotion
under way, beside which its version could not be offered; without them the decision is an alert that says so,
and the next day asks again.
"""

from __future__ import annotations

import json
from datetime import date, timedelta
from typing import Any

import pyarrow as pa
from pydantic import Field

from jobs.alerts import raise_alerts
from jobs.conf.contract import contract_of
from jobs.conf.policy import Retrain, Start, policy_of
from jobs.conf.settings import Settings
from jobs.core import DayParams, Receipt, Stopwatch, StrictModel
from jobs.lake.store import Lake, lake_of
from jobs.lake.tables import REACTIONS
from jobs.monitoring.curves import draw
from jobs.monitoring.figures import (
    ALERT,
    DRIFT,
    LOUD,
    PAGE,
    PERFORMANCE,
    RETRAIN,
    SERVICE,
    UNKNOWN,
    Figure,
    alerts_of,
    cause_of,
    read_champion,
    read_figures,
)
from jobs.promotion import state as registry
from jobs.training.due import hours_since, last_training, new_matured_rows, what_forbids

READS: tuple[str, ...] = ("monitoring", "transactions", "registry")
WRITES: tuple[str, ...] = ("reactions",)

NOTHING = "nothing"
REASON_LENGTH = 450  # the register refuses more than 500 characters


class Params(DayParams):
    """Which day, and in which run."""

    run: str = Field(
        "",
        pattern=r"^[A-Za-z0-9_.:+-]{0,120}$",
        description="name of the run: one that was killed after it decided asks for its retraining again",
    )


class Decision(StrictModel):
    """What to do, and why in one sentence that names the figures."""

    decision: str
    reason: str
    start: Start = "warm"  # of the search, where it is a retraining


def causes_to_retrain(today: list[Figure], yesterday: list[Figure]) -> list[Figure]:
    """Figures that call for a retraining."""
    drifted = {each.subject for each in yesterday if each.metric == "psi" and each.status == RETRAIN}
    return [
        each
        for each in today
        if each.status in (RETRAIN, PAGE) and (each.metric != "psi" or each.subject in drifted)
    ]


def decide(
    today: list[Figure],
    yesterday: list[Figure],
    hours_since_training: float | None,
    new_rows: int,
    policy: Retrain,
    challenger: str = "",
) -> Decision:
    """The decision of a day; no figures at all are an alert, they never pass.

    `challenger` is the version whose promotion is under way, "" for none.
    """
    if not today:
        return Decision(decision=ALERT, reason="nothing was measured on this day")
    causes = causes_to_retrain(today, yesterday)
    if causes:
        named = "; ".join(_named(each) for each in causes[:4])
        waiting = what_forbids(hours_since_training, new_rows, policy)
        if challenger:
            waiting = f"version {challenger} is the challenger; asked again once its promotion has ended"
        if waiting:
            return Decision(decision=ALERT, reason=f"no retraining: {waiting}; {named}")
        severe = any(each.status == PAGE for each in causes)
        return Decision(decision=RETRAIN, reason=named, start="full" if severe else "warm")
    telling = [each for each in today if each.status in LOUD]
    if telling:
        return Decision(decision=ALERT, reason="; ".join(_named(each) for each in telling[:4]))
    return Decision(decision=NOTHING, reason=f"{len(today)} figures within their limits")


def _named(figure: Figure) -> str:
    return f"{figure.metric} of {figure.subject} {figure.status}: {figure.detail}".removesuffix(": ")


def last_retrain_decision(lake: Lake, day: date) -> date | None:
    """The latest earlier day whose decision was a retraining."""
    rows = lake.read(REACTIONS, last=day - timedelta(days=1), columns=["day", "decision"]).to_pylist()
    return max((row["day"] for row in rows if row["decision"] == RETRAIN), default=None)


def version_under_way(settings: Settings) -> str:
    """The challenger, from its offer to the end of its promotion; "" where there is none."""
    aliases = registry.read_aliases(registry.registry_client(settings), settings.model_name)
    challenger = aliases.get(registry.CHALLENGER, "")
    # a promotion that was killed at its very end leaves both aliases on the new champion
    return challenger if challenger != aliases.get(registry.CHAMPION) else ""


def run(params: Params, settings: Settings) -> Receipt:
    watch = Stopwatch()
    lake, day = lake_of(settings), params.day
    decided_before = lake.read(REACTIONS, first=day, last=day).to_pylist()
    figures = read_figures(lake, day)
    for group in (DRIFT, PERFORMANCE, SERVICE):
        if not read_figures(lake, day, group):
            figures.append(Figure(metric=group, subject="all", status=UNKNOWN, detail="not measured"))
    if decided_before and decided_before[0]["decision"] == RETRAIN:
        # the training that it started is the day's last training now: deciding again would forbid it
        decided_by = json.loads(decided_before[0]["evidence"]).get("run", "")
        # the same run once more: it was killed before anybody heard of its decision
        new = tell(settings, day, figures, decided_before[0])
        repeated = not params.run or decided_by != params.run
        return _receipt(decided_before[0], watch, new_alerts=new, repeated=repeated)
    trained = last_training(settings)
    decided = last_retrain_decision(lake, day)
    latest = max((each for each in (trained, decided) if each), default=None)
    hours = hours_since(latest, day) if latest else None
    maturity = contract_of(settings).labels.maturity_days
    rows = new_matured_rows(lake, trained, day, maturity)
    yesterday = read_figures(lake, day - timedelta(days=1), DRIFT)
    challenger = version_under_way(settings)
    decision = decide(figures, yesterday, hours, rows, policy_of(settings).retrain, challenger)
    champion = read_champion(settings)
    telling = [each for each in figures if each.status in LOUD]
    runbook = policy_of(settings).alerts.runbook
    evidence = {
        "figures": [each.model_dump(exclude_none=True) for each in telling[:20]],
        "actions": {cause: runbook[cause].action for cause in map(cause_of, telling)},
        "last_training": str(trained or ""), "last_retrain_decision": str(decided or ""),
        "new_matured_rows": rows, "challenger": challenger, "run": params.run, "start": decision.start,
    }  # fmt: skip
    row = {
        "day": day, "decision": decision.decision, "reason": decision.reason[:REASON_LENGTH],
        "model_version": champion.version if champion else "", "evidence": json.dumps(evidence),
    }  # fmt: skip
    version = lake.replace(REACTIONS, pa.Table.from_pylist([row], REACTIONS.schema), day)
    alerts = tell(settings, day, figures, row)
    return _receipt(
        row, watch, version=version, new_matured_rows=rows, hours_since_training=hours,
        new_alerts=alerts, repeated=False,
    )  # fmt: skip


def tell(settings: Settings, day: date, figures: list[Figure], row: dict[str, Any]) -> int:
    """Raise what was not raised yet, and draw the day for the champion that it was decided of."""
    alerts = raise_alerts(settings, alerts_of(settings, day, figures))
    champion = read_champion(settings)
    if champion and champion.version == row["model_version"]:
        draw(settings, champion, day, figures, row["decision"])
    return alerts


def _receipt(row: dict[str, Any], watch: Stopwatch, *, version: int = -1, **facts: object) -> Receipt:
    named = {"decision": row["decision"], "reason": row["reason"], "model_version": row["model_version"],
             "start": json.loads(row["evidence"]).get("start", "warm")}  # fmt: skip
    return Receipt(
        job="decide_reaction", table="reactions", partition=str(row["day"]), version=version, rows=1,
        seconds=watch.seconds, facts={**named, **facts},
    )  # fmt: skip
