"""What stands before every request of the scoring service: clients, rates, sizes, times, clear refusals."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from jobs.conf.policy import Policy, load_policy
from jobs.conf.settings import Settings
from jobs.core import SluiceError
from jobs.serving.app import Service, create_app
from jobs.serving.rate_limit import SlidingWindow
from jobs.serving.tokens import Tokens
from tests.served_bundles import PlainFeatures

POLICY = load_policy()
BODY: dict[str, Any] = {
    "transaction_id": 11,
    "event_time": "2026-01-31T12:00:00Z",
    "customer_id": 1,
    "terminal_id": 4,
    "amount_minor": 100,
}


def serving(**changes: Any) -> Policy:
    """The policy with other limits of the service."""
    return POLICY.model_copy(update={"serving": POLICY.serving.model_copy(update=changes)})


@contextmanager
def served(home: Settings, policy: Policy = POLICY, token: str = "") -> Iterator[tuple[TestClient, Service]]:
    settings = home.model_copy(update={"mlflow_uri": "http://127.0.0.1:9"})
    app = create_app(settings, token=token, policy=policy, features=PlainFeatures())
    with TestClient(app) as client:
        yield client, app.state.service


def figures(client: TestClient, headers: dict[str, str] | None = None) -> dict[tuple[str, ...], float]:
    """/metrics as name and label values, in the order of the labels' names -> value."""
    text = client.get("/metrics", headers=headers).text
    return {
        (sample.name, *(sample.labels[label] for label in sorted(sample.labels))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_a_batch_is_answered_in_its_order_and_every_row_is_logged(home: Settings) -> None:
    rows = [BODY | {"transaction_id": number, "amount_minor": 600_000 * (number % 2)} for number in range(9)]
    with served(home) as (client, service):
        answers = client.post("/score/batch", json={"transactions": rows}).json()["answers"]
        assert service.log.counters()["queued"] == 9
    assert [answer["transaction_id"] for answer in answers] == list(range(9))
    assert [answer["rule"] for answer in answers] == ["no_model", "amount_cap"] * 4 + ["no_model"]


def test_one_bad_row_of_a_batch_is_named_and_no_row_is_scored(home: Settings) -> None:
    rows = [BODY, BODY, BODY | {"amount_minor": -5}]
    with served(home) as (client, service):
        answer = client.post("/score/batch", json={"transactions": rows})
        too_many = client.post("/score/batch", json={"transactions": [BODY] * 201})
        none = client.post("/score/batch", json={"transactions": []})
        assert service.log.counters()["queued"] == 0
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"] == ["body", "transactions", 2, "amount_minor"]
    assert too_many.status_code == 422
    assert too_many.json()["detail"][0]["msg"] == "201 transactions, at most 200"
    assert none.status_code == 422


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"transaction_id": NaN}'])
def test_a_body_that_is_no_transaction_is_told_so(home: Settings, body: bytes) -> None:
    with served(home) as (client, _):
        answer = client.post("/score", content=body)
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"][0] == "body"


def test_a_client_above_its_rate_is_told_when_to_come_again_and_another_is_not(home: Settings) -> None:
    tokens = "shop=first-secret,bank=other-secret"
    shop, bank = ({"Authorization": f"Bearer {secret}"} for secret in ("first-secret", "other-secret"))
    with served(home, serving(requests_per_second=5, batch_rows_max=5), tokens) as (client, service):
        service.window._seconds = 3600.0  # so that a slow machine changes nothing
        four = client.post("/score/batch", json={"transactions": [BODY] * 4}, headers=shop)
        one = client.post("/score", json=BODY, headers=shop)
        sixth = client.post("/score", json=BODY, headers=shop)
        other = client.post("/score", json=BODY, headers=bank)
        batch = client.post("/score/batch", json={"transactions": [BODY] * 5}, headers=bank)
        assert figures(client, shop)[("sluice_rate_limited_total",)] == 2.0
    assert [answer.status_code for answer in (four, one, sixth, other, batch)] == [200, 200, 429, 200, 429]
    assert 3590 <= int(sixth.headers["retry-after"]) <= 3600


def test_tokens_name_their_clients_and_unknown_ones_are_refused() -> None:
    named = Tokens("shop=s3cret==,bank=other")
    assert named.client_of(b"Bearer s3cret==") == "shop"
    assert named.client_of(b"bearer other") == "bank"
    assert named.client_of(b"Bearer shop=s3cret==") is None
    assert named.client_of(b"Basic other") is None
    assert named.client_of(None) is None
    assert Tokens("abcdef==").client_of(b"Bearer abcdef==") == "token"
    assert Tokens("open sesame").client_of(b"Bearer open sesame") == "token"
    assert not Tokens("")
    for wrong in ("shop=one,two", "shop=one,shop=two", "shop=one,bank=one"):
        with pytest.raises(SluiceError, match="part 2") as raised:
            Tokens(wrong)
        assert "two" not in str(raised.value)


@given(
    st.lists(
        st.tuples(st.sampled_from("ab"), st.integers(1, 4), st.integers(0, 700)), min_size=1, max_size=60
    )
)
def test_in_no_window_passes_more_than_the_limit_and_nobody_is_refused_below_it(
    calls: list[tuple[str, int, int]],
) -> None:
    limit, window, now = 5, SlidingWindow(5, 10), 0
    passed: list[tuple[str, int, int]] = []  # client, cost, milliseconds
    for client, cost, later in calls:
        now += later
        used = sum(c for name, c, at in passed if name == client and at > now - 1000)
        left = window.wait(client, cost, now / 1000)
        assert (left == 0) == (used + cost <= limit)
        if left == 0:
            passed.append((client, cost, now))
        else:  # it passes exactly then
            at = now + round(left * 1000)
            assert sum(c for n, c, t in passed if n == client and t > at - 1000) + cost <= limit
            assert sum(c for n, c, t in passed if n == client and t > at - 1001) + cost > limit


def test_the_window_remembers_so_many_clients_and_no_more() -> None:
    window = SlidingWindow(2, clients=3)
    for number in range(1000):
        assert window.wait(f"client {number}", 1, number / 1e6) == 0
    assert len(window) == 3


def test_a_body_is_counted_as_it_comes_whatever_its_length_says(home: Settings) -> None:
    large, small = b"[" + b"1" * 5000, json.dumps(BODY).encode()
    with served(home, serving(body_bytes_max=4000)) as (client, _):
        told = client.post("/score", content=large)
        streamed = client.post("/score", content=iter([large[:1000]] * 5))
        fitting = client.post("/score", content=iter([small[:20], small[20:]]))
    assert (told.status_code, streamed.status_code, fitting.status_code) == (413, 413, 200)
    assert streamed.json() == {"detail": "the body is larger than 4000 bytes"}


def test_a_body_that_does_not_come_is_given_up(home: Settings) -> None:
    settings = home.model_copy(update={"mlflow_uri": "http://127.0.0.1:9"})
    app = create_app(settings, policy=serving(request_seconds=0.05), features=PlainFeatures())
    sent: list[dict[str, Any]] = []
    came = [{"type": "http.request", "body": b"{", "more_body": True}]

    async def receive() -> dict[str, Any]:
        if came:
            return came.pop()
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/score", "headers": [], "client": ("127.0.0.1", 1)}
    asyncio.run(app(scope, receive, send))
    assert sent[0]["status"] == 408
    assert (b"connection", b"close") in sent[0]["headers"]


def test_metrics_tell_what_was_answered_and_how_the_parts_are(home: Settings) -> None:
    with served(home) as (client, _):
        client.post("/score", json=BODY)
        client.post("/score", json=BODY | {"amount_minor": 600_000})
        client.post("/score", json=BODY | {"amount_minor": -1})
        client.get("/a/path/that/does/not/exist")
        found = figures(client)
    assert found[("sluice_requests_total", "/score", "200")] == 2
    assert found[("sluice_requests_total", "/score", "422")] == 1
    assert found[("sluice_requests_total", "other", "404")] == 1
    assert found[("sluice_request_seconds_count", "/score")] == 3
    assert found[("sluice_request_seconds_bucket", "+Inf", "/score")] == 3
    assert found[("sluice_answers_total", "approve", "rules")] == 1
    assert found[("sluice_answers_total", "review", "rules")] == 1
    assert found[("sluice_rules_fired_total", "amount_cap")] == 1
    assert found[("sluice_degraded_answers_total", "no_model")] == 2
    assert found[("sluice_feature_store_up", "online")] == 1
    assert found[("sluice_prediction_log", "dropped")] == 0
    assert found[("sluice_registry_age_seconds",)] == float("inf")  # it was never there


def test_the_documentation_has_examples_of_requests_and_of_every_answer(home: Settings) -> None:
    with served(home, token="one secret") as (client, _):
        schema = client.get("/openapi.json").json()
        assert client.get("/docs").status_code == 200
    for path, statuses in {
        "/score": {"200", "401", "408", "413", "422", "429"},
        "/score/batch": {"200", "401", "408", "413", "422", "429", "504"},
        "/explain": {"200", "401", "408", "413", "422", "429", "503", "504"},
    }.items():
        told = schema["paths"][path]["post"]
        assert set(told["responses"]) == statuses
        assert told["security"] == [{"bearer": []}]
        assert told["requestBody"]["content"]["application/json"]["schema"]["examples"]
        for said in told["responses"].values():
            content = said["content"]["application/json"]
            name = content["schema"]["$ref"].rsplit("/", 1)[1]
            assert content.get("example") or schema["components"]["schemas"][name]["examples"]
