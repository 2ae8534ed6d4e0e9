"""The scoring service over HTTP: answers, refusals, and every kind of failure."""

from __future__ import annotations

import time
from typing import Any

import pytest

from jobs.conf.settings import Settings
from jobs.serving.follower import ServingState
from tests.served_app import (
    IN_5,
    MakeModel,
    failing,
    logged,
    policy_with,
    served,
    transaction,
)
from tests.served_bundles import constant_graph, logistic_graph, slow_graph

pytest_plugins = ("tests.served_app",)


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
