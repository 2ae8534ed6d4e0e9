"""Faults of serving and canary over real processes and HTTP: `make faults` runs all of it.

In: a folder. Out: one case for each figure, and each problem as a sentence.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path

from rich.console import Console

from jobs.conf.settings import load_settings
from jobs.promotion import roll_back
from jobs.serving.prediction_log import LOST_SECONDS
from tests.benchmarks.__main__ import Case
from tests.faults import canaries, canaries_http, flips, outages, restarts, scheduler_kills
from tests.faults.canaries_http import BACK_SECONDS, FOLLOW_SECONDS, Story
from tests.faults.cases import none, within
from tests.faults.outages import RECOVERED_SECONDS, Outage
from tests.faults.restarts import Restart
from tests.faults.scheduler_kills import GOES_ON_SECONDS
from tests.faults.servers import World, start_all, world
from tests.faults.stored_lake import lake_on_s3
from tests.faults.versions import FAULTS
from tests.s3_server import free_port

KILLS, OVERS, STOPS, GOODS = 8, 3, 2, 2
HANDS, TIMED_MOVES = 100, 20  # that move aliases, all at once
ROOT = Path(__file__).parents[2]
SCHEMA_TEST = "tests/jobs/test_serving_schema.py"
EXAMPLES = 300  # of each endpoint and way, in each of the test's worlds
TRIALS = 200  # simulated promotions of each kind
AIRFLOW_KILLS = (  # in one promotion each: the step, and what its task is doing
    {"shadow": "deferred", "canary_5": "deferred", "canary_25": "deferred", "canary_50": "deferred"},
    {"canary_5": "running", "canary_50": "running"},
)
console = Console()
Found = tuple[list[Case], list[str]]


def run(folder: Path) -> Found:
    """All scenarios, in the order in which each leaves the world to the next."""
    cases: list[Case] = []
    problems: list[str] = []
    home = load_settings({"SLUICE_HOME": str(folder / "home")})
    home = home.model_copy(update={"airflow_uri": f"http://127.0.0.1:{free_port()}"})
    with world(folder / "world", home, replicas=2, mlflow_server=True) as ours:
        start_all(ours)
        for scenario in SCENARIOS:
            found, wrong = _told(scenario, ours)
            cases += found
            problems += wrong
    for found, wrong in (lake_on_s3(folder / "s3", home), _trials(), documented(EXAMPLES)):
        cases += found
        problems += wrong
    return cases, problems


def _trials() -> Found:
    """Promotions on logs and on simulated requests, by the hundred."""
    figures = canaries.run(TRIALS)
    wrong = canaries.problems(figures)
    goals = {"share rolled back": canaries.FALSE_SHARE_ALLOWED, "share missed": 0.0,
             "seconds at most": canaries.SECONDS_ALLOWED}  # fmt: skip
    cases = []
    for name, value in figures.items():
        goal = goals.get(name.partition(": ")[2])
        met = goal is None or value <= goal
        cases.append(
            Case(
                f"simulated canary, {name}", value, None, "", f"<= {goal:g}" if goal is not None else "", met
            )
        )
    return cases, wrong


def documented(examples: int) -> Found:
    """Bodies that the service's schema allows, and such as it does not, by the hundred."""
    asked = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", SCHEMA_TEST],
        cwd=ROOT,
        env=os.environ | {"SCHEMA_EXAMPLES": str(examples)},
        capture_output=True,
        text=True,
        check=False,
    )
    wrong = [line for line in asked.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    if asked.returncode and not wrong:
        wrong = [f"{SCHEMA_TEST}: {asked.stdout[-500:]}{asked.stderr[-500:]}"]
    name = f"endpoints asked with {examples} bodies of each kind: not answered as documented"
    return [none(name, len(wrong))], wrong


def _told(scenario: Callable[[World], Found], ours: World) -> Found:
    """A scenario that gave up is a problem of its own, and the others still run."""
    name, started = scenario.__name__.strip("_").replace("_", " "), time.monotonic()
    try:
        found, wrong = scenario(ours)
    except Exception as error:
        found, wrong = [none(f"{name}: given up", 1)], [f"{name}: {error!r}"]
    console.print(f"{name}: {time.monotonic() - started:.0f} s, {len(wrong)} problems")
    return found, wrong


def _outages(ours: World) -> Found:
    without = outages.rules_without_a_model(ours)
    canaries_http.settle(ours)
    done = [
        outages.registry_outage(ours),
        outages.registry_hangs(ours),
        outages.redis_outage(ours),
        outages.redis_hangs(ours),
        outages.lake_outage(ours),
        outages.airflow_outage(ours),
    ]
    cases = [none("no model yet: answers that are not the rules'", len(without))]
    for each in done:
        cases += outage_cases(each)
    return cases, [*without, *(problem for each in done for problem in each.problems)]


def outage_cases(each: Outage) -> list[Case]:
    """One outage's figures."""
    return [
        none(f"{each.name} away: of {each.requests} requests lost", each.lost),
        none(f"{each.name} away: other problems", len(each.problems) - each.lost),
        within(f"{each.name} back: all is well after", each.seconds_back, RECOVERED_SECONDS),
        Case(f"{each.name} away: slowest answer", each.slowest, None, "s", "", True),
    ]


def _aliases(ours: World) -> Found:
    players = flips.cast(ours)
    found = flips.flipped(ours, players, HANDS, TIMED_MOVES, seed=1)
    apart = flips.routed_alike(ours, players)
    cases = [
        none(
            f"{found.moves} moves of aliases by {HANDS} hands at once: of {found.requests} requests lost",
            found.lost,
        ),
        none("moves of aliases: answers without a model or by a wrong one", len(found.problems) - found.lost),
        within(
            "moves of aliases: the slowest until both replicas agreed",
            found.slowest_agreement,
            FOLLOW_SECONDS,
        ),
        none("customers whom two replicas route differently", len(apart)),
    ]
    return cases, [*found.problems, *apart]


def _restarts(ours: World) -> Found:
    players = flips.cast(ours)
    kills = [restarts.killed(ours, players, seed) for seed in range(KILLS)]
    flips.cast(ours)
    overs = [restarts.handed_over(ours) for _ in range(OVERS)]
    stops = [restarts.stopped(ours, ours.replicas[0]) for _ in range(STOPS)]
    cases = [
        none(f"of {len(kills)} kills in canary steps, those that left something wrong", _bad(kills)),
        Case(
            f"most answers that a kill took from the log, all given within {LOST_SECONDS:g} s before it",
            max(each.unlogged for each in kills), None, "answers", "", True,
        ),
        none(f"of {len(overs)} handovers under load, those that lost a request", _bad(overs)),
        none(f"of {len(stops)} graceful stops under load, those that lost a request", _bad(stops)),
    ]  # fmt: skip
    return cases, [problem for each in (*kills, *overs, *stops) for problem in each.problems]


def _bad(found: Sequence[Restart]) -> int:
    return sum(bool(each.problems) for each in found)


def _bad_canaries(ours: World) -> Found:
    _, champion = canaries_http.settle(ours)
    cases, problems = [], []
    for fault, always in product(FAULTS, (False, True)):
        story = canaries_http.bad_canary(ours, fault, champion, always=always)
        problems += story.problems
        name = f"{fault.replace('_', ' ')}{' from the start' if always else ' by night'}"
        console.print(f"  {name}: {story.outcome} at {story.step}: {story.reason}", highlight=False)
        cases += bad_canary_cases(name, story)
        if story.outcome == "completed":
            roll_back.run(roll_back.Params(version=story.version, reason="it was spoiled"), ours.settings)
    return cases, problems


def bad_canary_cases(name: str, story: Story) -> list[Case]:
    """One bad version's figures."""
    return [
        none(f"bad canary, {name}: not caught, or other problems", len(story.problems)),
        within(
            f"bad canary, {name}: back on the champion",
            story.seconds_back,
            BACK_SECONDS,
        ),
    ]


def _good_canaries(ours: World) -> Found:
    cases, problems = [], []
    for kind in canaries_http.GOOD:
        stories = []
        for _ in range(GOODS):
            canaries_http.settle(ours)  # the one before has become champion
            stories.append(canaries_http.good_canary(ours, kind))
        back = sum(story.outcome != "completed" for story in stories)
        cases.append(none(f"of {GOODS} canaries over HTTP, {kind}, rolled back", back))
        problems += [problem for story in stories for problem in story.problems]
    return cases, problems


def _airflow_kills(ours: World) -> Found:
    canaries_http.settle(ours)
    with scheduler_kills.airflow_of(ours) as airflow:
        promotions = [scheduler_kills.promoted(ours, airflow, kills) for kills in AIRFLOW_KILLS]
        wrong = scheduler_kills.taken_back(ours, airflow, promotions[-1].version)
    kills = [kill for each in promotions for kill in each.kills]
    problems = [problem for each in promotions for problem in each.problems]
    cases = [
        none(f"Airflow killed {len(kills)} times in {len(promotions)} promotions: problems", len(problems)),
        none("champion taken back by the button of Airflow: problems", len(wrong)),
    ]
    for state in ("deferred", "running"):
        slowest = max((kill.seconds for kill in kills if kill.task_state == state), default=0.0)
        name = f"Airflow killed while a step's task was {state}: looked at again after its start"
        cases.append(within(name, slowest, GOES_ON_SECONDS))
    return cases, [*problems, *wrong]


def _way_back(ours: World) -> Found:
    problems, seconds = canaries_http.way_back(ours)
    cases = [
        none("champion taken back by hand: problems", len(problems)),
        within("champion taken back by hand: all replicas serve the one before", seconds, FOLLOW_SECONDS),
    ]
    return cases, problems


SCENARIOS = (_outages, _aliases, _restarts, _bad_canaries, _good_canaries, _way_back, _airflow_kills)
