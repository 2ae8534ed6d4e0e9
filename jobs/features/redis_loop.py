"""One connection to Redis for the requests of an event loop: none waits until another one is answered.

Commands and errors are those of jobs/features/redis_wire.py: an error that a command was answered with is its
answer, a connection that went stale is opened anew once, and a silent Redis is asked once. Answers come in
the order of the questions, so one connection serves however many requests are on their way.
An encrypted connection cannot be read piece by piece: there each request waits for its own answer.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections import deque
from collections.abc import Sequence
from typing import Any

import hiredis
from redis.exceptions import ConnectionError as Unconnected
from redis.exceptions import NoScriptError, ResponseError
from redis.exceptions import TimeoutError as Silent

from jobs.features.redis_client import connect
from jobs.features.redis_wire import Command, Wire

RECEIVED = 1 << 16
NOT_YET = object()


class LoopWire:
    """Asks from a running event loop; a second loop gets a connection of its own."""

    def __init__(self, address: str, waits: float) -> None:
        self._pool = connect(address, waits).connection_pool
        self._waits = waits
        self._wire = Wire(address, waits)
        self._line: _Line | None = None
        self._closed = False

    async def ask(self, commands: Sequence[Command]) -> list[Any]:
        """The answers of the commands, after one round trip."""
        text = b"".join([hiredis.pack_command(command) for command in commands])  # type: ignore[arg-type]
        for last in (False, True):
            if self._closed:
                raise Unconnected("the connection to Redis was closed")
            line = self._line
            if line is None or line.ended or line.loop is not asyncio.get_running_loop():
                connection: Any = self._pool.make_connection()
                connection.connect()
                if isinstance(connection._sock, ssl.SSLSocket):
                    connection.disconnect()
                    return self._wire.ask(commands)
                line = self._line = _Line(connection, asyncio.get_running_loop(), self._waits)
            try:
                return await line.ask(text, len(commands))
            except Unconnected:
                if last:
                    raise
        raise AssertionError("unreachable")

    def close(self) -> None:
        """Let go of the connection for good, from whatever thread; who waits for an answer is told."""
        self._closed = True
        self._wire.close()
        line, self._line = self._line, None
        if line is not None and not line.loop.is_closed():
            line.loop.call_soon_threadsafe(line.end, Unconnected("the connection to Redis was closed"))


class _Asked:
    """One request's commands on their way."""

    __slots__ = ("answers", "count", "found", "since")

    def __init__(self, found: asyncio.Future[list[Any]], count: int, since: float) -> None:
        self.found, self.count, self.since = found, count, since
        self.answers: list[Any] = []


class _Line:
    """A connection that redis-py has opened, read and written by a loop."""

    def __init__(self, connection: Any, loop: asyncio.AbstractEventLoop, waits: float) -> None:
        self.loop = loop
        self.ended = False
        self._connection = connection
        self._socket: socket.socket = connection._sock
        self._socket.setblocking(False)
        self._reader = hiredis.Reader(replyError=_error, notEnoughData=NOT_YET)
        self._waits = waits
        self._waiting: deque[_Asked] = deque()
        self._unsent = bytearray()
        self._watch: asyncio.TimerHandle | None = None
        loop.add_reader(self._socket, self._read)

    def ask(self, text: bytes, count: int) -> asyncio.Future[list[Any]]:
        """The answers that will be there."""
        asked = _Asked(self.loop.create_future(), count, self.loop.time())
        self._waiting.append(asked)
        if self._watch is None:
            self._watch = self.loop.call_later(self._waits, self._look)
        if self._unsent:
            self._unsent += text
        else:
            self._send(text)
        return asked.found

    def end(self, error: Exception) -> None:
        """Close the connection and tell who waits."""
        if self.ended:
            return
        self.ended = True
        self.loop.remove_reader(self._socket)
        self.loop.remove_writer(self._socket)
        if self._watch is not None:
            self._watch.cancel()
        self._connection.disconnect()
        for asked in self._waiting:
            if not asked.found.done():
                asked.found.set_exception(error)
        self._waiting.clear()

    def _send(self, text: bytes | bytearray) -> None:
        try:
            sent = self._socket.send(text)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self.end(Unconnected(f"Redis: {error.strerror or error}"))
            return
        if sent < len(text):
            self._unsent = bytearray(text[sent:])
            self.loop.add_writer(self._socket, self._send_rest)
        elif self._unsent:
            self._unsent = bytearray()
            self.loop.remove_writer(self._socket)

    def _send_rest(self) -> None:
        self._send(self._unsent)

    def _read(self) -> None:
        try:
            data = self._socket.recv(RECEIVED)
        except BlockingIOError:
            return
        except OSError as error:
            self.end(Unconnected(f"Redis: {error.strerror or error}"))
            return
        if not data:
            self.end(Unconnected("Redis has closed the connection"))
            return
        try:
            self._reader.feed(data)
            while self._waiting and (answer := self._reader.gets()) is not NOT_YET:
                asked = self._waiting[0]
                asked.answers.append(answer)
                if len(asked.answers) == asked.count:
                    self._waiting.popleft()
                    if not asked.found.done():  # a request that was given up
                        asked.found.set_result(asked.answers)
        except hiredis.HiredisError as error:
            self.end(Unconnected(f"Redis answers in no way that is known: {error}"))

    def _look(self) -> None:
        """Give up where the oldest question has no answer in time: the later ones are behind it."""
        self._watch = None
        if not self._waiting:
            return
        left = self._waiting[0].since + self._waits - self.loop.time()
        if left <= 0:
            self.end(Silent(f"Redis has not answered within {self._waits:g} seconds"))
        else:
            self._watch = self.loop.call_later(left, self._look)


def _error(text: str) -> ResponseError:
    return (NoScriptError if text.startswith("NOSCRIPT") else ResponseError)(text)
