"""What stands before every request: who calls, how often, how much, how long; and what was answered.

In: ASGI. Out: the answers of the scoring endpoints, which take the body as bytes; everything else goes on to
the application behind. It is plain ASGI and answers the scoring endpoints itself, because a router and a
middleware class cost more than a score does.
Refusals, each a JSON `detail`: 401 without a known token where tokens are set, 408 where the body does not
come in time, 413 where it is too large (counted as it comes in, whatever Content-Length says), 429 with
Retry-After above the client's rate.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from jobs.conf.policy import Serving
from jobs.serving.metrics import Requests
from jobs.serving.rate_limit import SlidingWindow
from jobs.serving.tokens import Tokens

LOGGER = logging.getLogger("sluice.serving")
Header = tuple[bytes, bytes]
JSON_HEADER: Header = (b"content-type", b"application/json")
CLOSE: Header = (b"connection", b"close")


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer."""

    status: int
    body: bytes
    headers: tuple[Header, ...] = ()


Endpoint = Callable[[bytes, str], Awaitable[Reply]]  # the body and the client's name


class Refused(Exception):
    """A request that is not answered but told why."""

    def __init__(self, status: int, detail: str, *headers: Header) -> None:
        super().__init__(detail)
        self.reply = Reply(status, json.dumps({"detail": detail}).encode(), headers)


class Disconnected(Exception):
    """The client went before its request was whole: nobody waits for an answer."""


class Front:
    """Guards the paths of `guarded`, and answers POST to those of `endpoints`."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        endpoints: Mapping[str, Endpoint],
        guarded: frozenset[str],
        tokens: Tokens,
        window: SlidingWindow,
        serving: Serving,
        requests: Requests,
        draining: asyncio.Event,
    ) -> None:
        self._app = app
        self._endpoints = endpoints
        self._guarded = guarded
        self._tokens = tokens
        self._window = window
        self._serving = serving
        self._requests = requests
        self._draining = draining

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        path: str = scope["path"]
        endpoint = self._endpoints.get(path) if scope["method"] == "POST" else None
        try:
            client = self._client(scope) if path in self._guarded else ""
            if endpoint is None:
                status = await self._pass_on(scope, receive, send)
            else:
                body = await self._body(scope, receive)  # whole before a refusal, so the connection goes on
                charge(self._window, client, 1)
                reply = await endpoint(body, client)
                status = reply.status
                await self._send(send, reply)
        except Refused as refused:
            status = refused.reply.status
            await self._send(send, refused.reply)
        except Disconnected:
            return
        except Exception:
            LOGGER.exception("%s %s", scope["method"], path)
            status = 500
            self._requests.count(path, status, time.perf_counter() - started)
            raise
        self._requests.count(path, status, time.perf_counter() - started)

    def _client(self, scope: Scope) -> str:
        if not self._tokens:
            address = scope.get("client")
            return address[0] if address else ""
        given = next((value for name, value in scope["headers"] if name == b"authorization"), None)
        client = self._tokens.client_of(given)
        if client is None:
            raise Refused(
                401, "this service needs Authorization: Bearer", (b"www-authenticate", b"Bearer"), CLOSE
            )
        return client

    async def _body(self, scope: Scope, receive: Receive) -> bytes:
        most = self._serving.body_bytes_max
        for name, value in scope["headers"]:
            if name == b"content-length" and value.isdigit() and int(value) > most:
                raise _too_large(most)
        try:
            async with asyncio.timeout(self._serving.request_seconds):
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise Disconnected
                body: bytes = message.get("body", b"")
                if message.get("more_body"):
                    parts = [body]
                    size = len(body)
                    while message.get("more_body") and size <= most:
                        message = await receive()
                        if message["type"] == "http.disconnect":
                            raise Disconnected
                        parts.append(message.get("body", b""))
                        size += len(parts[-1])
                    body = b"".join(parts)
        except TimeoutError:
            raise Refused(
                408, f"the body did not come within {self._serving.request_seconds:g} seconds", CLOSE
            ) from None
        if len(body) > most:
            raise _too_large(most)
        return body

    async def _send(self, send: Send, reply: Reply) -> None:
        headers = [JSON_HEADER, (b"content-length", b"%d" % len(reply.body)), *reply.headers]
        if self._draining.is_set() and CLOSE not in reply.headers:
            headers.append(CLOSE)
        await send({"type": "http.response.start", "status": reply.status, "headers": headers})
        await send({"type": "http.response.body", "body": reply.body})

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send) -> int:
        status = 500

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if self._draining.is_set():
                    message["headers"] = [*message.get("headers", ()), CLOSE]
            await send(message)

        await self._app(scope, receive, noted)
        return status


def charge(window: SlidingWindow, client: str, cost: int) -> None:
    """Count a request against its client's rate.

    Raises:
        Refused: 429, with the whole seconds after which it passes.
    """
    left = window.wait(client, cost, time.monotonic())
    if left > 0:
        raise Refused(
            429,
            f"more than {window.limit} requests a second of one client",
            (b"retry-after", b"%d" % max(1, math.ceil(left))),
        )


def _too_large(most: int) -> Refused:
    return Refused(413, f"the body is larger than {most} bytes", CLOSE)
