"""One connection to Redis for the requests of an event loop: none waits until another one is answered.

Commands and errors are those of jobs/features/redis_wire.py: an error that a command was answered with is its
answer, a connection that went stale is opened anew once, and a silent Redis is asked once. Answers come in
the order of the questions, so one connection serves however many requests are on their way.
An encrypted connection cannot be read piece by piece: a thread asks there, one request after the other.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import hiredis
from redis import SSLConnection
from redis.exceptions import ConnectionError as Unconnected
from redis.exceptions import NoScriptError, ResponseError
from redis.exceptions import TimeoutError as Silent

from jobs.features.redis_client import connect
from jobs.features.redis_wire import Command, Wire

RECEIVED = 1 << 16
NOT_YET = object()
CLOSED = "the connection to Redis was closed"


class LoopWire:
    """Asks from a running event loop; another loop takes the connection's place with one of its own.

    It connects at once, in whichever thread makes it: no request waits for that unless a connection is lost.
    """

    def __init__(self, address: str, waits: float) -> None:
        pool = connect(address, waits).connection_pool
        self._kind, self._options = pool.connection_class, pool.connection_kwargs
        self._wire = Wire(address, waits) if issubclass(self._kind, SSLConnection) else None
        self._thread = ThreadPoolExecutor(1, "redis-tls") if self._wire is not None else None
        self._line: _Line | None = None
        self._opening: asyncio.Task[_Line] | None = None
        self._closed = False
        self._ready: Any = self._connected() if self._wire is None else None

    async def ask(self, commands: Sequence[Command]) -> list[Any]:
        """The answers of the commands, after one round trip."""
        if self._thread is not None:
            return await asyncio.get_running_loop().run_in_executor(self._thread, self._asked, commands)
        text = b"".join([hiredis.pack_command(command) for command in commands])  # type: ignore[arg-type]
        for last in (False, True):
            if self._closed:
                raise Unconnected(CLOSED)
            line, loop = self._line, asyncio.get_running_loop()
            if line is None or line.ended or line.loop is not loop:
                opening = self._opening
                if opening is None or opening.done() or opening.get_loop() is not loop:
                    opening = self._opening = loop.create_task(self._open(loop))
                line = await asyncio.shield(opening)  # one attempt for all who wait for it
            try:
                return await line.ask(text, len(commands))
            except Unconnected:
                if last:
                    raise
        raise AssertionError("unreachable")

    def close(self) -> None:
        """Let go of the connection for good, from whatever thread; who waits for an answer is told."""
        self._closed = True
        thread, self._thread = self._thread, None
        if thread is not None and self._wire is not None:  # behind the request that it may hang in
            thread.submit(self._wire.close)
            thread.shutdown(wait=False)
        ready, self._ready = self._ready, None
        if ready is not None:
            ready.disconnect()
        self._end_line()

    def _asked(self, commands: Sequence[Command]) -> list[Any]:
        """From the thread of an encrypted connection: whoever waits there when it is closed is told so."""
        if self._closed or self._wire is None:
            raise Unconnected(CLOSED)
        return self._wire.ask(commands)

    def _connected(self) -> Any:
        """A connection outside the pool, which counts those that it has made."""
        connection: Any = self._kind(**self._options)
        connection.connect()
        return connection

    async def _open(self, loop: asyncio.AbstractEventLoop) -> _Line:
        self._end_line()
        ready, self._ready = self._ready, None
        if ready is None:
            ready = await loop.run_in_executor(None, self._connected)
        line = _Line(ready, loop, float(self._options["socket_timeout"]))
        if self._closed:
            line.end(Unconnected(CLOSED))
            raise Unconnected(CLOSED)
        self._line = line
        return line

    def _end_line(self) -> None:
        line, self._line = self._line, None
        if line is not None:
            with contextlib.suppress(RuntimeError):  # its loop has ended, and the connection with it
                line.loop.call_soon_threadsafe(line.end, Unconnected(CLOSED))


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
        if self.ended:
            asked.found.set_exception(Unconnected(CLOSED))
            return asked.found
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
        for asked in self._waiting:
            if not asked.found.done():
                asked.found.set_exception(error)
        self._waiting.clear()
        self._connection.disconnect()

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

    def _read(self) -> bool:
        """Hand out what has come; False where nothing had."""
        try:
            data = self._socket.recv(RECEIVED)
        except BlockingIOError:
            return False
        except OSError as error:
            self.end(Unconnected(f"Redis: {error.strerror or error}"))
            return False
        if not data:
            self.end(Unconnected("Redis has closed the connection"))
            return False
        try:
            self._reader.feed(data)
            while not self.ended and (answer := self._reader.gets()) is not NOT_YET:
                if not isinstance(answer, hiredis.PushNotification):
                    self._hand_out(answer)
        except hiredis.HiredisError as error:
            self.end(Unconnected(f"Redis answers in no way that is known: {error}"))
        return True

    def _hand_out(self, answer: Any) -> None:
        if not self._waiting:  # the next request would take it for its own
            self.end(Unconnected("Redis has answered what nobody asked"))
            return
        asked = self._waiting[0]
        asked.answers.append(answer)
        if len(asked.answers) == asked.count:
            self._waiting.popleft()
            if not asked.found.done():  # a request that was given up
                asked.found.set_result(asked.answers)

    def _look(self) -> None:
        """Give up where the oldest question has no answer in time: the later ones are behind it.

        A loop that was held up finds the answers still in the socket: that is no silence of Redis.
        """
        self._watch = None
        while self._waiting and self._waiting[0].since + self._waits <= self.loop.time() and self._read():
            pass
        if self.ended or not self._waiting:
            return
        left = self._waiting[0].since + self._waits - self.loop.time()
        if left <= 0:
            self.end(Silent(f"Redis has not answered within {self._waits:g} seconds"))
        else:
            self._watch = self.loop.call_later(left, self._look)


def _error(text: str) -> ResponseError:
    return (NoScriptError if text.startswith("NOSCRIPT") else ResponseError)(text)
