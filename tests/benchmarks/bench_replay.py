"""Replay: seconds a simulated day, and every safeguard against none over the same history with faults.

The history is simulated: a new fraud pattern begins, and colleagues train three versions that are broken on
purpose. One policy is the shipped one at the sizes of the overlay `small`; the other gives what was trained
all traffic at once, and nobody watches. Both see the same days, so that differences are paired.
"""

from __future__ import annotations

import os
import tempfile
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from jobs.conf.policy import FOLDER
from jobs.conf.settings import load_settings
from jobs.replay.command import replay, screen, shown
from jobs.replay.data import run_job
from jobs.replay.plan import make_plan, policy_settings
from jobs.replay.report import seconds_of
from tests.benchmarks.__main__ import Case
from tests.spark_server import server

FIRST = date(2026, 1, 1)
FROM, TO = FIRST + timedelta(days=15), FIRST + timedelta(days=45)
DRIFT = FIRST + timedelta(days=19)
DRILLS = {
    FIRST + timedelta(days=21): "shuffled_labels",
    FIRST + timedelta(days=28): "shifted_scores",
    FIRST + timedelta(days=35): "slow",
}
ROWS = 10_000
UNGUARDED = "replay: {promotion: direct, monitoring: false}\n"
DAY_SECONDS, TRAINING_SECONDS = 3.0, 30.0


def run() -> list[Case]:
    with tempfile.TemporaryDirectory() as folder:
        return _run(Path(folder))


def _run(folder: Path) -> list[Case]:
    small = (FOLDER / "overlays" / "small.yaml").read_text()
    policies = {"guarded": small, "unguarded": small + UNGUARDED}
    for name, text in policies.items():
        (folder / f"{name}.yaml").write_text(text)
    drills = "".join(f"  {day}: {drill}\n" for day, drill in DRILLS.items())
    (folder / "scenario.yaml").write_text(f"drift_days: [{DRIFT}]\ndrills:\n{drills}")
    spark = folder / "spark"
    spark.mkdir()
    with server(spark) as remote:
        settings = load_settings(
            {
                "SLUICE_HOME": str(folder / "home"),
                "SLUICE_SOURCE_URI": str(folder / "source" / "transactions"),
                "SLUICE_LABELS_URI": str(folder / "source" / "labels"),
                "SLUICE_FIRST_DAY": str(FIRST),
                "SLUICE_SPARK_REMOTE": remote,
            }
        )
        run_job(
            settings,
            "simulate_source",
            {
                "first_day": FIRST,
                "last_day": TO,
                "destination": settings.source_uri,
                "labels_destination": settings.labels_uri,
                "rows_per_day": ROWS,
                "customers": ROWS // 2,
                "terminals": ROWS // 4,
                "new_pattern_from": DRIFT,
            },
        )
        overlays = [str(folder / f"{name}.yaml") for name in policies]
        for played in (1, 2):  # one after the other: seconds are of a policy that has the machine to itself
            plan = make_plan(settings, FROM, TO, overlays[:played], str(folder / "scenario.yaml"), "")
            result = replay(settings, plan, screen())
        seconds = seconds_of(policy_settings(settings, plan, plan.policies[0]))
    return cases(result, seconds)


def cases(result: dict[str, Any], seconds: dict[str, Any]) -> list[Case]:
    """Times against their goals, and what the safeguards were worth."""
    day, training = (
        seconds["seconds_a_day_without_training"],
        seconds["seconds_of_trainings_a_day_with_one"],
    )
    beside = f"guarded alone on {len(os.sched_getaffinity(0))} cores"
    found = [
        Case(
            f"a day of {ROWS} rows, no training, {beside}",
            day,
            None,
            "s",
            f"<= {DAY_SECONDS}",
            day <= DAY_SECONDS,
        ),
        Case(
            f"trainings of a day with one, {beside}",
            training,
            None,
            "s",
            f"<= {TRAINING_SECONDS}",
            training <= TRAINING_SECONDS,
        ),
    ]
    guarded, unguarded = (result["policies"][name]["score"] for name in ("guarded", "unguarded"))
    difference = result["differences"]["unguarded less guarded"]
    for name in ("saved_a_day", "share_of_bad_days", "fraud_caught_per_100_alerts"):
        better = difference[name]["low"] > 0 if name == "share_of_bad_days" else difference[name]["high"] < 0
        found.append(
            Case(
                f"{name.replace('_', ' ')}: unguarded less guarded {shown(difference[name])}",
                guarded[name]["value"],
                unguarded[name]["value"],
                "",
                "the interval excludes 0",
                better,
            )
        )
    return found
