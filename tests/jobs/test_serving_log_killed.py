"""Real processes killed with SIGKILL while a client counts their answers: what may be missing then."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

from jobs.conf.settings import Settings
from jobs.serving.prediction_log import LOST_SECONDS
from tests.prediction_log_support import landed, log_of, segments

ROOT = Path(__file__).parents[2]
# answers each number that it reads, as soon as the log has it
SERVICE = """
import sys
from jobs.conf.policy import PredictionLogLimits
from jobs.conf.settings import settings
from jobs.lake.store import lake_of
from jobs.serving.prediction_log import PredictionLog, spool_of
from tests.prediction_log_support import NOON, prediction
sys.setswitchinterval(0.0005)
limits = PredictionLogLimits(append_seconds=0.4, spool_mb=64)
log = PredictionLog(lake_of(settings()), spool_of(settings().home), limits)
names, features = tuple(map(str, range(89))), [0.5] * 89
log.start()
for line in sys.stdin:
    log.put(prediction(int(line), NOON, names=names, features=features))
    print(int(line), flush=True)
"""
PAUSE = 0.001
SECONDS = 2.5


class Client:
    """Asks one service a number at a time and keeps when each answer came."""

    def __init__(self, home: Settings, first: int) -> None:
        self.answered: dict[int, float] = {}
        self._process = subprocess.Popen(
            [sys.executable, "-c", SERVICE],
            cwd=ROOT, env={"SLUICE_HOME": str(home.home), "PATH": ""}, text=True, bufsize=1,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        self._first = first
        self._thread = threading.Thread(target=self._ask)
        self._thread.start()

    def _ask(self) -> None:
        asking, answers = self._process.stdin, self._process.stdout
        assert asking is not None
        assert answers is not None
        number = self._first
        try:
            while True:
                asking.write(f"{number}\n")
                answer = answers.readline()
                if not answer.endswith("\n"):
                    return
                self.answered[int(answer)] = time.monotonic()
                number += 1
                time.sleep(PAUSE)
        except BrokenPipeError:
            return

    def kill(self) -> float:
        """SIGKILL; the moment before it."""
        moment = time.monotonic()
        self._process.kill()
        self._process.wait(30)
        self._thread.join(30)
        return moment


def test_two_killed_replicas_lose_at_most_the_answers_of_the_stated_time(home: Settings) -> None:
    clients = [Client(home, first) for first in (0, 1_000_000)]
    deadline = time.monotonic() + 120
    while not all(client.answered for client in clients) and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(SECONDS)
    before = landed(home)
    assert before, "nothing had been appended while they lived"
    for client in clients:
        killed_at = client.kill()
        lost = client.answered.keys() - set(landed_after(home))
        assert all(client.answered[number] > killed_at - LOST_SECONDS for number in lost), len(lost)
        assert len(client.answered) > 100
    rows = landed(home)
    assert len(rows) == len(set(rows))
    assert set(before) <= set(rows)
    assert segments(home) == []


def landed_after(home: Settings) -> list[int]:
    """The rows in the lake once another process has taken over what the dead left."""
    assert log_of(home).append_spooled()
    return landed(home)
