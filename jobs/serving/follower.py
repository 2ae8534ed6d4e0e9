"""Follows the registry: who is champion, who is challenger, and at which step.

In: aliases and tags in MLflow, read every `policy.serving.alias_poll_seconds` by one background thread.
Out: an immutable `ServingState` that is swapped as a whole; a request takes it once and keeps it.
The state is also kept in `home/serving/state.json`, so that a restart without MLflow serves the same.
A champion that is refused (moved by hand, not loadable, made for other features) changes nothing: the last
accepted one goes on, with an alert. MLflow being down changes nothing either.
The version of alias `previous` is kept loaded beside them, however long ago its promotion was: a rollback
fetches nothing. That happens in a thread of its own once everything else is in place.
A restarted service is ready after one look at the registry: a version may have been taken off meanwhile. One
that hangs is not waited for.
"""

from __future__ import annotations

import contextlib
import logging
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pydantic import ValidationError

from jobs.conf.policy import Policy
from jobs.conf.settings import Settings
from jobs.core import SluiceError, StrictModel
from jobs.files import write_whole
from jobs.promotion.state import Routing, read_routing, registry_client
from jobs.serving.bundle import ModelBundle
from jobs.serving.bundles import cached_bundle, fetch_bundle

if TYPE_CHECKING:
    from mlflow import MlflowClient

LOGGER = logging.getLogger("sluice.serving")
KEPT_MODELS = 4  # champion, challenger, and two to go back to without loading
FIRST_LOOK_SECONDS = 20.0  # the first look at the registry may take, MLflow's import included
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


@dataclass(frozen=True)
class ServingState:
    """Who answers now."""

    champion: ServedModel | None = None
    challenger: ServedModel | None = None
    step: str = ""
    percent: int = 0
    alerts: tuple[str, ...] = ()


class KeptState(StrictModel):
    """What a restart needs to know."""

    champion: str | None = None
    challenger: str | None = None
    step: str = ""
    percent: int = 0


