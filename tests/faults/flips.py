"""Aliases that are moved by many hands at once, under load and over two replicas.

In: a world with replicas. Out: problems, each a sentence: a request without a model, a version that answered
without a promotion record, a version that did not make the score that it is named beside, replicas that do
not agree within FOLLOW_SECONDS, a customer whom they route differently.
"""

from __future__ import annotations

import http.client
import math
import random
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

from mlflow import MlflowClient

from jobs.conf.policy import policy_of
from jobs.core import SluiceError
from jobs.promotion import state as registry
from jobs.serving.routing import in_canary
from tests.faults.canaries_http import FOLLOW_SECONDS, followed
from tests.faults.load import CUSTOMERS, Exchange, Load, exchange, in_time
from tests.faults.servers import World, wait_until
from tests.faults.versions import add_version, graph

TRIES = 20
MOVES_EACH = 2
PAUSE_SECONDS = 0.2  # at most, between two moves of one hand
PERCENT = 25
CANARY = {
    registry.TAG_PROMOTION: registry.IN_CANARY,
    registry.TAG_STEP: f"{registry.CANARY_PREFIX}{PERCENT}",
    registry.TAG_PERCENT: str(PERCENT),
}
BIASES = {"one": -3.0, "other": -2.5, "canary": -2.0, "unproven": -1.0}
CLOSE = 1e-4
ASKED_A_SECOND = 150  # one client may ask serving.requests_per_second times, of which this stays clear


@dataclass(frozen=True)
class Cast:
    """Who plays: two completed versions, one in its canary, and one without any record."""

    one: str
    other: str
    canary: str
    unproven: str

    def bias(self, version: str) -> float:
        return next(bias for name, bias in BIASES.items() if getattr(self, name) == version)


@dataclass(frozen=True)
class Flips:
    """What came of the moves."""

    moves: int
    requests: int
    lost: int
    slowest_agreement: float  # seconds
    problems: tuple[str, ...]


def cast(ours: World) -> Cast:
    """The versions, each with a model of its own; alias champion is on `one`."""
    completed = {registry.TAG_PROMOTION: registry.COMPLETED}
    tags = {"one": completed, "other": completed, "canary": CANARY, "unproven": {}}
    found = {
        name: add_version(ours.settings, ours.folder, graph(bias=bias), tags[name], second=graph(bias=bias))
        for name, bias in BIASES.items()
    }
    players = Cast(**found)
    client = registry.registry_client(ours.settings)
    registry.remove_alias(client, ours.settings.model_name, registry.PREVIOUS)
    registry.remove_alias(client, ours.settings.model_name, registry.CHALLENGER)
    registry.move_alias(client, ours.settings.model_name, registry.CHAMPION, players.one)
    followed(ours, champion=players.one, challenger=None)
    return players


def with_fresh_champion(ours: World, players: Cast) -> Cast:
    """The cast with another `other`, which no replica has fetched yet."""
    model = graph(bias=BIASES["other"])
    completed = {registry.TAG_PROMOTION: registry.COMPLETED}
    return replace(players, other=add_version(ours.settings, ours.folder, model, completed, second=model))


