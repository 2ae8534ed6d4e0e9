"""The scoring service over HTTP: answers, refusals, canary, shadow, and every kind of failure."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from threading import Event, current_thread
from typing import Any

import pytest
from fastapi.testclient import TestClient

from jobs.conf.policy import Policy, load_policy
from jobs.conf.settings import Settings
from jobs.lake.store import lake_of
from jobs.lake.tables import PREDICTIONS
from jobs.serving.app import Service, create_app
from jobs.serving.bundle import ModelBundle
from jobs.serving.follower import ServedModel, ServingState
from jobs.serving.routing import held_out, in_canary
from jobs.serving.scoring import SHADOW_SHARE
from tests.served_bundles import (
    PlainFeatures,
    constant_graph,
    logistic_graph,
    slow_graph,
    write_bundle,
)

NAMES = PlainFeatures.names
POLICY = load_policy()
SALT = POLICY.canary.salt
IN_5 = next(number for number in range(1000) if in_canary(number, 5, SALT))
NOT_IN_50 = next(number for number in range(1000) if not in_canary(number, 50, SALT))
MakeModel = Callable[..., ServedModel]


@pytest.fixture
def model(tmp_path: Path) -> MakeModel:
    """Makes served models out of graphs."""

    def make(version: str, graph: Any, second: Any = None) -> ServedModel:
        folder = write_bundle(tmp_path / f"bundle-{version}", NAMES, graph, second)
        return ServedModel(version, ModelBundle.load(folder, POLICY.decisions))

    return make


@contextmanager
def served(
    home: Settings, state: ServingState, token: str = "", policy: Policy = POLICY
) -> Iterator[tuple[TestClient, Service, PlainFeatures]]:
    """The service with this state; MLflow is not there, so nothing changes it."""
    features = PlainFeatures()
    settings = home.model_copy(update={"mlflow_uri": "http://127.0.0.1:9"})
    app = create_app(settings, token=token, policy=policy, features=features)
    with TestClient(app) as client:
        service: Service = app.state.service
        service.follower.state = state
        yield client, service, features


def transaction(**changes: Any) -> dict[str, Any]:
    return {
        "transaction_id": 11,
        "event_time": "2026-01-31T12:00:00Z",
        "customer_id": NOT_IN_50,
        "terminal_id": 4,
        "amount_minor": 100,
    } | changes


def logged(home: Settings) -> list[dict[str, Any]]:
    """The prediction log after the service has stopped."""
    rows: list[dict[str, Any]] = lake_of(home).read(PREDICTIONS).to_pylist()
    return sorted(rows, key=lambda row: (row["transaction_id"], row["variant"]))


def test_the_champion_answers_and_every_answer_is_logged_once(home: Settings, model: MakeModel) -> None:
    champion = model("3", logistic_graph({0: 1.0}, -1.0, 3))
    with served(home, ServingState(champion=champion)) as (client, _, _):
        answers = [
            client.post("/score", json=transaction(transaction_id=number, amount_minor=amount))
            for number, amount in enumerate((0, 100, 1000))
        ]
    bodies = [answer.json() for answer in answers]
    assert [body["score"] for body in bodies] == pytest.approx([0.26894, 0.5, 0.99988], abs=1e-4)
    assert [body["decision"] for body in bodies] == ["approve", "approve", "block"]
    assert {(body["variant"], body["model_version"], body["rule"]) for body in bodies} == {
        ("champion", "3", "")
    }
    rows = logged(home)
    assert [row["request_id"] for row in rows] == [body["request_id"] for body in bodies]
    assert [row["score"] for row in rows] == [body["score"] for body in bodies]
    assert all(row["step"] == "" and row["error"] == "" for row in rows)
    assert all(0 < row["latency_ms"] < 1000 for row in rows)
    assert rows[1]["features"] == [1.0, 0.0, None]
    assert rows[1]["feature_version"] == "test"


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"amount_minor": -1}, "amount_minor"),
        ({"amount_minor": 1.5}, "amount_minor"),
        ({"amount_minor": 2**63}, "amount_minor"),
        ({"customer_id": "17"}, "customer_id"),
        ({"customer_id": True}, "customer_id"),
        ({"event_time": "yesterday"}, "event_time"),
        ({"event_time": 1769860800}, "event_time"),
        ({"event_time": "0001-01-01T00:00:00+05:00"}, "event_time"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_a_request_that_is_wrong_is_answered_with_its_place(
    home: Settings, change: dict[str, Any], place: str
) -> None:
    with served(home, ServingState()) as (client, _, _):
        answer = client.post("/score", json=transaction(**change))
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"] == ["body", place]
    assert logged(home) == []


def test_times_are_utc_and_the_row_lies_on_the_events_own_day(home: Settings) -> None:
    with served(home, ServingState()) as (client, _, _):
        for number, text in enumerate(
            ("2026-02-01T01:30:00+02:00", "2026-01-31T23:30:00", "2026-01-31T23:30:00Z")
        ):
            body = transaction(transaction_id=number, event_time=text)
            assert client.post("/score", json=body).status_code == 200
    rows = logged(home)
    assert {str(row["day"]) for row in rows} == {"2026-01-31"}
    assert len({row["event_time"] for row in rows}) == 1


def test_without_a_champion_the_rules_answer(home: Settings) -> None:
    with served(home, ServingState()) as (client, _, _):
        usual = client.post("/score", json=transaction()).json()
        large = client.post("/score", json=transaction(amount_minor=500_001)).json()
    assert (usual["decision"], usual["rule"], usual["variant"]) == ("approve", "no_model", "rules")
    assert (usual["score"], usual["model_version"]) == (None, None)
    assert (large["decision"], large["rule"]) == ("review", "amount_cap")
    assert [row["variant"] for row in logged(home)] == ["rules", "rules"]


def test_a_feature_store_that_is_down_leaves_the_rules_and_says_so(home: Settings, model: MakeModel) -> None:
    champion = model("3", constant_graph(0.95, 3))
    with served(home, ServingState(champion=champion)) as (client, _, features):
        features.broken = True
        down = client.post("/score", json=transaction(transaction_id=1)).json()
        features.broken = False
        back = client.post("/score", json=transaction(transaction_id=2)).json()
    assert (down["variant"], down["rule"], down["decision"]) == (
        "rules",
        "features_unavailable",
        "approve",
    )
    assert (back["variant"], back["decision"]) == ("champion", "block")
    first = logged(home)[0]
    assert first["error"] == "features: the store is down"
    assert first["features"] is None


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


def failing(values: list[float]) -> float:
    raise RuntimeError("the graph broke")


def never_a_number(values: list[float]) -> float:
    return float("nan")


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


def test_when_all_models_fail_the_rules_answer(home: Settings, model: MakeModel) -> None:
    champion = model("3", constant_graph(0.2, 3))
    champion.bundle.score_one = failing  # type: ignore[method-assign]
    with served(home, ServingState(champion)) as (client, _, _):
        body = client.post("/score", json=transaction()).json()
    assert (body["variant"], body["rule"], body["model_version"]) == ("rules", "model_failed", None)
    assert {row["variant"]: row["error"] for row in logged(home)} == {
        "champion": "the graph broke",
        "rules": "",
    }


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


def test_the_state_page_tells_who_serves_and_what_was_logged(home: Settings, model: MakeModel) -> None:
    state = ServingState(model("3", constant_graph(0.1, 3)), alerts=("alias champion points at version 9",))
    with served(home, state) as (client, _, features):
        client.post("/score", json=transaction())
        time.sleep(1.5)
        page = client.get("/state").json()
        assert client.get("/health").json() == {"status": "alive"}
        assert client.get("/ready").json() == {"status": "ready", "serves": "3"}
        assert client.get("/docs").status_code == 200
        assert features.connected >= 1
    assert (page["champion"], page["challenger"], page["percent"]) == ("3", None, 0)
    assert page["alerts"] == ["alias champion points at version 9"]
    assert page["answers"] == {"champion": 1}
    assert page["log"]["queued"] == 1
    assert "MLflow does not answer" in page["registry_error"]


def test_with_a_token_nobody_scores_without_it(home: Settings) -> None:
    with served(home, ServingState(), token="open sesame") as (client, _, _):
        assert client.post("/score", json=transaction()).status_code == 401
        assert client.get("/state").status_code == 401
        wrong = {"Authorization": "Bearer open"}
        assert client.post("/score", json=transaction(), headers=wrong).status_code == 401
        right = {"Authorization": "Bearer open sesame"}
        assert client.post("/score", json=transaction(), headers=right).status_code == 200
        assert client.get("/health").status_code == 200


def policy_with(section: str, **changes: Any) -> Policy:
    """The policy with other values in one section."""
    return POLICY.model_copy(update={section: getattr(POLICY, section).model_copy(update=changes)})


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


def test_a_model_that_does_not_answer_in_time_leaves_the_next_one_or_the_rules(
    home: Settings, model: MakeModel
) -> None:
    policy = policy_with("serving", answer_seconds=0.001)
    slow = model("4", slow_graph(3, size=512, rounds=30))
    quick = model("3", constant_graph(0.6, 3))
    with served(home, ServingState(quick, slow, "canary_5", 5), policy=policy) as (client, service, _):
        beside = client.post("/score", json=transaction(customer_id=IN_5)).json()
        service.follower.state = ServingState(slow)
        alone = client.post("/score", json=transaction(transaction_id=12)).json()
    assert (beside["variant"], beside["degraded"]) == ("champion", "")
    assert (alone["variant"], alone["rule"], alone["degraded"]) == ("rules", "too_late", "too_late")
    assert {row["error"] for row in logged(home) if row["model_version"] == "4"} == {"no score in time"}


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
