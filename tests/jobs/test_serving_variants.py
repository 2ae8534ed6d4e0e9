"""Who answers beside whom: canary, shadow and holdout beside the champion, and a failing one beside all."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import pairwise
from threading import Event, current_thread

import pytest

from jobs.conf.settings import Settings
from jobs.serving.follower import ServingState
from jobs.serving.routing import held_out, in_canary
from jobs.serving.scoring import SHADOW_SHARE
from tests.served_app import (
    IN_5,
    NOT_IN_50,
    POLICY,
    SALT,
    MakeModel,
    failing,
    logged,
    never_a_number,
    policy_with,
    served,
    transaction,
)
from tests.served_bundles import constant_graph, slow_graph

pytest_plugins = ("tests.served_app",)


def test_customers_in_the_canary_get_the_challenger_and_the_others_do_not(
    home: Settings, model: MakeModel
) -> None:
    state = ServingState(
        champion=model("3", constant_graph(0.1, 3)),
        challenger=model("4", constant_graph(0.6, 3)),
        step="canary_5",
        percent=5,
    )
    with served(home, state) as (client, _, _):
        for customer in range(200):
            body = transaction(transaction_id=customer, customer_id=customer)
            answer = client.post("/score", json=body).json()
            expected = "canary" if in_canary(customer, 5, SALT) else "champion"
            assert answer["variant"] == expected
            assert answer["model_version"] == {"canary": "4", "champion": "3"}[expected]
    rows = [row for row in logged(home) if row["variant"] != "shadow"]
    assert len(rows) == 200
    assert {row["step"] for row in rows} == {"canary_5"}
    assert sum(row["variant"] == "canary" for row in rows) == sum(
        in_canary(customer, 5, SALT) for customer in range(200)
    )


def test_a_shadow_never_changes_a_response(home: Settings, model: MakeModel) -> None:
    champion = model("3", constant_graph(0.1, 3))
    shadow = model("4", constant_graph(0.95, 3))
    bodies = []
    for state in (
        ServingState(champion=champion),
        ServingState(champion=champion, challenger=shadow, step="shadow", percent=0),
    ):
        with served(home, state) as (client, _, features):
            answers = [
                client.post("/score", json=transaction(transaction_id=number)).json() for number in range(20)
            ]
        assert len(features.asked) == 20
        assert features.closed
        bodies.append([{**answer, "request_id": ""} for answer in answers])
    assert bodies[0] == bodies[1]
    rows = [row for row in logged(home) if row["step"] == "shadow"]
    assert len(rows) == 40
    answers_of = {row["request_id"]: row for row in rows if row["variant"] == "champion"}
    shadows_of = {row["request_id"]: row for row in rows if row["variant"] == "shadow"}
    assert answers_of.keys() == shadows_of.keys()
    assert {row["decision"] for row in shadows_of.values()} == {"block"}
    assert {row["model_version"] for row in shadows_of.values()} == {"4"}


def test_a_shadow_that_fails_is_a_row_of_the_log_and_nothing_else(home: Settings, model: MakeModel) -> None:
    shadow = model("4", constant_graph(0.2, 3))
    shadow.bundle.score_one = failing  # type: ignore[method-assign]
    state = ServingState(model("3", constant_graph(0.1, 3)), shadow, "shadow", 0)
    with served(home, state) as (client, _, _):
        answer = client.post("/score", json=transaction())
    assert answer.status_code == 200
    assert answer.json()["variant"] == "champion"
    rows = {row["variant"]: row for row in logged(home)}
    assert rows["shadow"]["error"] == "the graph broke"
    assert rows["shadow"]["score"] is None
    assert rows["champion"]["error"] == ""


def test_what_waits_for_the_shadow_of_a_version_that_has_left_is_given_up(
    home: Settings, model: MakeModel
) -> None:
    champion, shadow = model("3", constant_graph(0.1, 3)), model("4", constant_graph(0.2, 3))
    begun, go_on = Event(), Event()

    def held_up(values: list[float]) -> float:
        if current_thread().name == "shadow":  # the warm-up asks too
            begun.set()
            go_on.wait(10)
        return 0.2

    shadow.bundle.score_one = held_up  # type: ignore[method-assign]
    with served(home, ServingState(champion, shadow, "canary_5", 5)) as (client, service, _):
        for number in range(5):
            client.post("/score", json=transaction(transaction_id=number))
        assert begun.wait(10)
        service.follower.state = ServingState(champion)
        go_on.set()
    variants = [row["variant"] for row in logged(home)]
    assert (variants.count("champion"), variants.count("shadow")) == (5, 1)


def test_the_shadow_of_a_slow_challenger_leaves_the_processor_to_the_answers(
    home: Settings, model: MakeModel
) -> None:
    champion, shadow = model("3", constant_graph(0.1, 3)), model("4", constant_graph(0.2, 3))
    enough, scored = Event(), []

    def slow(values: list[float]) -> float:
        until = time.thread_time() + 0.05
        while time.thread_time() < until:
            pass
        if current_thread().name == "shadow":
            scored.append(time.monotonic())
            if len(scored) == 4:
                enough.set()
        return 0.2

    shadow.bundle.score_one = slow  # type: ignore[method-assign]
    with served(home, ServingState(champion, shadow, "canary_5", 5)) as (client, _, _):
        for number in range(5):
            client.post("/score", json=transaction(transaction_id=number))
        assert enough.wait(10)
    assert min(after - before for before, after in pairwise(scored[:4])) > 0.9 * 0.05 / SHADOW_SHARE


@pytest.mark.parametrize("broken", [failing, never_a_number])
def test_a_canary_that_fails_never_reaches_the_caller(
    home: Settings, model: MakeModel, broken: Callable[[list[float]], float]
) -> None:
    canary = model("4", constant_graph(0.2, 3))
    canary.bundle.score_one = broken  # type: ignore[method-assign]
    state = ServingState(model("3", constant_graph(0.1, 3)), canary, "canary_5", 5)
    with served(home, state) as (client, _, features):
        answer = client.post("/score", json=transaction(customer_id=IN_5))
        assert len(features.asked) == 1  # an event counts once, whoever answers
    body = answer.json()
    assert answer.status_code == 200
    assert (body["variant"], body["model_version"]) == ("champion", "3")
    assert body["score"] == pytest.approx(0.1)
    rows = {row["variant"]: row for row in logged(home)}
    assert rows.keys() == {"canary", "champion"}, "whoever was asked is not asked again in the shadow"
    assert rows["canary"]["error"]
    assert rows["canary"]["score"] is None
    assert rows["champion"]["error"] == ""
    assert rows["canary"]["request_id"] == rows["champion"]["request_id"]


def test_a_slow_canary_shows_in_its_own_latency_only(home: Settings, model: MakeModel) -> None:
    champion = model("3", constant_graph(0.1, 3))
    slow = model("4", slow_graph(3, size=512, rounds=30))
    assert slow.slow
    assert not champion.slow
    state = ServingState(champion, slow, "canary_50", 50)
    with served(home, state) as (client, _, _):
        for number in range(40):
            customer = IN_5 if number % 2 else NOT_IN_50
            client.post("/score", json=transaction(transaction_id=number, customer_id=customer))
    rows = logged(home)
    latency = {
        variant: sorted(row["latency_ms"] for row in rows if row["variant"] == variant)[10]
        for variant in ("champion", "canary")
    }
    assert latency["canary"] > 5 * latency["champion"]


def test_too_many_requests_waiting_for_a_slow_canary_are_answered_by_the_champion(
    home: Settings, model: MakeModel
) -> None:
    slow = model("4", slow_graph(3, size=512, rounds=30))
    state = ServingState(model("3", constant_graph(0.1, 3)), slow, "canary_5", 5)
    with served(home, state) as (client, service, _):
        service.scorer._slow_waiting = 64
        body = client.post("/score", json=transaction(customer_id=IN_5)).json()
        service.scorer._slow_waiting = 0
    assert body["variant"] == "champion"
    assert "overloaded" in {row["variant"]: row["error"] for row in logged(home)}["canary"]


def test_a_share_of_the_models_blocks_is_let_through_and_the_log_says_what_it_would_have_been(
    home: Settings, model: MakeModel
) -> None:
    share, policy = 0.3, policy_with("serving", holdout_share=0.3)
    champion = model("3", constant_graph(0.95, 3))
    with served(home, ServingState(champion), policy=policy) as (client, _, _):
        answers = [client.post("/score", json=transaction(transaction_id=n)).json() for n in range(60)]
        again = client.post("/score", json=transaction(transaction_id=7)).json()
        metrics = client.get("/metrics").text
    chosen = {n for n in range(60) if held_out(n, share, SALT)}
    assert 5 < len(chosen) < 40
    for n, answer in enumerate(answers):
        expected = ("approve", "holdout") if n in chosen else ("block", "champion")
        assert (answer["decision"], answer["variant"]) == expected
        assert (answer["model_version"], answer["score"]) == ("3", pytest.approx(0.95))
    assert again["decision"] == answers[7]["decision"]
    through = len(chosen) + (7 in chosen)
    assert f"sluice_holdout_total {through}.0" in metrics
    assert f"sluice_holdout_amount_minor_total {through * 100}.0" in metrics
    rows = logged(home)
    assert {row["transaction_id"] for row in rows if row["variant"] == "holdout"} == chosen


def test_what_a_list_blocks_is_never_let_through(home: Settings, model: MakeModel) -> None:
    policy = policy_with("serving", holdout_share=1.0)
    rules = POLICY.rules.model_copy(update={"deny_customers": (IN_5,), "deny_terminals": (9,)})
    policy = policy.model_copy(update={"rules": rules})
    with served(home, ServingState(model("3", constant_graph(0.95, 3))), policy=policy) as (client, _, _):
        answers = [
            client.post("/score", json=transaction(**change)).json()
            for change in ({"customer_id": IN_5}, {"terminal_id": 9}, {"amount_minor": 500_001}, {})
        ]
    assert [(answer["decision"], answer["rule"]) for answer in answers] == [
        ("block", "deny_customer"),
        ("block", "deny_terminal"),
        ("approve", ""),
        ("approve", ""),
    ]


def test_champion_canary_shadow_and_holdout_stand_side_by_side(home: Settings, model: MakeModel) -> None:
    policy = policy_with("serving", holdout_share=0.5)
    certain, mild = model("3", constant_graph(0.95, 3)), model("4", constant_graph(0.2, 3))
    with served(home, ServingState(certain, mild, "canary_50", 50), policy=policy) as (client, _, _):
        for number in range(50):
            client.post("/score", json=transaction(transaction_id=number, customer_id=number))
    rows = logged(home)
    assert {row["variant"] for row in rows} == {"champion", "canary", "holdout", "shadow"}
    answers = {row["request_id"]: row for row in rows if row["variant"] != "shadow"}
    assert [row["transaction_id"] for row in answers.values()] == list(range(50))  # each once
    for row in answers.values():
        canary = in_canary(row["customer_id"], 50, SALT)
        held = not canary and held_out(row["transaction_id"], 0.5, SALT)
        assert row["variant"] == ("canary" if canary else "holdout" if held else "champion")
        assert row["model_version"] == ("4" if canary else "3")
    shadows = [row for row in rows if row["variant"] == "shadow"]
    assert {row["model_version"] for row in shadows} == {"4"}
    assert {round(row["score"], 6) for row in shadows} == {0.2}
    assert [row["request_id"] for row in shadows] == [
        name for name, row in answers.items() if row["variant"] != "canary"
    ]
