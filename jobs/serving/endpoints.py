"""The scoring endpoints: bytes in, bytes out, and how they are documented.

In: a request's body and its client's name. Out: 200 with an answer, 422 with the place of everything that is
wrong, 429 where a batch costs more than its client has left, 504 where a batch or an explanation takes too
long, and for an explanation 503 where no model or no feature store answers.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from fastapi import FastAPI
from pydantic import BaseModel, TypeAdapter, ValidationError

from jobs.conf.policy import Policy
from jobs.serving.bundle import decide
from jobs.serving.explanation import Explainer, Moved, reasons_of
from jobs.serving.follower import ServingState
from jobs.serving.front import Endpoint, Refused, Reply, charge
from jobs.serving.loading import ServedModel
from jobs.serving.messages import (
    BatchAnswer,
    BatchRequest,
    Explanation,
    Invalid,
    Problem,
    ScoreAnswer,
    ScoreRequest,
)
from jobs.serving.rate_limit import SlidingWindow
from jobs.serving.request_features import FeatureSource
from jobs.serving.routing import assign
from jobs.serving.scoring import Scorer, event_of

Request = TypeVar("Request", bound=BaseModel)
ONE: TypeAdapter[ScoreRequest] = TypeAdapter(ScoreRequest)
MANY: TypeAdapter[BatchRequest] = TypeAdapter(BatchRequest)
MOST_PLACES = 20  # of what is wrong; nobody reads on
REFUSALS: dict[int | str, dict[str, Any]] = {
    401: {"model": Problem, "description": "no known token, where tokens are set"},
    408: {"model": Problem, "description": "the body did not come in time"},
    413: {"model": Problem, "description": "the body is too large"},
    422: {"model": Invalid, "description": "what is wrong, and where"},
    429: {"model": Problem, "description": "too many requests of this client; Retry-After says when it may"},
}
DETAILS = {
    401: "this service needs Authorization: Bearer",
    408: "the body did not come within 5 seconds",
    413: "the body is larger than 262144 bytes",
    429: "more than 200 requests a second of one client",
}
HALF_DONE = (
    "{scored} of {rows} transactions were scored within {seconds:g} seconds, and logged: send them all again "
    "in smaller batches; each counts in the windows once and gets the same features again"
)
OWN_REFUSALS: dict[str, dict[int | str, dict[str, Any]]] = {
    "/score/batch": {
        504: {"model": Problem, "description": "the batch took too long; what was scored is logged"}
    },
    "/explain": {
        503: {"model": Problem, "description": "no model, or no feature store, answers now"},
        504: {"model": Problem, "description": "the explanation took too long"},
    },
}
OWN_DETAILS = {
    "/score/batch": {504: HALF_DONE.format(scored=120, rows=200, seconds=5)},
    "/explain": {503: "no model answers: no_model", 504: "no explanation within 1 seconds"},
}


class Endpoints:
    """POST /score, /score/batch and /explain of one service."""

    def __init__(
        self,
        scorer: Scorer,
        state: Callable[[], ServingState],
        features: FeatureSource,
        window: SlidingWindow,
        policy: Policy,
    ) -> None:
        self._scorer = scorer
        self._state = state
        self._features = features
        self._window = window
        self._policy = policy
        self._explainer = Explainer()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="explain")

    def by_path(self) -> dict[str, Endpoint]:
        """Each endpoint by its path."""
        return {"/score": self.score, "/score/batch": self.score_batch, "/explain": self.explain}

    def stop(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def score(self, body: bytes, _client: str) -> Reply:
        """The decision on one transaction."""
        return _reply(await self._scorer.answer(_parsed(ONE, body)))

    async def score_batch(self, body: bytes, client: str) -> Reply:
        """The decisions on some transactions, one after the other, in their order.

        All are checked before the first is scored. Between two of them other requests have their turn. After
        the policy's batch_seconds none is begun any more, and the refusal says how many were scored.
        """
        end = time.monotonic() + self._policy.serving.batch_seconds
        rows = _parsed(MANY, body).transactions
        most = self._policy.serving.batch_rows_max
        if len(rows) > most:
            raise invalid([_place(["transactions"], "too_long", f"{len(rows)} transactions, at most {most}")])
        if len(rows) > 1:
            charge(self._window, client, len(rows) - 1)  # the request itself has cost one
        answers: list[ScoreAnswer] = []
        for row in rows:
            if time.monotonic() >= end:
                raise self._half_done(len(answers), len(rows))
            answers.append(await self._scorer.answer(row))
            await asyncio.sleep(0)
        return _reply(BatchAnswer(answers=answers))

    def _half_done(self, scored: int, rows: int) -> Refused:
        return Refused(
            504, HALF_DONE.format(scored=scored, rows=rows, seconds=self._policy.serving.batch_seconds)
        )

    async def explain(self, body: bytes, _client: str) -> Reply:
        """What moved the score of a transaction most; it is not recorded, logged or counted as an answer."""
        request = _parsed(ONE, body)
        state = self._state()
        name = assign(
            request.customer_id,
            state.percent,
            self._policy.canary.salt,
            challenger=state.challenger is not None,
        )
        model = state.challenger if name == "canary" else state.champion
        if model is None:
            raise Refused(503, "no model answers: no_model")
        try:
            values = await self._features.peek(event_of(request))
        except Exception as error:  # the stores' kinds
            raise Refused(503, f"features: {error}"[:300]) from None
        seconds = self._policy.serving.explain_seconds
        try:
            async with asyncio.timeout(seconds):
                score, moved = await self._explained(model, values)
        except TimeoutError:
            raise Refused(504, f"no explanation within {seconds:g} seconds") from None
        except Exception as error:  # whatever the model raises
            raise Refused(503, f"no model answers: {error}"[:300]) from None
        decision, rule = self._scorer.rule_of(request, values, decide(score, self._policy.decisions))
        return _reply(
            Explanation(
                transaction_id=request.transaction_id,
                score=score,
                decision=decision,
                rule=rule,
                model_version=model.version,
                variant=name,
                method=moved.method,
                base=round(moved.base, 6),
                margin=round(moved.margin, 6),
                reasons=reasons_of(moved, self._features.names, values, self._policy.serving.reasons),
            )
        )

    async def warm_up(self, body: bytes) -> None:
        """Go through what a request goes through, but for the record and the log."""
        request = _parsed(ONE, body)
        state = self._state()
        values = await self._features.peek(event_of(request))
        for model in (state.champion, state.challenger):
            if model is not None:
                score, moved = await self._explained(model, values)
                self._scorer.rule_of(request, values, decide(score, self._policy.decisions))
                reasons_of(moved, self._features.names, values, self._policy.serving.reasons)

    async def _explained(self, model: ServedModel, values: list[float]) -> tuple[float, Moved]:
        """Beside the event loop: it takes milliseconds."""

        def both() -> tuple[float, Moved]:
            return model.score(values), self._explainer.moved(model.bundle, values)

        return await asyncio.get_running_loop().run_in_executor(self._thread, both)


def document(
    app: FastAPI, endpoints: Endpoints, policy: Policy, security: list[dict[str, list[str]]]
) -> None:
    """Declare the endpoints for the OpenAPI pages; their requests are answered before they come here."""
    many = MANY.json_schema()
    del many["$defs"]  # written out instead: no route takes the model itself, so none would declare it
    many["properties"]["transactions"] |= {
        "items": ONE.json_schema(),
        "maxItems": policy.serving.batch_rows_max,
    }
    schemas = {"/score": ONE.json_schema(), "/score/batch": many, "/explain": ONE.json_schema()}
    answers = {"/score": ScoreAnswer, "/score/batch": BatchAnswer, "/explain": Explanation}
    for path, endpoint in endpoints.by_path().items():
        refusals = REFUSALS | OWN_REFUSALS.get(path, {})
        details = DETAILS | OWN_DETAILS.get(path, {})
        app.add_api_route(
            path,
            _answered_in_front,
            methods=["POST"],
            name=path.strip("/").replace("/", "_"),
            summary=(endpoint.__doc__ or "").strip().splitlines()[0],
            description=endpoint.__doc__,
            response_model=answers[path],
            responses={
                status: _with_example(said, details.get(int(status))) for status, said in refusals.items()
            },
            openapi_extra={
                "requestBody": {"required": True, "content": {"application/json": {"schema": schemas[path]}}},
                **({"security": security} if security else {}),
            },
        )


def invalid(places: list[dict[str, Any]]) -> Refused:
    """422 with the places of what is wrong."""
    refused = Refused(422, "")
    refused.reply = Reply(422, json.dumps({"detail": places}).encode())
    return refused


async def _answered_in_front() -> None:
    raise AssertionError("jobs/serving/front.py answers this path")


def _parsed(kind: TypeAdapter[Request], body: bytes) -> Request:
    try:
        return kind.validate_json(body)
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False, include_input=False)
        raise invalid(
            [_place(list(each["loc"]), each["type"], each["msg"]) for each in found[:MOST_PLACES]]
        ) from None


def _place(loc: list[int | str], kind: str, message: str) -> dict[str, Any]:
    return {"type": kind, "loc": ["body", *loc], "msg": message}


def _reply(answer: BaseModel) -> Reply:
    return Reply(200, answer.model_dump_json().encode())


def _with_example(said: dict[str, Any], detail: str | None) -> dict[str, Any]:
    if detail is None:
        return said
    return said | {"content": {"application/json": {"example": {"detail": detail}}}}
