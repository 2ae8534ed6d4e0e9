"""The HTTP face of the scoring service.

POST /score answers one transaction; /health says that the process lives, /ready that it knows whom to
serve, /state who answers and what the log holds. Errors: 401 without the token where one is set, 422 with
the place of what is wrong in a request.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException, Response
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from fastapi_offline import FastAPIOffline

from jobs.conf.policy import Policy, policy_of
from jobs.conf.settings import Settings
from jobs.lake.store import lake_of
from jobs.serving.follower import Follower
from jobs.serving.messages import ScoreAnswer, ScoreRequest, ServedRouting
from jobs.serving.prediction_log import PredictionLog, spool_of
from jobs.serving.request_features import FeatureSource, StoredFeatures
from jobs.serving.scoring import Scorer

BEARER = HTTPBearer(auto_error=False, description="only where SLUICE_TOKEN is set")


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
        self.started = time.monotonic()

    def start(self) -> None:
        self.log.start()
        self.scorer.start()
        self.follower.start()

    def stop(self) -> None:
        """In the order in which rows flow: whoever still writes to the log ends before it does."""
        self.follower.stop()
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


def create_app(
    settings: Settings,
    *,
    token: str = "",
    policy: Policy | None = None,
    features: FeatureSource | None = None,
) -> FastAPI:
    """The application; with a token, scoring and state need `Authorization: Bearer TOKEN`."""
    service = Service(settings, policy or policy_of(settings), features or StoredFeatures(settings))

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        service.start()
        yield
        service.stop()

    app = FastAPIOffline(title="Sluice scoring", version="1", description=__doc__, lifespan=lifespan)
    app.state.service = service

    async def allowed(
        given: Annotated[HTTPAuthorizationCredentials | None, Depends(BEARER)],
    ) -> None:
        if given is None or not secrets.compare_digest(given.credentials.encode(), token.encode()):
            raise HTTPException(
                401, "this service needs Authorization: Bearer", {"WWW-Authenticate": "Bearer"}
            )

    guard = [Depends(allowed)] if token else []

    @app.post("/score", response_model=ScoreAnswer, dependencies=guard)
    async def score(request: ScoreRequest) -> Response:
        """The decision on one transaction."""
        answer = await service.scorer.answer(request)
        return Response(answer.model_dump_json(), media_type="application/json")

    @app.get("/state", dependencies=guard)
    async def state() -> ServedRouting:
        """Who answers now, open alerts, and the prediction log's counters."""
        return service.routing()

    @app.get("/health")
    async def health() -> dict[str, str]:
        """The process lives."""
        return {"status": "alive"}

    @app.get("/ready")
    async def ready() -> dict[str, str]:
        """The service knows whom to serve, be it the rules alone."""
        if not service.follower.ready.is_set():
            raise HTTPException(503, "starting: the registry has not been asked yet")
        champion = service.follower.state.champion
        return {"status": "ready", "serves": champion.version if champion else "rules"}

    return app