def flipped(ours: World, players: Cast, hands: int, timed: int, seed: int) -> Flips:
    """MOVES_EACH by so many hands at once, then `timed` ones after each of which all replicas agree."""
    with Load(ours.addresses, rate=100, first=time.time_ns() // 1_000_000) as load:
        with ThreadPoolExecutor(hands) as pool:
            work = [pool.submit(_hand, ours, players, seed + hand) for hand in range(hands)]
            for each in work:
                each.result()
        slowest = _settled(ours, players.one, None)
        for number in range(timed):
            champion = players.other if number % 2 == 0 else players.one
            challenger = players.canary if number % 3 == 0 else None
            _move(ours, champion, challenger)
            slowest = max(slowest, _settled(ours, champion, challenger, move=False))
        time.sleep(0.5)
    exchanges = load.exchanges()
    problems = [f"lost: {each.trouble}" for each in exchanges if each.lost]
    lost = sum(each.lost for each in exchanges)
    modelled, late = in_time(exchanges)
    problems += [*late, *wrong_answers(load, players, modelled)]
    if slowest > FOLLOW_SECONDS:
        problems.append(f"the replicas agreed only after {slowest:.1f} s")
    return Flips(hands * MOVES_EACH + timed, len(exchanges), lost, slowest, tuple(problems))


def _hand(ours: World, players: Cast, seed: int) -> None:
    chance = random.Random(seed)
    client, name = registry.registry_client(ours.settings), ours.settings.model_name
    for _ in range(MOVES_EACH):
        kind = chance.choice(("one", "other", "unproven", "on", "off"))
        if kind == "on":
            _set(client, name, registry.CHALLENGER, players.canary)
        elif kind == "off":
            registry.remove_alias(client, name, registry.CHALLENGER)
        else:
            _set(client, name, registry.CHAMPION, getattr(players, kind))
        time.sleep(chance.uniform(0, PAUSE_SECONDS))


def _set(client: MlflowClient, name: str, alias: str, version: str) -> None:
    """Of two hands that set an alias at the same moment MLflow refuses one, which tries again."""
    for left in range(TRIES - 1, -1, -1):
        try:
            registry.move_alias(client, name, alias, version)
        except SluiceError:
            if left == 0:
                raise
        else:
            return


def _move(ours: World, champion: str, challenger: str | None) -> None:
    client, name = registry.registry_client(ours.settings), ours.settings.model_name
    registry.move_alias(client, name, registry.CHAMPION, champion)
    if challenger is None:
        registry.remove_alias(client, name, registry.CHALLENGER)
    else:
        registry.move_alias(client, name, registry.CHALLENGER, challenger)


def _settled(ours: World, champion: str, challenger: str | None, *, move: bool = True) -> float:
    """How long all replicas took to say so after the last move; far more than allowed is waited for."""
    if move:
        _move(ours, champion, challenger)
    percent = PERCENT if challenger else 0
    wanted = (champion, challenger, percent)
    return wait_until(
        lambda: all(
            (state["champion"], state["challenger"], state["percent"]) == wanted for state in ours.states()
        ),
        FOLLOW_SECONDS * 4,
        f"not every replica serves {wanted}",
    )


def wrong_answers(load: Load, players: Cast, exchanges: Iterable[Exchange]) -> list[str]:
    """Answers without a model, by a version that may not answer, or by another version than they name."""
    problems = []
    for each in exchanges:
        if each.lost:
            continue
        version, variant = each.answer["model_version"], each.answer["variant"]
        completed = (players.one, players.other)
        allowed = {
            "champion": completed, "canary": (players.canary,), "holdout": (*completed, players.canary)
        }  # fmt: skip
        if version not in allowed.get(variant, ()):
            problems.append(f"request {each.number}: version {version} answered as {variant}")
            continue
        amount = load.transaction(each.number)["amount_minor"] / 100
        wanted = 1 / (1 + math.exp(-(amount + players.bias(version))))
        if abs(each.answer["score"] - wanted) > CLOSE:
            problems.append(
                f"request {each.number}: version {version} scores {wanted:.4f}, not {each.answer['score']}"
            )
    return problems


def routed_alike(ours: World, players: Cast, customers: int = CUSTOMERS) -> list[str]:
    """Customers whom a replica routes otherwise than the salted hash says, asked one by one."""
    _settled(ours, players.one, players.canary)
    salt = policy_of(ours.settings).canary.salt
    problems = []
    for address in ours.addresses:
        parts = urlsplit(address)
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=10)
        first = time.time_ns() // 1_000_000
        for customer in range(customers):
            # an amount that nobody would block: the answer is neither a rule's nor held out
            body = {
                "transaction_id": first + customer, "event_time": "2026-01-31T12:00:00Z",
                "customer_id": customer, "terminal_id": 1 + customer % 300, "amount_minor": 100,
            }  # fmt: skip
            time.sleep(1 / ASKED_A_SECOND)
            found = exchange(connection, address, body)
            if found.answer.get("degraded") == "too_late":
                found = exchange(connection, address, body)
            wanted = "canary" if in_canary(customer, PERCENT, salt) else "champion"
            if found.answer.get("variant") != wanted:
                problems.append(f"customer {customer} at {address}: {found.answer or found.trouble}")
        connection.close()
    _settled(ours, players.one, None)
    return problems
