"""One request from its features to its answer, and the shadow score after it.

In: a validated request. Out: an answer, always: canary, else champion, else the rules alone.
A model above a few milliseconds is scored beside the event loop, so that it holds up its own callers only;
too many of them waiting count as its failure, and so does one that has not answered within the policy's
answer_seconds: then the next one answers, or the rules. Latency is per answer, from the feature read on.
Whatever the challenger of a promotion was not asked, its shadow scores after the answer, in every step.
A small share of what the model would block, never of what a list blocks, is approved and marked `holdout`.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import secrets
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from typing import Any

from jobs.conf.policy import Policy
from jobs.core import SluiceError, first_line
from jobs.features.velocity_store import Event
from jobs.serving.bundle import Decision, decide
from jobs.serving.counts import Counts
from jobs.serving.follower import ServingState
from jobs.serving.loading import SLOW_SECONDS, ServedModel
from jobs.serving.log_rows import in_one_block
from jobs.serving.messages import ScoreAnswer, ScoreRequest, Variant
from jobs.serving.prediction_log import Prediction, PredictionLog
from jobs.serving.request_features import FeatureSource
from jobs.serving.routing import assign, held_out
from jobs.serving.rules import RulesLayer, stricter

LOGGER = logging.getLogger("sluice.serving")
SLOW_THREADS = 2
SLOW_WAITING = 64  # more requests than this waiting for one process's slow models are its failure
SHADOW_WAITING = 1000
ROOM_SECONDS = 2.0  # at a stop, for room in that queue
SHADOW_SECONDS = 5.0  # at a stop, for the scores that wait
SHADOW_SHARE = 0.25  # of a core, at most, for the shadow of a slow challenger
ERROR_CHARACTERS = 300  # of an error in the log
NO_VELOCITY = "velocity_missing"


@dataclass(frozen=True, slots=True)
class _Case:
    """One request on its way; `values` are None where the features could not be read."""

    request: ScoreRequest
    request_id: str
    state: ServingState
    assigned: Variant  # who is asked first
    started: float
    values: list[float] | None

    @property
    def for_shadow(self) -> bool:
        """Whether a challenger could have scored it and was not asked."""
        return self.state.challenger is not None and self.assigned != "canary" and self.values is not None


class Scorer:
    """Answers requests with whatever `state()` serves at that moment."""

    def __init__(
        self,
        state: Callable[[], ServingState],
        features: FeatureSource,
        log: PredictionLog,
        policy: Policy,
    ) -> None:
        self._state = state
        self._features = features
        self._log = log
        self._drawn, self._number = secrets.token_hex(8), count()
        self._decisions = policy.decisions
        self._salt = policy.canary.salt
        self._serving = policy.serving
        self._rules = RulesLayer(policy.rules, features.names)
        self._no_velocity = features.names.index(NO_VELOCITY) if NO_VELOCITY in features.names else None
        self._slow = ThreadPoolExecutor(SLOW_THREADS, thread_name_prefix="slow-model")
        self._slow_waiting = 0
        self._shadow: queue.Queue[tuple[_Case, float] | None] = queue.Queue(SHADOW_WAITING)
        self._stopping = threading.Event()
        self._shadow_thread = threading.Thread(target=self._score_shadows, name="shadow", daemon=True)
        self.counts = Counts()

    def start(self) -> None:
        self._shadow_thread.start()

    def stop(self) -> None:
        """Finish the shadow scores that wait, for a few seconds at most."""
        self._stopping.set()
        try:
            self._shadow.put(None, timeout=ROOM_SECONDS)
        except queue.Full:
            LOGGER.warning("shadow: too many scores wait, they are given up")
        self._shadow_thread.join(SHADOW_SECONDS)
        self._slow.shutdown(wait=False, cancel_futures=True)

    async def answer(self, request: ScoreRequest) -> ScoreAnswer:
        """The answer to one request; no failure of a model or of the store leaves this function."""
        started = time.perf_counter()
        state = self._state()
        event = event_of(request)
        values, trouble = await self._read(event)
        for_rules, degraded = self._known(event, values)
        hit = self._rules.apply(request.customer_id, request.terminal_id, request.amount_minor, for_rules)
        read_seconds = time.perf_counter() - started
        assigned = assign(
            request.customer_id, state.percent, self._salt, challenger=state.challenger is not None
        )
        case = _Case(request, self._request_id(), state, assigned, started, values)
        model, variant, score, why = await self._first_that_answers(case)
        decision: Decision
        would_be = ""
        if score is None:
            degraded = why
            rule = hit.rule if hit else why
            decision = hit.decision if hit else "approve"
        else:
            decision = decide(score, self._decisions)
            if decision == "block" and self._is_held_out(
                request, hit is not None and hit.decision == "block"
            ):
                variant, would_be, decision, rule = "holdout", decision, "approve", ""
                self.counts.let_through(request.amount_minor, score)
            else:
                decision, rule = stricter(hit, decision)
        version = model.version if model is not None else None
        self._write(case, variant, version or "", score, decision, rule, trouble, would_be=would_be)
        self.counts.answered(variant, decision, hit.rule if hit else "", degraded)
        if case.for_shadow:
            # runs when this request's answer is on its way
            asyncio.get_running_loop().call_soon(self._offer_shadow, case, read_seconds)
        return ScoreAnswer(
            request_id=case.request_id,
            transaction_id=request.transaction_id,
            score=score,
            decision=decision,
            rule=rule,
            model_version=version,
            variant=variant,
            degraded=degraded,
        )

    def _request_id(self) -> str:
        """32 hexadecimal digits, as of a UUID: half of them the process drew when it began, half count."""
        return f"{self._drawn}{next(self._number):016x}"

    def rule_of(self, request: ScoreRequest, values: list[float], decision: Decision) -> tuple[Decision, str]:
        """(decision, rule) of the rules and a model's decision together, for an explanation."""
        hit = self._rules.apply(request.customer_id, request.terminal_id, request.amount_minor, values)
        return stricter(hit, decision)

    async def _read(self, event: Event) -> tuple[list[float] | None, str]:
        try:
            return await self._features.vector(event), ""
        except Exception as error:  # whatever the store's trouble, the rules answer
            return None, f"features: {error}"[:ERROR_CHARACTERS]

    def _known(self, event: Event, values: list[float] | None) -> tuple[list[float] | None, str]:
        """What the rules may read, and what is amiss with the velocity features."""
        if values is None:
            return self._features.last_known(event), ""
        if self._no_velocity is not None and values[self._no_velocity] == 1.0:
            return self._features.last_known(event), "velocity_unavailable"
        return values, ""

    def _is_held_out(self, request: ScoreRequest, denied: bool) -> bool:
        return not denied and held_out(request.transaction_id, self._serving.holdout_share, self._salt)

    async def _first_that_answers(self, case: _Case) -> tuple[ServedModel | None, Variant, float | None, str]:
        """Model, variant and score; or none of them, and why."""
        state = case.state
        if case.values is None:
            return None, "rules", None, "features_unavailable"
        models: list[tuple[Variant, ServedModel | None]] = [("champion", state.champion)]
        if case.assigned == "canary":
            models.insert(0, ("canary", state.challenger))
        why = "no_model"
        for name, model in models:
            if model is None:
                continue
            try:
                return model, name, await self._score(model, case), ""
            except TimeoutError:
                why = "too_late"
                self._write(case, name, model.version, None, "", "", "no score in time")
            except Exception as error:  # a model's failure is logged and the next one answers
                why = "model_failed"
                self._write(case, name, model.version, None, "", "", first_line(error)[:ERROR_CHARACTERS])
        return None, "rules", None, why

    async def _score(self, model: ServedModel, case: _Case) -> float:
        """A score; one of a slow model within the time that is left, of a quick one at once."""
        values = case.values or []
        if not model.slow:
            return model.score(values)
        if self._slow_waiting >= SLOW_WAITING:
            raise SluiceError(f"overloaded: {self._slow_waiting} requests wait for slow models")
        self._slow_waiting += 1
        try:
            left = case.started + self._serving.answer_seconds - time.perf_counter()
            async with asyncio.timeout(max(0.0, left)):
                return await asyncio.get_running_loop().run_in_executor(self._slow, model.score, values)
        finally:
            self._slow_waiting -= 1

    def _offer_shadow(self, case: _Case, read_seconds: float) -> None:
        try:
            self._shadow.put_nowait((case, read_seconds))
        except queue.Full:
            self.counts.shadow_dropped += 1

    def _score_shadows(self) -> None:
        while (item := self._shadow.get()) is not None:
            case, read_seconds = item
            model, now = case.state.challenger, self._state()
            if model is None or case.values is None:
                continue
            if (
                now.challenger is None
                or now.challenger.version != model.version
                or now.step != case.state.step
            ):
                self.counts.shadow_late += 1  # its step is over: it would hold up the next one's
                continue
            started, spent = time.perf_counter(), time.thread_time()
            score: float | None = None
            decision, trouble = "", ""
            try:
                score = model.score(case.values)
                decision = decide(score, self._decisions)
            except Exception as error:  # a shadow's failure is a row of the log
                score, trouble = None, first_line(error)[:ERROR_CHARACTERS]
            seconds = read_seconds + time.perf_counter() - started
            spent = time.thread_time() - spent  # waiting for a busy machine makes nothing slow
            self._write(case, "shadow", model.version, score, decision, "", trouble, seconds=seconds)
            if spent > SLOW_SECONDS:
                self._stopping.wait(spent * (1 / SHADOW_SHARE - 1))

    def _write(
        self,
        case: _Case,
        variant: str,
        version: str,
        score: float | None,
        decision: str,
        rule: str,
        error: str,
        *,
        seconds: float | None = None,
        would_be: str = "",
    ) -> None:
        request = case.request
        taken = time.perf_counter() - case.started if seconds is None else seconds
        self._log.put(
            Prediction(
                request_id=case.request_id,
                transaction_id=request.transaction_id,
                event_time=request.event_time,
                customer_id=request.customer_id,
                terminal_id=request.terminal_id,
                amount_minor=request.amount_minor,
                model_version=version,
                variant=variant,
                step=case.state.step,
                score=score,
                decision=decision,
                rule=rule,
                error=error,
                latency_ms=taken * 1000.0,
                served_at=time.time(),
                names=self._features.names,
                features=in_one_block(case.values),
                feature_version=self._features.version,
                would_be=would_be,
            )
        )

    def counters(self) -> dict[str, Any]:
        """Answers by variant, and what the shadow could not keep up with."""
        return {"answers": self.counts.by_variant(), "shadow_dropped": self.counts.shadow_given_up}


def event_of(request: ScoreRequest) -> Event:
    """What the velocity store knows of a request."""
    return Event(
        transaction_id=request.transaction_id,
        event_time=request.event_time,
        customer_id=request.customer_id,
        terminal_id=request.terminal_id,
        amount_minor=request.amount_minor,
    )