class Follower:
    """One thread that keeps `state` equal to what the registry says and the rules allow."""

    def __init__(
        self,
        settings: Settings,
        policy: Policy,
        features: tuple[str, ...],
        feature_version: str,
        *,
        each_time: Callable[[], None] = lambda: None,
    ) -> None:
        self.state = ServingState()
        self.polls = 0
        self.polled_at = -math.inf  # monotonic time of the last answer of the registry
        self.last_error = ""
        self.ready = threading.Event()
        self._settings = settings
        self._policy = policy
        self._features = features
        self._feature_version = feature_version
        self._each_time = each_time
        self._path = settings.home / "serving" / "state.json"
        self._client: MlflowClient | None = None
        self._loaded: OrderedDict[str, ServedModel] = OrderedDict()
        self.way_back = WayBack(lambda version: ServedModel(version, self._checked(version, fetch=True)))
        self._previous: str | None = None
        self._refused: dict[str, tuple[float, str]] = {}
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Serve what was served before, then follow."""
        self.restore()
        self._thread = threading.Thread(target=self._work, name="registry-follower", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End after the look at the registry that is under way; not waited for while MLflow hangs."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(2.0)

    def restore(self) -> None:
        """Serve what was served when the state was last written, from this machine's bundles alone."""
        try:
            kept = KeptState.model_validate_json(self._path.read_text())
        except FileNotFoundError:
            return
        except (OSError, ValidationError) as error:
            LOGGER.warning("%s is not readable, the registry decides: %s", self._path, error)
            return
        alerts: list[str] = []
        champion = self._load(kept.champion, alerts, fetch=False)
        challenger = self._load(kept.challenger, alerts, fetch=False)
        self._refused.clear()  # the registry may still hold what is missing here
        self._swap(
            ServingState(
                champion=champion,
                challenger=challenger,
                step=kept.step if challenger else "",
                percent=kept.percent if challenger else 0,
                alerts=tuple(alerts),
            ),
            keep=False,
        )

    def poll(self) -> None:
        """One look at the registry; trouble is noted and changes nothing that is served."""
        try:
            if self._client is None:
                self._client = registry_client(self._settings)
            self.accept(read_routing(self._client, self._settings.model_name))
            if self.last_error:
                LOGGER.info("registry: answers again")
            self.last_error = ""
            self.polls += 1
            self.polled_at = time.monotonic()
        except Exception as error:  # nothing that the registry does may end the following
            self._client = None
            if not self.last_error:
                LOGGER.warning("registry: %s; going on with what is served", error)
            self.last_error = str(error)
        self.ready.set()

    def accept(self, routing: Routing) -> None:
        """Serve this routing, as far as its versions can be served."""
        self._previous = routing.previous
        self._take_off(routing)
        alerts = list(routing.alerts)
        champion = self.state.champion
        if routing.champion is None:
            if champion is not None and not alerts:
                alerts.append(f"alias champion is gone: version {champion.version} goes on")
        elif champion is None or routing.champion != champion.version:
            champion = self._load(routing.champion, alerts) or champion
        wanted = routing.challenger
        challenger = None
        if wanted is not None and (champion is None or wanted != champion.version):
            challenger = self._load(wanted, alerts)
        self._swap(
            ServingState(
                champion=champion,
                challenger=challenger,
                step=routing.step if challenger else "",
                percent=routing.percent if challenger else 0,
                alerts=tuple(alerts),
            )
        )

    def _take_off(self, routing: Routing) -> None:
        """A challenger that is none any more leaves before anything is fetched, which may take its time."""
        running = self.state.challenger
        wanted = (routing.champion, routing.challenger)
        to_fetch = any(version is not None and version not in self._loaded for version in wanted)
        if to_fetch and running is not None and running.version != routing.challenger:
            self._swap(replace(self.state, challenger=None, step="", percent=0))

    def _work(self) -> None:
        self._each_time()
        # MLflow's client takes seconds of the interpreter to import: before anybody is told to send requests
        with contextlib.suppress(Exception):  # it is away, as the first poll will say
            self._client = registry_client(self._settings)
        while True:
            if self.state.champion is not None and not self.ready.is_set():
                self._be_ready_soon()
            before = self.state
            self.poll()
            if self.state is before and self.polls > 1:  # nothing else is to be loaded, or warmed up
                self.way_back.keep(None if self._previous in self._loaded else self._previous)
            if self._stop.wait(self._policy.serving.alias_poll_seconds):
                return
            self._each_time()

    def _be_ready_soon(self) -> None:
        """Whom to serve is known from before: a registry that hangs is not waited for."""
        patience = threading.Timer(FIRST_LOOK_SECONDS, self.ready.set)
        patience.daemon = True
        patience.start()

    def _load(self, version: str | None, alerts: list[str], *, fetch: bool = True) -> ServedModel | None:
        if version is None:
            return None
        if version in self._loaded:
            self._loaded.move_to_end(version)
            return self._loaded[version]
        until, reason = self._refused.get(version, (0.0, ""))
        if time.monotonic() < until:
            alerts.append(reason)
            return None
        warm = self.way_back.model
        try:
            if warm is not None and warm.version == version:
                model = warm
            else:
                model = ServedModel(version, self._checked(version, fetch))
        except Exception as error:  # an unusable version is an alert, never a stop
            reason = f"version {version} cannot be served: {error}"
            self._refused[version] = (time.monotonic() + RETRY_SECONDS, reason)
            alerts.append(reason)
            return None
        self._refused.pop(version, None)
        self._loaded[version] = model
        while len(self._loaded) > KEPT_MODELS:
            self._loaded.popitem(last=False)
        return model

    def _checked(self, version: str, fetch: bool) -> ModelBundle:
        folder = fetch_bundle(self._settings, version) if fetch else cached_bundle(self._settings, version)
        if folder is None:
            raise SluiceError("its bundle is not on this machine, and is fetched when MLflow answers")
        bundle = ModelBundle.load(folder, self._policy.decisions)
        if bundle.version_info.feature_version != self._feature_version:
            raise SluiceError(
                f"made for feature version {bundle.version_info.feature_version}, "
                f"this service computes {self._feature_version}"
            )
        if bundle.features != self._features:
            raise SluiceError("made for other features, or another order of them")
        return bundle

    def _swap(self, state: ServingState, *, keep: bool = True) -> None:
        before = self.state
        if state == before:
            return
        self.state = state
        for alert in state.alerts:
            if alert not in before.alerts:
                LOGGER.error("alert: %s", alert)
        if kept_state(state) != kept_state(before):
            LOGGER.info("serving %s", kept_state(state).model_dump_json())
            if keep:
                self._write(kept_state(state))

    def _write(self, kept: KeptState) -> None:
        try:
            write_whole(self._path, kept.model_dump_json())
        except OSError as error:
            LOGGER.warning("%s cannot be written, a restart would not know: %s", self._path, error)


def kept_state(state: ServingState) -> KeptState:
    """The names of what is served."""
    return KeptState(
        champion=state.champion.version if state.champion else None,
        challenger=state.challenger.version if state.challenger else None,
        step=state.step,
        percent=state.percent,
    )
