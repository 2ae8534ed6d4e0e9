"""Models of registered versions, loaded beside what serves.

In: what fetches, checks and loads a version; it may take as long as another replica's fetch, or a server that
hangs. Out: the loaded model, whenever it is there. Nobody waits who does not want to.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable

from jobs.core import SluiceError
from jobs.serving.bundle import ModelBundle

LOGGER = logging.getLogger("sluice.serving")
RETRY_SECONDS = 15.0  # before a version that could not be loaded is tried again
RETRY_SECONDS_MAX = 600.0
SLOW_SECONDS = 0.003  # a model above this is scored beside the event loop, not on it


class ServedModel:
    """A loaded version, and how long it takes for one row of late."""

    def __init__(self, version: str, bundle: ModelBundle) -> None:
        self.version = version
        self.bundle = bundle
        self._seconds = min(self._timed_try() for _ in range(3))

    @property
    def slow(self) -> bool:
        """Whether a score would hold up the other requests of this process."""
        return self._seconds > SLOW_SECONDS

    def score(self, values: list[float]) -> float:
        """One calibrated, blended probability; raises whatever the model raises."""
        started = time.perf_counter()
        score = self.bundle.score_one(values)
        self._seconds += 0.2 * (time.perf_counter() - started - self._seconds)
        if not 0.0 <= score <= 1.0:
            raise SluiceError(f"version {self.version}: score {score} is not a probability")
        return score

    def _timed_try(self) -> float:
        started = time.perf_counter()
        self.bundle.try_out()
        return (time.perf_counter() - started) / 2  # it asks twice


class Load:
    """One version on its way, in a thread of its own."""

    def __init__(self, version: str, load: Callable[[str], ServedModel], ended: Callable[[], None]) -> None:
        self._version = version
        self._load = load
        self._ended = ended
        self._done = threading.Event()
        self._model: ServedModel | None = None
        self._error: Exception | None = None
        threading.Thread(target=self._work, name=f"load-{version}", daemon=True).start()

    @property
    def done(self) -> bool:
        """Whether it has ended, well or not."""
        return self._done.is_set()

    def model(self, *, wait: bool) -> ServedModel | None:
        """The model; None where it is not there yet. Raises whatever kept it from being loaded."""
        if wait:
            self._done.wait()
        if not self.done:
            return None
        if self._error is not None:
            raise self._error
        return self._model

    def _work(self) -> None:
        try:
            self._model = self._load(self._version)
        except Exception as error:  # for whoever asks for the model
            self._error = error
        self._done.set()
        self._ended()


class WayBack:
    """The version that a rollback would serve, loaded in the background; it takes no place of what serves."""

    def __init__(self, load: Callable[[str], ServedModel]) -> None:
        self.model: ServedModel | None = None
        self._load = load
        self._thread: threading.Thread | None = None
        self._version: str | None = None
        self._again = -math.inf
        self._wait = RETRY_SECONDS

    def keep(self, version: str | None) -> None:
        """Have this version there soon; None where it is loaded elsewhere, or there is none."""
        if version != self._version:
            self._version, self._again, self._wait = version, -math.inf, RETRY_SECONDS
        if self.model is not None and self.model.version != version:
            self.model = None
        loading = self._thread is not None and self._thread.is_alive()
        if version is None or self.model is not None or loading or time.monotonic() < self._again:
            return
        self._thread = threading.Thread(target=self._warm, args=(version,), name="way-back", daemon=True)
        self._thread.start()

    def _warm(self, version: str) -> None:
        try:
            self.model = self._load(version)
        except Exception as error:  # nothing is served by it yet
            # less and less often: a version of other features never comes, and each try costs the answers
            self._again, self._wait = time.monotonic() + self._wait, min(self._wait * 2, RETRY_SECONDS_MAX)
            LOGGER.warning("alias previous, version %s, is not loaded: %s", version, error)
