"""One connection to Redis for the requests of a process: several commands in one write, answers in order.

redis-py's pipeline costs more processor time than the commands themselves; this uses its connection alone.
In: the address and commands as tuples of bytes, text and numbers. Out: one answer for each; the error that a
command was answered with is its answer. A connection that went stale is opened anew once, and what was sent
is sent again: only for commands that may come twice. A silent Redis is asked once: requests wait.
Errors: redis.RedisError while Redis does not answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from threading import Lock
from typing import Any

from redis.exceptions import ConnectionError as Unconnected
from redis.exceptions import ResponseError

from jobs.features.redis_client import connect

Command = tuple[bytes | str | int, ...]


class Wire:
    """Asks one after the other, from whatever thread."""

    def __init__(self, address: str, waits: float) -> None:
        self._connection: Any = connect(address, waits).connection_pool.make_connection()
        self._lock = Lock()

    def ask(self, commands: Sequence[Command]) -> list[Any]:
        """The answers of the commands, after one round trip."""
        connection = self._connection
        packed = [part for command in commands for part in connection.pack_command(*command)]
        whole = [b"".join(packed)]
        with self._lock:
            for last in (False, True):
                try:
                    connection.send_packed_command(whole, check_health=False)
                    return [self._answer() for _ in commands]
                except Unconnected:
                    connection.disconnect()
                    if last:
                        raise
                except BaseException:  # what is still on its way would be taken for the next one's answers
                    connection.disconnect()
                    raise
        raise AssertionError("unreachable")

    def close(self) -> None:
        """Let go of the connection."""
        with self._lock:
            self._connection.disconnect()

    def _answer(self) -> Any:
        try:
            return self._connection.read_response()
        except ResponseError as error:
            return error
