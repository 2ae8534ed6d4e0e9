"""One process gives its listening socket to the next, so that no connection is lost between the two.

The running service waits at a socket in its home that its own user alone may open. A newcomer with
--take-over comes there, is given the listening socket itself, warms up, listens too, and says so; then the
one before it stops. Both accept from one and the same queue: a connection that waits in it is taken by one of
them. (Two sockets by SO_REUSEPORT have two queues, and what waits in that of the one who closes is reset.)
A newcomer that ends before it is ready changes nothing, nor does one that hangs: after READY_SECONDS the next
one may come, and the late one is told to end.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path

from jobs.conf.settings import Settings
from jobs.core import SluiceError

LOGGER = logging.getLogger("sluice.serving")
READY = b"ready"
TOO_LATE = b"l"
ASK_SECONDS = 5.0
READY_SECONDS = 300.0  # for a newcomer to be warm, imports on a slow disk included
LONGEST = 100  # bytes of a Unix socket's address, on every system
FOLDER_MODE = 0o700


def meeting_place(settings: Settings, port: int) -> Path:
    """Where the running service of a port is asked."""
    return settings.home / "serving" / "handover" / f"{port}.sock"


class Successor:
    """The newcomer's side."""

    def __init__(self, place: Path) -> None:
        """Ask the running service for its listening socket.

        Raises:
            SluiceError: nobody is there.
        """
        self._line = socket.socket(socket.AF_UNIX)
        self._line.settimeout(ASK_SECONDS)
        try:
            self._line.connect(str(place))
            _, descriptors, _, _ = socket.recv_fds(self._line, 1, 1)
        except OSError as error:
            self._line.close()
            raise SluiceError(
                f"scoring service: nobody to take over from at {place} ({error.strerror or error}): start it "
                "without --take-over"
            ) from None
        if not descriptors:
            self._line.close()
            raise SluiceError(f"scoring service: the one at {place} gave no socket: it is stopping")
        self.listener = socket.socket(fileno=descriptors[0])

    def is_ready(self) -> bool:
        """Tell the one before that it may go, and wait until it has let go of the meeting place.

        False where that one has given up waiting and goes on.
        """
        answer = b""
        with contextlib.suppress(OSError):
            self._line.sendall(READY)
        with contextlib.suppress(OSError):  # what came before the line was closed can be read still
            answer = self._line.recv(1)
        self._line.close()
        return answer != TOO_LATE


class Predecessor:
    """The running service's side: one thread that waits for a newcomer."""

    def __init__(self, place: Path, listener: socket.socket, leave: Callable[[], None]) -> None:
        self._place = place
        self._listener = listener
        self._leave = leave
        self._door: socket.socket | None = None
        self._stopped = threading.Event()

    def start(self) -> None:
        """Wait for a newcomer; where that is not possible the service runs on without."""
        try:
            if len(os.fsencode(self._place)) > LONGEST:
                raise OSError(f"longer than {LONGEST} bytes")
            self._place.parent.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
            self._place.parent.chmod(FOLDER_MODE)
            self._place.unlink(missing_ok=True)
            door = socket.socket(socket.AF_UNIX)
            door.bind(str(self._place))
            door.listen(1)
        except OSError as error:
            LOGGER.warning("%s: nobody can take over from this process: %s", self._place, error)
            return
        self._door = door
        threading.Thread(target=self._wait, args=(door,), name="handover", daemon=True).start()

    def stop(self) -> None:
        """Close the door, unless a newcomer has its own there by now."""
        door, self._door = self._door, None
        if door is not None and not self._stopped.is_set():
            self._stopped.set()
            self._place.unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                door.shutdown(socket.SHUT_RDWR)
            door.close()

    def _wait(self, door: socket.socket) -> None:
        while not self._stopped.is_set():
            try:
                line, _ = door.accept()
            except OSError:
                return
            with line:
                if self._hand_over(line):
                    return

    def _hand_over(self, line: socket.socket) -> bool:
        line.settimeout(READY_SECONDS)
        try:
            socket.send_fds(line, [b"s"], [self._listener.fileno()])
            if line.recv(len(READY), socket.MSG_WAITALL) != READY:
                LOGGER.warning("a newcomer ended before it was ready; this process goes on")
                return False
        except TimeoutError:
            LOGGER.warning("a newcomer was not ready within %g s; this process goes on", READY_SECONDS)
            with contextlib.suppress(OSError):
                line.sendall(TOO_LATE)
            return False
        except OSError as error:
            LOGGER.warning("a newcomer was not given the socket: %s", error)
            return False
        self.stop()
        LOGGER.info("another process has taken over")
        self._leave()
        return True
