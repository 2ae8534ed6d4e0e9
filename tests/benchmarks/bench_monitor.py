"""Monitoring: changes caught, days until then, false alarms; and a day of a million rows.

20 seeds of each of 8 changes on five worlds of the simulator; 2 of them, and the quiet days of one world, for
the peer: each case says of how many. Ours are the daily rules; the peer is Evidently's DataDriftPreset at its
default thresholds on the same rows and the same reference, whose alarm is "dataset drift" (half of the
columns); what it says of any one column is shown beside. SEEDS in the environment takes fewer.
"""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pandas as pd

from jobs.conf.contract import load_contract
from jobs.conf.policy import load_policy
from jobs.features.declarations import MODEL_FEATURES
from jobs.monitoring.comparison import first_full_days
from jobs.monitoring.false_alarms import MONTH, by_day, thinned
from jobs.simulator.world import SimulatorConfig
from jobs.training.evaluate import REFERENCE_ROWS
from tests.benchmarks.__main__ import Case, console
from tests.benchmarks.monitor_jobs import Cost, on_a_log
from tests.benchmarks.monitor_jobs import measured as cost_of
from tests.benchmarks.monitor_streams import ABRUPT, KINDS, Stream, alarms, played
from tests.quiet_days import START, quiet_history

SEEDS = int(os.environ.get("SEEDS", "20"))
PEER_SEEDS = 2  # a report of its own takes 15 s and more, ours half a second
WORLDS, REFERENCE_DAYS, STREAM_DAYS = 5, 28, 19
ROWS_A_DAY = 10_000  # as many as the public data have
ROWS = 1_000_000
LONGEST = {"slow creep": STREAM_DAYS, "concept change": 5}  # days that are looked at; 3 for the others
IN_TIME = 2
POLICY, CONTRACT = load_policy(), load_contract("simulated")
SINCE = first_full_days(START, CONTRACT.labels.delay_days)


def stream_of(seed: int) -> Stream:
    """One world: 28 days of reference, and the days after them."""
    with tempfile.TemporaryDirectory() as folder:
        world = SimulatorConfig(
            seed=seed, rows_per_day=ROWS_A_DAY, customers=ROWS_A_DAY // 2, terminals=ROWS_A_DAY // 4
        )
        rows = quiet_history(Path(folder), world, REFERENCE_DAYS + STREAM_DAYS)
    days = by_day(rows)
    past = dict(list(days.items())[:REFERENCE_DAYS])
    return Stream(
        thinned(pd.concat(past.values()), REFERENCE_ROWS), past, dict(list(days.items())[REFERENCE_DAYS:])
    )


