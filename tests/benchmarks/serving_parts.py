"""Processor time of each part of one request, in a process set up as the scoring service is.

Each part runs alone in a loop over fresh transactions; the time is that of the thread, without what Redis
takes. The log's is that of the whole process, its rows written to the table.
"""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import uvloop

from jobs.conf.settings import Settings
from jobs.core import midnight
from tests.benchmarks.serving_data import DAY, Size

ROOT = Path(__file__).parents[2]
TURNS = 4000
FIRST_ID = 900_000_000


def parts_of(settings: Settings) -> dict[str, float]:
    """Microseconds of each part."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.serving_parts"],
        cwd=ROOT,
        input=settings.model_dump_json(),  # by a pipe: it holds Redis's password
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"the parts of a request could not be timed: {done.stderr[-2000:]}")
    found: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def requests() -> Iterator[bytes]:
    """Bodies as the load has them."""
    random, size = np.random.default_rng(5), Size()
    start = midnight(DAY + timedelta(days=1)) + timedelta(hours=20)
    for number in range(TURNS):
        moment = start + timedelta(milliseconds=number)
        body = {
            "transaction_id": FIRST_ID + number,
            "event_time": moment.isoformat().replace("+00:00", "Z"),
            "customer_id": 1 + int(size.customers * random.random() ** 1.5),
            "terminal_id": 1 + int(size.terminals * random.random() ** 1.5),
            "amount_minor": 100 + int(np.exp(8 + random.normal())),
        }
        yield json.dumps(body, separators=(",", ":")).encode()


def timed(call: Callable[[Any], Any], inputs: list[Any]) -> tuple[float, list[Any]]:
    """Microseconds of processor time for each input, the first twentieth left out, and what came out."""
    first = len(inputs) // 20
    results = [call(each) for each in inputs[:first]]
    start = time.thread_time()
    results += [call(each) for each in inputs[first:]]
    return (time.thread_time() - start) / (len(inputs) - first) * 1e6, results


async def asked_in_loop(features: Any, events: list[Any]) -> tuple[float, list[Any]]:
    """`timed` for what waits in an event loop."""
    first = len(events) // 20
    found = [await features._asked(event, record=True) for event in events[:first]]
    start = time.thread_time()
    found += [await features._asked(event, record=True) for event in events[first:]]
    return (time.thread_time() - start) / (len(events) - first) * 1e6, found


def measure(settings: Settings) -> dict[str, float]:
    from jobs.serving.__main__ import keep_out

    keep_out()
    from jobs.conf.policy import policy_of
    from jobs.features.request import assemble_values
    from jobs.serving.app import Service
    from jobs.serving.bundle import decide
    from jobs.serving.endpoints import ONE
    from jobs.serving.messages import ScoreAnswer
    from jobs.serving.request_features import StoredFeatures
    from jobs.serving.routing import assign
    from jobs.serving.scoring import event_of

    policy = policy_of(settings)
    service = Service(settings, policy, StoredFeatures(settings))
    service.features.connect()
    service.follower.poll()
    champion = service.follower.state.champion
    assert champion is not None, service.follower.last_error
    gc.collect()
    gc.freeze()  # as the service does: the libraries' objects are no part of a request
    features: Any = service.features
    parts: dict[str, float] = {}

    bodies = list(requests())
    parts["validation"], asked = timed(ONE.validate_json, bodies)
    events = [event_of(request) for request in asked]
    parts["features: stored and velocity, one round trip"], found = uvloop.run(
        asked_in_loop(features, events)
    )
    parts["features: computed"], rows = timed(
        lambda given: assemble_values(given[0].amount_minor, given[0].event_time, given[1][1], given[1][0]),
        list(zip(events, found, strict=True)),
    )
    rules, salt = service.scorer._rules, policy.canary.salt
    parts["rules and routing"], _ = timed(
        lambda given: (
            rules.apply(given[0].customer_id, given[0].terminal_id, given[0].amount_minor, given[1]),
            assign(given[0].customer_id, 0, salt, challenger=False),
        ),
        list(zip(asked, rows, strict=True)),
    )
    parts["model"], scores = timed(champion.score, rows)
    decided = [decide(score, policy.decisions) for score in scores]
    parts["answer"], _ = timed(
        lambda given: ScoreAnswer(
            request_id="0" * 32, transaction_id=given[0].transaction_id, score=given[1], decision=given[2],
            rule="", model_version="1", variant="champion", degraded="",
        ).model_dump_json(),
        list(zip(asked, scores, decided, strict=True)),
    )  # fmt: skip
    parts["prediction log"] = log_time(service, asked, rows, scores)
    band = policy.decisions
    second = sum(band.blend_from <= score <= band.blend_to for score in scores) / len(scores)
    print(f"share of scores in the blended band: {second:.3f}", file=sys.stderr)
    return parts


def log_time(service: Any, asked: list[Any], rows: list[Any], scores: list[float]) -> float:
    """Microseconds of putting a row and of writing it, a second's worth of rows at a time."""
    from jobs.serving.scoring import _Case

    chunk = 1000
    state = service.follower.state
    cases = [
        (_Case(request, f"{place:032x}", state, "champion", time.perf_counter(), row), score)
        for place, (request, row, score) in enumerate(zip(asked, rows, scores, strict=True))
    ]

    def put(some: list[tuple[Any, float]]) -> None:
        for case, score in some:
            service.scorer._write(case, "champion", "1", score, "approve", "", "")
        assert service.log.flush(), service.log.last_error

    put(cases[:chunk])
    start = time.process_time()
    for first in range(chunk, len(cases), chunk):
        put(cases[first : first + chunk])
    return (time.process_time() - start) / (len(cases) - chunk) * 1e6


if __name__ == "__main__":
    found = measure(Settings.model_validate_json(sys.stdin.read()))
    sys.stdout.write(f"\n{json.dumps(found)}\n")
