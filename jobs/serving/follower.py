"""Follows the registry: who is champion, who is challenger, and at which step.

In: aliases and tags in MLflow, read every `policy.serving.alias_poll_seconds` by one background thread.
Out: an immutable `ServingState` that is swapped as a whole; a request takes it once and keeps it.
The state is also kept in `home/serving/state.json`, so that a restart without MLflow serves the same.
A champion that is refused (moved by hand, not loadable, made for other features) changes nothing: the last
accepted one goes on, with an alert. MLflow being down changes nothing either.
The thread that follows waits for no bundle: each version is loaded by a thread of its own and served by the
next look, so a rollback is followed while a challenger is fetched. Nor does it wait for the feature stores,
whose upkeep has a thread too.
The version of alias `previous` is kept loaded beside them, however long ago its promotion was: a rollback
fetches nothing. That happens once everything else is in place.
A restarted service is ready once the stores were tried and one look at the registry has been followed: a
version may have been taken off meanwhile. A look or a fetch that hangs is not waited for.
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
from jobs.serving.loading import RETRY_SECONDS, Load, ServedModel, WayBack

if TYPE_CHECKING:
    from mlflow import MlflowClient

LOGGER = logging.getLogger("sluice.serving")
STOP_SECONDS = 2.0
KEPT_MODELS = 4  # champion, challenger, and two to go back to without loading
FIRST_LOOK_SECONDS = 20.0  # the first look at the registry may take, MLflow's import included


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
        self._loads: dict[str, Load] = {}
        self.way_back = WayBack(self._made)
        self._previous: str | None = None
        self._refused: dict[str, tuple[float, str]] = {}
        self._stop = threading.Event()
        self._look = threading.Event()  # at the registry, now: something is there that it may want
        self._settled = threading.Event()  # one look at the registry, and what it named was loaded or refused
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Serve what was served before, then follow."""
        self.restore()
        for name, work in (("registry-follower", self._work), ("feature-upkeep", self._keep_up)):
            thread = threading.Thread(target=work, name=name, daemon=True)
            thread.start()
            self._threads.append(thread)

    def stop(self) -> None:
        """End after the look at the registry that is under way; not waited for while MLflow hangs."""
        self._stop.set()
        self._look.set()
        deadline = time.monotonic() + STOP_SECONDS
        for thread in self._threads:
            thread.join(max(deadline - time.monotonic(), 0.0))

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

    def poll(self, *, wait: bool = True) -> None:
        """One look at the registry; trouble is noted and changes nothing that is served.

        It waits for what it has to load, or else leaves that to a later look.
        """
        settled = True
        try:
            if self._client is None:
                self._client = registry_client(self._settings)
            settled = self.accept(read_routing(self._client, self._settings.model_name), wait=wait)
            if self.last_error:
                LOGGER.info("registry: answers again")
            self.last_error = ""
            self.polls += 1
            self.polled_at = time.monotonic()
        except Exception as error:  # nothing that the registry does may end the following
            settled = not self._loads
            self._client = None
            if not self.last_error:
                LOGGER.warning("registry: %s; going on with what is served", error)
            self.last_error = str(error)
        if settled:
            self._settled.set()

    def accept(self, routing: Routing, *, wait: bool = True) -> bool:
        """Serve this routing, as far as its versions can be served; False where one is still being loaded."""
        self._previous = routing.previous
        self._take_off(routing)
        alerts = list(routing.alerts)
        champion = self.state.champion
        if routing.champion is None:
            if champion is not None and not alerts:
                alerts.append(f"alias champion is gone: version {champion.version} goes on")
        elif champion is None or routing.champion != champion.version:
            champion = self._load(routing.champion, alerts, wait=wait) or champion
        wanted = routing.challenger if champion is None or routing.challenger != champion.version else None
        running = self.state.challenger
        if champion is not self.state.champion:  # it serves before a challenger has been waited for
            kept = running if running is not None and running.version == wanted else None
            self._serve(routing, champion, kept, alerts)
        self._serve(routing, champion, self._load(wanted, alerts, wait=wait), alerts)
        named = (routing.champion, wanted)
        self._loads = {
            version: load for version, load in self._loads.items() if version in named or not load.done
        }
        return not any(version in self._loads for version in named)

    def _serve(
        self,
        routing: Routing,
        champion: ServedModel | None,
        challenger: ServedModel | None,
        alerts: list[str],
    ) -> None:
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
        # MLflow's client takes seconds of the interpreter to import: before anybody is told to send requests
        with contextlib.suppress(Exception):  # it is away, as the first poll will say
            self._client = registry_client(self._settings)
        while not self._stop.is_set():
            self._look.clear()
            before = self.state
            self.poll(wait=False)
            if self.state is before and self.ready.is_set():  # nothing else is to be loaded, or warmed up
                self.way_back.keep(None if self._previous in self._loaded else self._previous)
            self._look.wait(self._policy.serving.alias_poll_seconds)

    def _keep_up(self) -> None:
        """The feature stores, again and again; ready once they were tried and whom to serve is known."""
        self._each_time()
        patience = time.monotonic() + FIRST_LOOK_SECONDS
        pause = self._policy.serving.alias_poll_seconds
        while not self._settled.wait(pause) and not self._stop.is_set():
            if self.state.champion is not None and time.monotonic() > patience:
                break  # a registry, or a fetch, that hangs is not waited for
            self._each_time()
        self.ready.set()
        while not self._stop.wait(pause):
            self._each_time()

    def _load(
        self, version: str | None, alerts: list[str], *, fetch: bool = True, wait: bool = True
    ) -> ServedModel | None:
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
        model = warm if warm is not None and warm.version == version else None
        try:
            if model is None:
                model = self._loading(version).model(wait=wait) if fetch else self._made(version, fetch=False)
        except Exception as error:  # an unusable version is an alert, never a stop
            self._loads.pop(version, None)
            reason = f"version {version} cannot be served: {error}"
            self._refused[version] = (time.monotonic() + RETRY_SECONDS, reason)
            alerts.append(reason)
            return None
        if model is None:  # a later look finds it
            return None
        self._loads.pop(version, None)
        self._refused.pop(version, None)
        self._loaded[version] = model
        while len(self._loaded) > KEPT_MODELS:
            self._loaded.popitem(last=False)
        return model

    def _loading(self, version: str) -> Load:
        """The version on its way, which begins here where it has not."""
        load = self._loads.get(version)
        if load is None:
            load = self._loads[version] = Load(version, self._made, self._look.set)
        return load

    def _made(self, version: str, *, fetch: bool = True) -> ServedModel:
        return ServedModel(version, self._checked(version, fetch))

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
