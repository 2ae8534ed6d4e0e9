"""What scoring stands on goes away under load and comes back: registry, Redis, lake, Airflow.

In: a world with a champion, the server that is stopped, and what answers look like without it. Out: an
`Outage`: requests, how many were lost, how soon all was well again after the server was back, and each
problem as a sentence. Nobody touches the service meanwhile.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.promotion import state as registry
from stack.command import start_services
from stack.processes import ProcessFolder
from stack.processes import stop as stop_process
from tests.faults.load import Exchange, Load, in_time
from tests.faults.servers import World, logged_twice, not_logged, wait_until

BEFORE_SECONDS, DOWN_SECONDS, AFTER_SECONDS = 2.0, 4.0, 1.0
NOTICED_SECONDS = 1.5  # requests that were on their way, and reads that wait for their time-out
RECOVERED_SECONDS = 20.0
RATE = 80.0


@dataclass(frozen=True)
class Outage:
    """What came of one outage."""

    name: str
    requests: int
    lost: int
    seconds_back: float
    slowest: float  # answer, in seconds
    problems: tuple[str, ...]


def outage(
    ours: World,
    name: str,
    stop: Callable[[], Any],
    start: Callable[[], Any],
    *,
    meanwhile: Callable[[Exchange], bool],
    is_well: Callable[[Load, float], bool],
    recovers: float = RECOVERED_SECONDS,
) -> Outage:
    """Stop something under load and start it again.

    Args:
        ours: the world, its replicas running with a champion.
        name: for people.
        stop: takes it away.
        start: brings it back, and returns when it answers.
        meanwhile: whether an answer is as it should be while it is away.
        is_well: whether all is as before, given the load and when it was back.
        recovers: seconds after which all must be well again.
    """
    with Load(ours.addresses, rate=RATE, first=time.time_ns() // 1_000_000) as load:
        time.sleep(BEFORE_SECONDS)
        leaving = time.time()
        stop()
        gone = time.time()
        time.sleep(DOWN_SECONDS)
        returning = time.time()
        start()
        back = time.time()
        seconds = wait_until(lambda: is_well(load, back), recovers, f"{name}: not well again")
        well = time.time()
        time.sleep(AFTER_SECONDS)
    exchanges = load.exchanges()
    problems = [f"{name}: lost: {each.trouble}" for each in exchanges if each.lost]
    answered = [each for each in exchanges if not each.lost]
    lost, slowest = len(exchanges) - len(answered), max(each.seconds for each in answered)
    answered, late = in_time(answered)
    problems += [f"{name}: {problem}" for problem in late]
    away = [each for each in answered if gone + NOTICED_SECONDS < each.sent < returning]
    otherwise = [each for each in answered if each.sent < leaving - NOTICED_SECONDS or each.sent > well]
    for wanted, found, when in ((meanwhile, away, "away"), (scored, otherwise, "there")):
        wrong = [each for each in found if not wanted(each)]
        if wrong:
            problems.append(f"{name}: {len(wrong)} wrong answers while {when}, as {wrong[0].answer}")
        problems += [] if found else [f"{name}: no answers while {when}"]
    missing = not_logged(ours.settings, exchanges)
    problems += [f"{name}: {len(missing)} answers are not in the log"] if missing else []
    twice = logged_twice(ours.settings)
    problems += [f"{name}: {len(twice)} answers are in the log more than once"] if twice else []
    return Outage(name, len(exchanges), lost, seconds, slowest, tuple(problems))


def scored(each: Exchange) -> bool:
    """The champion answered, with a score."""
    return each.answer["variant"] != "rules" and each.answer["score"] is not None


def by_rules(each: Exchange) -> bool:
    """The rules answered, and said so."""
    found = each.answer
    return (found["variant"], found["score"], found["model_version"]) == ("rules", None, None)


def scores_again(load: Load, back: float) -> bool:
    """Every replica has answered with a score since, and no later answer is without."""
    newest = {each.address: each for each in load.exchanges(since=back) if not each.lost}
    return len(newest) == len(load.addresses) and all(map(scored, newest.values()))


def redis_outage(ours: World) -> Outage:
    """Features cannot be read: the rules answer."""
    assert ours.redis is not None
    return outage(ours, "Redis", ours.redis.stop, ours.redis.start, meanwhile=by_rules, is_well=scores_again)


def registry_outage(ours: World) -> Outage:
    """Nobody can say who is champion: who was, goes on."""
    mlflow = ours.mlflow
    assert mlflow is not None

    def follows(_load: Load, _back: float) -> bool:
        return all(not state["registry_error"] for state in ours.states())

    return outage(ours, "MLflow", mlflow.stop, mlflow.start, meanwhile=scored, is_well=follows)


def redis_hangs(ours: World) -> Outage:
    """Redis keeps its connections and does not answer: a request waits a moment, then the rules answer."""
    redis = ours.redis
    assert redis is not None
    return outage(ours, "Redis hanging", redis.pause, redis.resume, meanwhile=by_rules, is_well=scores_again)


def registry_hangs(ours: World) -> Outage:
    """MLflow takes connections and does not answer: nobody waits for it but the one who follows it."""
    mlflow = ours.mlflow
    assert mlflow is not None

    def follows(load: Load, back: float) -> bool:
        return scores_again(load, back) and all(not state["registry_error"] for state in ours.states())

    return outage(ours, "MLflow hanging", mlflow.pause, mlflow.resume, meanwhile=scored, is_well=follows)


def lake_outage(ours: World) -> Outage:
    """The folder of the tables is away, and nothing can be written in its place."""
    lake = Path(ours.settings.lake)
    aside = lake.with_name("lake-aside")

    def take_away() -> None:
        lake.rename(aside)
        lake.touch()

    def bring_back() -> None:
        lake.unlink()
        aside.rename(lake)

    return outage(ours, "lake", take_away, bring_back, meanwhile=scored, is_well=log_complete(ours))


def log_complete(ours: World) -> Callable[[Load, float], bool]:
    """Whether the log holds every answer that was given before the lake was back."""

    def is_complete(load: Load, back: float) -> bool:
        before = [each for each in load.exchanges() if each.sent < back]
        return not not_logged(ours.settings, before, seconds=0)

    return is_complete


def airflow_outage(ours: World) -> Outage:
    """The scheduler's server comes and goes: scoring does not know it."""
    name = "airflow-api"

    def start() -> None:
        start_services(ours.settings, ours.environment, name)

    def stop() -> None:
        stop_process(ProcessFolder(ours.settings.home), name)

    before = dict(os.environ)
    start()
    try:
        return outage(ours, "Airflow", stop, start, meanwhile=scored, is_well=scores_again)
    finally:
        stop()
        os.environ.clear()
        os.environ.update(before)


def rules_without_a_model(ours: World) -> list[str]:
    """Before there is a champion the rules answer, and the first champion takes over without a restart."""
    client = registry.registry_client(ours.settings)
    champion = registry.read_aliases(client, ours.settings.model_name).get(registry.CHAMPION)
    if champion is not None:
        return ["there is a champion already"]
    with Load(ours.addresses, rate=20, first=time.time_ns() // 1_000_000) as load:
        time.sleep(1.0)
    answered = load.exchanges()
    return [
        f"no model: {each.trouble or each.answer}" for each in answered if each.lost or not by_rules(each)
    ]
