"""The service is killed, or stopped, under load during canary steps and reloads, and started again.

In: a world with two replicas and a cast of versions. Out: `Restart`s with what was wrong afterwards: another
champion, challenger or step than the registry names, a customer who changed sides, an answer that is in the
log twice, or one that is missing though it was given longer before the kill than the log's stated bound.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass

from jobs.conf.policy import policy_of
from jobs.promotion import state as registry
from jobs.serving.prediction_log import LOST_SECONDS
from jobs.serving.routing import in_canary
from tests.faults.canaries_http import FOLLOW_SECONDS
from tests.faults.flips import Cast, with_fresh_champion, wrong_answers
from tests.faults.load import Exchange, Load, in_time
from tests.faults.outages import by_rules, scored
from tests.faults.servers import START_SECONDS, Server, World, logged_twice, not_logged, wait_until

RATE = 60.0
SHARES = (5, 25, 50)


@dataclass(frozen=True)
class Restart:
    """One end of a replica and its new start."""

    how: str
    requests: int
    unlogged: int  # answers that the log lost, all of them within its bound
    seconds_away: float
    problems: tuple[str, ...]


def set_step(ours: World, players: Cast, percent: int) -> None:
    """Give the canary another share, as the start of a step does."""
    client = registry.registry_client(ours.settings)
    tags = {
        registry.TAG_PERCENT: str(percent),
        registry.TAG_PROMOTION: registry.IN_CANARY,
        registry.TAG_STEP: f"{registry.CANARY_PREFIX}{percent}",
    }
    registry.write_tags(client, ours.settings.model_name, players.canary, tags)
    registry.move_alias(client, ours.settings.model_name, registry.CHALLENGER, players.canary)


def serves(ours: World, champion: str, canary: str, percent: int, places: range | None = None) -> bool:
    """Whether these replicas, or all, serve so."""
    states = [ours.state(place) for place in places or range(len(ours.addresses))]
    wanted = (champion, canary, percent)
    return all((state["champion"], state["challenger"], state["percent"]) == wanted for state in states)


def killed(ours: World, players: Cast, seed: int) -> Restart:
    """Kill the first replica around a change of step and of champion; the second one stays.

    No replica has seen the next champion before, so that the kill may fall into its fetch or its load.
    """
    victim, chance = ours.replicas[0], random.Random(seed)
    before, after = chance.sample(SHARES, 2)
    players = with_fresh_champion(ours, players)
    champions = (players.one, players.other)
    _put(ours, players, champions[0], before)
    with Load(ours.addresses, rate=RATE, first=time.time_ns() // 1_000_000) as load:
        time.sleep(1.5)
        changing = time.time()
        delay = chance.uniform(0.0, 2.0)
        _move(ours, players, champions[1], after)
        changed = time.time()
        time.sleep(delay)
        kill_time = time.time()
        victim.kill()
        started = time.monotonic()
        victim.start()
        ready = time.time()
        wait_until(
            lambda: serves(ours, champions[1], players.canary, after),
            FOLLOW_SECONDS * 4,
            f"after a kill the replicas do not serve {champions[1]} with {after} %",
        )
        away, settled = time.monotonic() - started, time.time()
        time.sleep(1.5)
    exchanges = load.exchanges()
    mine, others = _split(exchanges, ours.addresses[0])
    problems = [f"the other replica lost: {each.trouble}" for each in others if each.lost]
    problems += [
        f"the killed replica lost a request {each.sent - kill_time:.1f} s after the kill: {each.trouble}"
        for each in mine
        if each.lost and (each.sent < kill_time - 10 or each.sent > settled)
    ]
    # until it says that it is ready, nobody is to send it requests: the rules may answer those
    starting = {
        each.number for each in mine if kill_time < each.sent < ready and not each.lost and by_rules(each)
    }
    exchanges, late = in_time([each for each in exchanges if each.number not in starting])
    problems += late
    problems += wrong_answers(load, players, exchanges)
    problems += wrong_sides(ours, players, exchanges, changing, changed, (before, after))
    lost, unlogged = lost_from_log(ours, exchanges, kill_time, ours.addresses[0])
    return Restart("SIGKILL", len(exchanges), unlogged, away, (*problems, *lost))


def _put(ours: World, players: Cast, champion: str, percent: int) -> None:
    _move(ours, players, champion, percent)
    wait_until(
        lambda: serves(ours, champion, players.canary, percent),
        FOLLOW_SECONDS * 4,
        f"the replicas do not serve {champion} with {percent} %",
    )


def _move(ours: World, players: Cast, champion: str, percent: int) -> None:
    set_step(ours, players, percent)
    registry.move_alias(
        registry.registry_client(ours.settings), ours.settings.model_name, registry.CHAMPION, champion
    )


def _split(exchanges: list[Exchange], address: str) -> tuple[list[Exchange], list[Exchange]]:
    mine = [each for each in exchanges if each.address == address]
    return mine, [each for each in exchanges if each.address != address]


def wrong_sides(
    ours: World,
    players: Cast,
    exchanges: list[Exchange],
    changing: float,
    changed: float,
    shares: tuple[int, int],
) -> list[str]:
    """Customers who were answered by another side than their share says, or by a share that is over."""
    salt = policy_of(ours.settings).canary.salt
    problems = []
    for each in exchanges:
        if each.lost:
            continue
        early, late = each.answered < changing, each.sent > changed + FOLLOW_SECONDS
        possible = shares[:1] if early else shares[1:] if late else shares
        allowed = {in_canary(each.customer, share, salt) for share in possible}
        if (each.answer["model_version"] == players.canary) not in allowed:
            problems.append(f"customer {each.customer} got {each.answer['variant']} with {possible} %")
    return problems


def lost_from_log(
    ours: World, exchanges: list[Exchange], kill_time: float, address: str
) -> tuple[list[str], int]:
    """What the log holds twice or has lost beyond its bound; and how many it lost within it."""
    missing = not_logged(ours.settings, exchanges)
    near = [
        each
        for each in missing
        if each.address == address and kill_time - LOST_SECONDS <= each.answered <= kill_time + 0.5
    ]
    problems = [
        f"request {each.number} at {each.address} is not in the log, though answered "
        f"{kill_time - each.answered:.2f} s before the kill"
        for each in missing
        if each not in near
    ]
    twice = logged_twice(ours.settings)
    problems += [f"{len(twice)} answers are in the log more than once"] if twice else []
    return problems, len(near)


def handed_over(ours: World) -> Restart:
    """The first replica's next process takes over from it: neither drops a request."""
    replica = ours.replicas[0]
    with Load(ours.addresses, rate=RATE, first=time.time_ns() // 1_000_000) as load:
        time.sleep(2.0)
        asked = time.time()
        status = replica.succeed("--take-over")
        replica.wait()
        away = time.time() - asked
        time.sleep(1.5)
    exchanges = load.exchanges()
    problems = [f"it ended with status {status}"] if status else []
    modelled, late = in_time(exchanges)
    problems += late
    for each in modelled:
        if each.lost:
            problems.append(f"lost {each.sent - asked:+.3f} s from the start of the next: {each.trouble}")
        elif not scored(each):
            problems.append(f"request {each.number} was answered without a model: {each.answer}")
    missing = not_logged(ours.settings, exchanges)
    problems += [f"{len(missing)} answers are not in the log"] if missing else []
    twice = logged_twice(ours.settings)
    problems += [f"{len(twice)} answers are in the log more than once"] if twice else []
    return Restart("handover", len(exchanges), 0, away, tuple(problems))


def stopped(ours: World, replica: Server) -> Restart:
    """Stop the first replica as a supervisor does: what it was sent before is answered, and is in the log."""
    place = ours.replicas.index(replica)
    with Load(ours.addresses, rate=RATE, first=time.time_ns() // 1_000_000) as load:
        time.sleep(2.0)
        asked = time.time()
        status = replica.stop()
        gone, started = time.time(), time.monotonic()
        replica.start(wait=False)
        wait_until(replica.is_ready, START_SECONDS, f"{replica.name} is not ready, see {replica.log}")
        away, back = time.monotonic() - started, time.time()
        time.sleep(1.5)
    exchanges = load.exchanges()
    problems = [f"it ended with status {status}"] if status else []
    lost = [each for each in exchanges if each.lost]
    for each in lost:
        # one process alone stops listening at once, and the next one answers when it has started: what is
        # sent meanwhile is refused or waits, and nothing that was taken in is lost
        refused = "refused" in each.trouble and asked <= each.sent <= gone
        starting = gone <= each.sent <= back
        if each.address != ours.addresses[place] or not (refused or starting):
            problems.append(f"lost {each.sent - asked:+.3f} s from the signal: {each.trouble}")
    missing = not_logged(ours.settings, exchanges)
    problems += [f"{len(missing)} answers are not in the log"] if missing else []
    twice = logged_twice(ours.settings)
    problems += [f"{len(twice)} answers are in the log more than once"] if twice else []
    return Restart(f"SIGTERM, {gone - asked:.1f} s", len(exchanges), 0, away, tuple(problems))