def by_evidently(stream: Stream, rows: pd.DataFrame) -> tuple[bool, bool]:
    """Whether the preset calls the day drifted, and whether it calls any column so."""
    from evidently import Report
    from evidently.presets import DataDriftPreset

    sides = [side[[*MODEL_FEATURES, "score"]] for side in (stream.reference, rows)]
    usable = [name for name in sides[0] if all(side[name].notna().any() for side in sides)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        snapshot = Report([DataDriftPreset()]).run(sides[1][usable], sides[0][usable])
    found = next(each["value"] for each in snapshot.dict()["metrics"] if "share" in each["value"])
    return found["share"] >= 0.5, found["count"] > 0


def delays(stream: Stream, kind: str, seed: int, *says: Callable[..., tuple[bool, ...]]) -> list[float]:
    """Days until the first alarm of each answer of `says`; infinite where none came while one looked."""
    found: list[float] = []
    for age, day, rows, disputed in played(stream, kind, seed):
        if age >= LONGEST.get(kind, IN_TIME + 1):
            break
        told = [each for answer in says for each in answer(stream, day, rows, disputed)]
        found = found or [float("inf")] * len(told)
        found = [min(before, age if now else before) for before, now in zip(found, told, strict=True)]
        if np.isfinite(found).all():
            break
    return found


def ours(stream: Stream, day: date, rows: pd.DataFrame, disputed: pd.DataFrame | None) -> tuple[bool, ...]:
    return (bool(alarms(stream, day, rows, disputed, SINCE, CONTRACT.slices, POLICY)),)


def peer(stream: Stream, _: date, rows: pd.DataFrame, __: pd.DataFrame | None) -> tuple[bool, ...]:
    return by_evidently(stream, rows)


def run() -> list[Case]:
    """Every figure of monitoring."""
    cases = speed()
    streams = [stream_of(seed) for seed in range(1, min(WORLDS, SEEDS) + 1)]
    cases += quiet(streams)
    caught: dict[str, list[float]] = {}
    for kind in KINDS:
        rows = [
            delays(streams[seed % len(streams)], kind, seed, ours)
            + (delays(streams[seed % len(streams)], kind, seed, peer) if seed < PEER_SEEDS else [])
            for seed in range(SEEDS)
        ]
        caught[kind] = [each[0] for each in rows]
        preset, column = ([each[place] for each in rows[:PEER_SEEDS]] for place in (1, 2))
        console.print(kind, "ours", caught[kind], "preset", preset, "any column", column)
        cases += cases_of(kind, caught[kind], preset)
    shown = [kind for kind in ABRUPT if kind != "concept change"]
    for name, kinds in (("but for concept change, which no input shows", shown), ("of all kinds", ABRUPT)):
        found = [each for kind in kinds for each in caught[kind]]
        share = float(np.mean([each <= IN_TIME for each in found]))
        case = f"abrupt changes {name}: caught within {IN_TIME} days, n = {len(found)}"
        cases.append(Case(case, share, None, "share", ">= 0.95", share >= 0.95))
    return cases


def cases_of(kind: str, found: list[float], peer: list[float]) -> list[Case]:
    """Share caught and middle delay of one kind."""
    shares = [float(np.mean(np.isfinite(each))) for each in (found, peer)]
    delays = [float(np.median([x for x in each if np.isfinite(x)] or [np.nan])) for each in (found, peer)]
    peer_delay = delays[1] if np.isfinite(delays[1]) else None
    seeds = f"{len(found)} seeds, peer {len(peer)}"
    return [
        Case(f"{kind}: caught, {seeds}", shares[0], shares[1], "share", "", True),
        Case(f"{kind}: delay where caught", delays[0], peer_delay, "days", "", True),
    ]


def quiet(streams: list[Stream]) -> list[Case]:
    """False alarms a month on the days of every world without a change."""
    mine, dataset, column = [], [], []
    for place, stream in enumerate(streams):
        for day, rows in stream.days.items():
            before = stream.days.get(day - timedelta(days=2))
            told = alarms(stream, day, rows, before, SINCE, CONTRACT.slices, POLICY)
            if told:
                console.print("false alarm", day, told)
            mine.append(bool(told))
            if place:
                continue
            preset = by_evidently(stream, rows)
            dataset.append(preset[0])
            column.append(preset[1])
    month = [float(np.mean(each)) * MONTH for each in (mine, dataset, column)]
    limit = POLICY.alerts.false_alarms / POLICY.alerts.budget_days * MONTH
    name = f"false alarms a month, {len(mine)} quiet days, peer {len(dataset)}"
    return [
        Case(f"{name}: the preset", month[0], month[1], "", f"<= {limit:.2f}", month[0] <= limit),
        Case(f"{name}: any column of it", month[0], month[2], "", "", True),
    ]


def speed() -> list[Case]:
    """A day of a million rows, by the jobs as they are, and the matured window of a smaller source."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "day"
        jobs = {job: on_a_log(job, log, ROWS, 1) for job in ("measure_drift", "measure_service")}
        days, rows = POLICY.performance.window_days, 100_000
        window = on_a_log("measure_performance", Path(folder) / "window", rows, days)
    peer = cost_of("evidently", ROWS)
    seconds = sum(each.seconds for each in jobs.values())
    processor = sum(each.processor_seconds for each in jobs.values())
    memory = max(each.gigabytes for each in jobs.values())
    day = f"a day of {ROWS:,} rows x {len(MODEL_FEATURES)} features"
    both = f"{day}, both jobs one after the other, Evidently's page of it drawn; peer: Evidently on all rows"
    return [
        Case(f"{both}: wall", seconds, peer.seconds, "s", "<= 30", seconds <= 30),
        Case(f"{both}: memory of the larger one", memory, peer.gigabytes, "GB", "<= 2", memory <= 2),
        Case(f"{both}: processor", processor, peer.processor_seconds, "s", "", True),
        *parts(jobs, day),
        *parts({"measure_performance": window}, f"{days} matured days of {rows:,} rows"),
    ]


def parts(jobs: dict[str, Cost], of: str) -> list[Case]:
    """What each job takes by itself."""
    return [
        Case(f"{job}, {of}: {what}", value, None, unit, "", True)
        for job, cost in jobs.items()
        for what, value, unit in (("wall", cost.seconds, "s"), ("memory", cost.gigabytes, "GB"))
    ]
