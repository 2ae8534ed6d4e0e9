"""Connections on which no whole head of a request comes: they are closed, and hold nothing for ever.

uvicorn gives a connection a time-out only once it has answered on it, and takes it away with the next byte.
The connections are looked at now and then instead, so that no request pays for a timer of its own.
"""

from __future__ import annotations

from collections.abc import Iterable

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle


class Heads:
    """How long each connection has been without the head of its next request."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        # beside when it was first seen, the last request: another one, and it is waited for anew
        self._since: dict[HttpToolsProtocol, tuple[RequestResponseCycle | None, float]] = {}

    def look(self, connections: Iterable[object], now: float) -> None:
        """Close those that have waited too long."""
        since: dict[HttpToolsProtocol, tuple[RequestResponseCycle | None, float]] = {}
        for connection in connections:
            if not isinstance(connection, HttpToolsProtocol) or not _awaits_head(connection):
                continue
            cycle, first = self._since.get(connection, (None, now))
            since[connection] = (connection.cycle, first if cycle is connection.cycle else now)
        self._since = since
        for connection, (_, first) in since.items():
            if now - first >= self._seconds:
                connection.transport.close()


def _awaits_head(connection: HttpToolsProtocol) -> bool:
    """Whether nothing is being answered and uvicorn's own time-out for idle connections does not run."""
    answered = connection.cycle is None or connection.cycle.response_complete
    return answered and connection.timeout_keep_alive_task is None
