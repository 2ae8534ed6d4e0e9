"""Uvicorn's server with a stop that loses no request, and the handover to the next process.

A connection without the whole head of a request is closed after the policy's request_seconds, a little late.

On SIGTERM, or once a newcomer is ready, it accepts no more, and tells every client with its next answer to
connect anew (`Connection: close`); connections that stay idle are closed after the policy's drain_seconds.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from pathlib import Path

import uvicorn

from jobs.conf.policy import Serving
from jobs.serving.app import Service
from jobs.serving.handover import Predecessor, Successor
from jobs.serving.heads import Heads

LOGGER = logging.getLogger("sluice.serving")
LOOK_SECONDS = 0.02
TICKS_A_LOOK = 5  # of a tenth of a second


class Server(uvicorn.Server):
    """One scoring process."""

    def __init__(self, config: uvicorn.Config, service: Service, serving: Serving) -> None:
        super().__init__(config)
        self._service = service
        self._drain_seconds = serving.drain_seconds
        self._heads = Heads(serving.request_seconds)
        self._predecessor: Predecessor | None = None
        self._successor: Successor | None = None

    def hand_over_at(self, place: Path, listener: socket.socket, successor: Successor | None) -> None:
        """Be there for a newcomer; `successor` is this process' own line to the one before it."""
        self._predecessor = Predecessor(place, listener, self._leave)
        self._successor = successor

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start; a process that takes over accepts nothing before it is warm, any other at once."""
        self._service.warm_first = self._successor is not None
        await super().startup(sockets)
        if self._successor is not None and not await asyncio.to_thread(self._successor.is_ready):
            LOGGER.error("too late to take over: the process before this one goes on, and this one stops")
            self._leave()
            return
        if self._predecessor is not None:
            self._predecessor.start()

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second, until it says that this process is to end."""
        if counter % TICKS_A_LOOK == 0:
            self._heads.look(self.server_state.connections, time.monotonic())
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let the connections end of themselves before uvicorn closes them."""
        if self._predecessor is not None:
            self._predecessor.stop()
        for server in self.servers:
            server.close()
        self._service.draining.set()
        end = time.monotonic() + self._drain_seconds
        while self.server_state.connections and time.monotonic() < end and not self.force_exit:
            await asyncio.sleep(LOOK_SECONDS)
        await super().shutdown(sockets)

    def _leave(self) -> None:
        self.should_exit = True
