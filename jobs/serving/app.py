"""The HTTP face of the scoring service.

POST /score answers one transaction, POST /score/batch some, POST /explain says what moved a score.
GET /health says that the process lives, /ready that it has warmed up and knows whom to serve, /state who
answers and what the log holds, /metrics the same for Prometheus.

Where SLUICE_TOKEN is set, callers send `Authorization: Bearer SECRET`; /health, /ready and these pages need
none.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, HTTPException, Response
from fastapi_offline import FastAPIOffline
from prometheus_client import CONTENT_TYPE_LATEST
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from jobs.conf.policy import Policy, policy_of
from jobs.conf.settings import Settings
from jobs.lake.store import lake_of
from jobs.serving.endpoints import REFUSALS, Endpoints, document
from jobs.serving.follower import Follower
from jobs.serving.front import Front
from jobs.serving.messages import TRANSACTION, Problem, ServedRouting
from jobs.serving.metrics import Figures, Requests, counter, gauge, served_versions
from jobs.serving.prediction_log import PredictionLog, spool_of
from jobs.serving.rate_limit import SlidingWindow
from jobs.serving.request_features import FeatureSource, StoredFeatures
from jobs.serving.scoring import Scorer
from jobs.serving.tokens import Tokens

LOGGER = logging.getLogger("sluice.serving")
OPEN = ("/health", "/ready", "/docs", "/openapi.json")  # need no token
GUARDED = ("/score", "/score/batch", "/explain", "/state", "/metrics")
WARM_UPS = 20  # rounds: what is imported, compiled or cached at first use is so before the first request
LOOK_SECONDS = 0.1
ROW_COUNTERS = ("queued", "written", "waiting", "dropped", "recovered", "set_aside")


class Service:
    """The parts of one scoring process, started and stopped together."""

    def __init__(self, settings: Settings, policy: Policy, features: FeatureSource) -> None:
        self.settings = settings
        self.features = features
        self.log = PredictionLog(lake_of(settings), spool_of(settings.home), policy.serving.log)
        self.follower = Follower(
            settings, policy, features.names, features.version, each_time=features.connect
        )
        self.scorer = Scorer(lambda: self.follower.state, features, self.log, policy)
        self.window = SlidingWindow(policy.serving.requests_per_second, policy.serving.clients_max)
        self.endpoints = Endpoints(self.scorer, lambda: self.follower.state, features, self.window, policy)
        self.requests = Requests((*OPEN, *GUARDED))
        self.figures = Figures(self.requests.collect, self.scorer.counts.collect, self._collect)
        self.draining = asyncio.Event()
        self.ready = threading.Event()
        self.warm_first = False  # whether nothing is accepted before it is ready
        self.started = time.monotonic()
        self._warming: asyncio.Task[None] | None = None

    def start(self) -> None:
        """From the event loop that answers: what warms up goes the way of its requests."""
        self.log.start()
        self.scorer.start()
        self.follower.start()
        self._warming = asyncio.get_running_loop().create_task(self._warm_up())

    def stop(self) -> None:
        """In the order in which rows flow: whoever still writes to the log ends before it does."""
        if self._warming is not None:
            self._warming.cancel()
        self.follower.stop()
        self.endpoints.stop()
        self.scorer.stop()
        self.log.stop()
        self.features.close()

    def routing(self) -> ServedRouting:
        """Who answers now, and how the service is."""
        state = self.follower.state
        return ServedRouting(
            model_name=self.settings.model_name,
            champion=state.champion.version if state.champion else None,
            challenger=state.challenger.version if state.challenger else None,
            step=state.step,
            percent=state.percent,
            alerts=list(state.alerts),
            feature_version=self.features.version,
            registry_error=self.follower.last_error,
            registry_polls=self.follower.polls,
            log=self.log.counters(),
            uptime_seconds=round(time.monotonic() - self.started, 1),
            **self.scorer.counters(),
        )

    async def _warm_up(self) -> None:
        """Once whom to serve is known: ready after it, also where a store or a model has trouble."""
        while not self.follower.ready.is_set():
            await asyncio.sleep(LOOK_SECONDS)
        body = json.dumps(TRANSACTION).encode()
        for _ in range(WARM_UPS):
            try:
                await self.endpoints.warm_up(body)
            except Exception as error:  # the service answers by rules then, as it says in each answer
                LOGGER.warning("warm-up: %s", error)
                break
        gc.collect()
        gc.freeze()  # a million objects of the libraries: looking through them would hold requests up
        self.ready.set()

    def _collect(self) -> Iterator[Metric]:
        """What the parts count for themselves."""
        state = self.follower.state
        yield served_versions(
            state.champion.version if state.champion else None,
            state.challenger.version if state.challenger else None,
            self.features.version,
        )
        yield gauge("sluice_canary_percent", "share of customers on the challenger", state.percent)
        yield gauge("sluice_alerts", "open alerts about what the registry says", len(state.alerts))
        yield gauge(
            "sluice_registry_age_seconds",
            "since the registry answered last",
            time.monotonic() - self.follower.polled_at,
        )
        yield counter("sluice_rate_limited", "refused requests", [], {(): self.window.refused})
        log = GaugeMetricFamily("sluice_prediction_log", "rows of the log", labels=["rows"])
        counters = self.log.counters()
        for name in ROW_COUNTERS:
            log.add_metric([name], float(counters[name]))
        yield log
        yield gauge(
            "sluice_prediction_log_spool_bytes",
            "on disk until the lake has them",
            float(counters["spool_bytes"]),
        )
        stores = GaugeMetricFamily("sluice_feature_store_up", "1 where it answers", labels=["store"])
        for name, trouble in self.features.troubles().items():
            stores.add_metric([name], float(not trouble))
        yield stores


def create_app(
    settings: Settings,
    *,
    token: str = "",
    policy: Policy | None = None,
    features: FeatureSource | None = None,
) -> FastAPI:
    """The application; with tokens (NAME=SECRET,… or one secret) scoring and state need one of them."""
    policy = policy or policy_of(settings)
    tokens = Tokens(token)
    service = Service(settings, policy, features or StoredFeatures(settings))

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        service.start()
        if service.warm_first:
            await asyncio.to_thread(service.ready.wait)
        yield
        service.stop()

    app = FastAPIOffline(title="Sluice scoring", version="1", description=__doc__, lifespan=lifespan)
    app.state.service = service
    security: list[dict[str, list[str]]] = [{"bearer": []}] if tokens else []
    document(app, service.endpoints, policy, security)
    _add_pages(app, service, security)
    _declare_bearer(app, bool(tokens))
    # outermost, also of what turns errors into answers: each layer costs the scoring endpoints time
    app.middleware_stack = Front(
        app.build_middleware_stack(),
        endpoints=service.endpoints.by_path(),
        guarded=frozenset(GUARDED),
        tokens=tokens,
        window=service.window,
        serving=policy.serving,
        requests=service.requests,
        draining=service.draining,
    )
    return app


def _add_pages(app: FastAPI, service: Service, security: list[dict[str, list[str]]]) -> None:
    """What is asked about the service itself."""
    guarded: dict[str, Any] = {"openapi_extra": {"security": security}} if security else {}
    unknown: dict[int | str, dict[str, Any]] = {401: REFUSALS[401]}
    starting: dict[int | str, dict[str, Any]] = {
        503: {
            "model": Problem,
            "description": "not warm yet",
            "content": {"application/json": {"example": {"detail": "starting: the service warms up"}}},
        }
    }

    @app.get("/state", responses=unknown, **guarded)
    async def state() -> ServedRouting:
        """Who answers now, open alerts, and the prediction log's counters."""
        return service.routing()

    @app.get(
        "/metrics",
        response_class=Response,
        responses={200: {"content": {"text/plain": {"example": "sluice_answers_total 1.0"}}}, **unknown},
        **guarded,
    )
    async def metrics() -> Response:
        """Everything that is counted, for Prometheus; each process counts for itself."""
        return Response(service.figures.text(), headers={"content-type": CONTENT_TYPE_LATEST})

    @app.get("/health")
    async def health() -> dict[str, str]:
        """The process lives."""
        return {"status": "alive"}

    @app.get("/ready", responses=starting)
    async def ready() -> dict[str, str]:
        """The service is warm and knows whom to serve, be it the rules alone."""
        if not service.ready.is_set():
            raise HTTPException(503, "starting: the service warms up")
        champion = service.follower.state.champion
        return {"status": "ready", "serves": champion.version if champion else "rules"}


def _declare_bearer(app: FastAPI, needed: bool) -> None:
    """Say in the schema how callers show their token."""
    made = app.openapi

    def openapi() -> dict[str, Any]:
        schema = made()
        if needed:
            schemes = schema.setdefault("components", {}).setdefault("securitySchemes", {})
            schemes["bearer"] = {"type": "http", "scheme": "bearer"}
        return schema

    app.openapi = openapi  # type: ignore[method-assign]
