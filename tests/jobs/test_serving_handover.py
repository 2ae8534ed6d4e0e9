"""The listening socket goes from one process to the next, and no newcomer keeps it from another one."""

from __future__ import annotations

import socket
import tempfile
from pathlib import Path
from threading import Event

import pytest

from jobs.serving import handover
from jobs.serving.handover import Predecessor, Successor


def test_a_newcomer_that_hangs_keeps_no_later_one_from_taking_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handover, "READY_SECONDS", 0.2)
    gone = Event()
    # a short path: a Unix socket has one
    with (
        tempfile.TemporaryDirectory(prefix="sluice-") as folder,
        socket.create_server(("127.0.0.1", 0)) as listener,
    ):
        place = Path(folder) / "handover" / "8000.sock"
        Predecessor(place, listener, gone.set).start()
        hung, later = Successor(place), Successor(place)
        with hung.listener, later.listener:
            assert later.is_ready()
            assert gone.wait(5)
            assert not hung.is_ready()
