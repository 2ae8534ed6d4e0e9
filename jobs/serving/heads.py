"""Connections that nothing comes through, no whole head of a request and no answer to its reader, are closed.

uvicorn gives a connection a time-out only once it has answered on it, and takes it away with the next byte.
The connections are looked at now and then instead, so that no request pays for a timer of its own.
"""

from __future__ import annotations

from collections.abc import Iterable

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle


class Heads:
    """Since when each connection lacks the head of its next request, or a reader of its answer."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        # beside when it was first seen so: the last request and what is left of its answer; others, and it
        # is waited for anew
        self._since: dict[HttpToolsProtocol, tuple[RequestResponseCycle | None, int, float]] = {}

    def look(self, connections: Iterable[object], now: float) -> None:
        """Close those that have waited too long."""
        since: dict[HttpToolsProtocol, tuple[RequestResponseCycle | None, int, float]] = {}
        for connection in connections:
            if not isinstance(connection, HttpToolsProtocol):
                continue
            left = connection.transport.get_write_buffer_size()
            if not left and not _awaits_head(connection):
                continue
            cycle, before, first = self._since.get(connection, (None, left, now))
            same = cycle is connection.cycle and before == left
            since[connection] = (connection.cycle, left, first if same else now)
        self._since = since
        for connection, (_, left, first) in since.items():
            if now - first < self._seconds:
                continue
            if left:
                connection.transport.abort()  # a close waits for the reader
            else:
                connection.transport.close()


def _awaits_head(connection: HttpToolsProtocol) -> bool:
    """Whether nothing is being answered and uvicorn's own time-out for idle connections does not run."""
    answered = connection.cycle is None or connection.cycle.response_complete
    return answered and connection.timeout_keep_alive_task is None
