"""The scoring service under load, beside `mlflow models serve`, `feast serve` and the bare framework.

The server has one core, the load another; Redis and MLflow's registry share the load's where there are only
two. Everything is on: token, velocity, rules, routing, prediction log. BENCH_SECONDS shortens the long run.
"""

from __future__ import annotations

import os
import secrets
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from jobs.conf.settings import TOKEN, Settings
from tests.benchmarks.__main__ import Case, console
from tests.benchmarks.serving_data import Installed, Size, add_shadow, install
from tests.benchmarks.serving_load import (
    CORES,
    OTHER_CORE,
    SERVER_CORE,
    Client,
    Loaded,
    Server,
    serving,
    why_not,
)
from tests.benchmarks.serving_parts import parts_of
from tests.benchmarks.serving_peers import (
    BIN,
    FEAST_BODY,
    feast_serve,
    framework_alone,
    mlflow_bodies,
    mlflow_models_serve,
)
from tests.redis_server import serve_redis
from tests.s3_server import free_port

RATES = (100, 500, 1000, 1200, 2000, 2500)
SOAKED = (2000, 1000, 500, 100)  # the long run has the highest of these that is held
HELD_P99 = 50.0  # milliseconds: beyond it a queue builds up and the rate is not held
GROWTH_MB = 8.0  # of a process of some 400: allocators keep what a peak took
WHOLE = '"degraded":""'  # with a score, and every feature read
THROUGH_FEAST = "tests.benchmarks.serving_through_feast"
CLIENTS = 32  # each may send the policy's requests_per_second


@dataclass(frozen=True)
class Times:
    """Seconds of each stretch."""

    warm: int = 10
    step: int = 20
    soak: int = 600
    peer: int = 15


def run() -> list[Case]:
    """Every figure of serving."""
    reason = why_not()
    if reason:
        print(f"bench serving: skipped, {reason}")
        return []
    asked = os.environ.get("BENCH_SECONDS", "")
    times = Times(soak=int(asked)) if asked else Times()
    print(f"load average at the start: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench_serving")))
        os.sched_setaffinity(0, {OTHER_CORE})  # Redis inherits it
        redis = stack.enter_context(serve_redis(home / "redis"))
        os.sched_setaffinity(0, CORES)
        installed = install(home, redis.url, free_port(), Size())
        client = Client(home, installed.first_moment, installed.size.customers, installed.size.terminals)
        registry = stack.enter_context(mlflow_registry(installed.settings, home))
        return measure(installed, client, registry, home, times)


def measure(installed: Installed, client: Client, registry: Server, home: Path, times: Times) -> list[Case]:
    """Ours, the peers on the same core, and where the time goes."""
    bundle = home / "model" / "bundle"
    cases = [
        Case(f"champion: trees ({installed.graph_bytes / 1e6:.1f} MB of ONNX)", installed.trees, None,
             "trees", "shown", True)
    ]  # fmt: skip
    tokens = [secrets.token_hex(16) for _ in range(CLIENTS)]
    with scoring(installed.settings, registry, tokens, home / "scoring.log") as server:
        own, saturated = our_cases(client, server, tokens, times)
        cases += own
    with scoring(installed.settings, registry, tokens, home / "through.log", module=THROUGH_FEAST) as server:
        cases += through_feast_cases(client, server, tokens, times)
    add_shadow(installed.settings, bundle)
    with scoring(installed.settings, registry, tokens, home / "shadow.log") as server:
        warm(client, server, tokens, times)
        shadowed = load(client, server, tokens, 0, times.peer)
        cases.append(rate_case("saturation with a challenger in the shadow", shadowed, None, "shown"))
    with framework_alone(bundle, home / "alone.log") as server:
        client.run(server, rate=0, seconds=2)
        alone = client.run(server, rate=0, seconds=times.peer, expect='"score"')
    with mlflow_models_serve(installed.settings, installed.model, home / "models.log") as server:
        client.run(server, rate=0, seconds=2, path="/invocations", bodies=mlflow_bodies())
        peer = client.run(
            server,
            rate=0,
            seconds=times.peer,
            path="/invocations",
            bodies=mlflow_bodies(),
            expect="predictions",
        )
    with feast_serve(installed.settings, home / "feast_serve", home / "feast.log") as server:
        client.run(server, rate=0, seconds=2, path="/get-online-features", bodies=[FEAST_BODY])
        feast = client.run(
            server, rate=0, seconds=times.peer, path="/get-online-features", bodies=[FEAST_BODY],
            expect="PRESENT",
        )  # fmt: skip
    cases += peer_cases(saturated, alone, peer, feast)
    cases += time_cases(installed.settings, saturated, alone, feast)
    if (os.cpu_count() or 1) <= 2:
        name = "replicas on more cores: not measured, one of two is the load's"
        cases.append(Case(name, 0, None, "", "shown", True))
    return cases


def our_cases(client: Client, server: Server, tokens: list[str], times: Times) -> tuple[list[Case], Loaded]:
    """Each rate, saturation, and the long run."""
    warm(client, server, tokens, times)
    cases, held = [], set()
    for rate in RATES:
        found = load(client, server, tokens, rate, times.step)
        if found.errors == 0 and found.p99 <= HELD_P99:
            held.add(rate)
        cases += rate_cases(rate, found)
    arrivals = load(client, server, tokens, 500, times.step, random=True)
    cases.append(
        Case("500 requests/s at random moments: p99", arrivals.p99, None, "ms", "<= 5", arrivals.p99 <= 5)
    )
    saturated = load(client, server, tokens, 0, times.step)
    cases += [
        rate_case("packed rows, everything on: saturation, 16 connections", saturated, 2500, ">= 2500"),
        *latency_cases("saturation", saturated),
    ]
    rate = next((rate for rate in SOAKED if rate in held), 0)
    if rate:
        soaked = load(client, server, tokens, rate, times.soak)
        name = f"{rate:,} requests/s for {times.soak} s"
        cases += latency_cases(name, soaked)
        cases.append(Case(f"{name}: growth of memory (of {soaked.memory_mb[-1]:.0f} MB)", soaked.growth_mb,
                          None, "MB", f"<= {GROWTH_MB:g}", soaked.growth_mb <= GROWTH_MB))  # fmt: skip
    return cases, saturated


def through_feast_cases(client: Client, server: Server, tokens: list[str], times: Times) -> list[Case]:
    """The same service, which reads stored features by Feast's own call."""
    warm(client, server, tokens, times)
    name = "through Feast's API, everything on"
    found = load(client, server, tokens, 0, times.step)
    at_goal = load(client, server, tokens, 1200, times.step)
    return [
        rate_case(f"{name}: saturation", found, 1200, ">= 1200"),
        *latency_cases(f"{name}: saturation", found),
        *rate_cases(1200, at_goal, f"{name}: "),
    ]


def rate_cases(rate: int, found: Loaded, of: str = "") -> list[Case]:
    """Quantiles and errors at a rate, with the goals where there are."""
    limit = {500: 5.0, 1200: 10.0}.get(rate)
    return latency_cases(f"{of}{rate:,} requests/s", found, limit)


def latency_cases(name: str, found: Loaded, limit: float | None = None) -> list[Case]:
    met = limit is None or found.p99 <= limit
    return [
        Case(f"{name}: p50", found.p50, None, "ms", "shown", True),
        Case(f"{name}: p99", found.p99, None, "ms", f"<= {limit:g}" if limit else "shown", met),
        Case(f"{name}: p99.9", found.p999, None, "ms", "shown", True),
        Case(f"{name}: errors {found.example}".strip(), found.errors, None, "requests", "0",
             found.errors == 0),
    ]  # fmt: skip


def rate_case(name: str, found: Loaded, least: float | None, goal: str) -> Case:
    return Case(name, found.rate, None, "requests/s", goal, found.rate >= (least or 0))


def peer_cases(saturated: Loaded, alone: Loaded, peer: Loaded, feast: Loaded) -> list[Case]:
    """Throughput on the same core with the same model."""
    wrong = [each for each in (alone, peer, feast) if each.errors]
    told = f": {wrong[0].example}" if wrong else ""
    return [
        Case(f"errors of the peers{told}", sum(each.errors for each in wrong), None, "requests", "0",
             not wrong),
        Case("saturation beside mlflow models serve (its p99 "
             f"{peer.p99:.0f} ms; it reads no features and logs nothing)", saturated.rate, peer.rate,
             "requests/s", "ratio >= 5", saturated.rate >= 5 * peer.rate),
        Case("saturation beside FastAPI with one run of the graph", saturated.rate, alone.rate, "requests/s",
             "shown", True),
        Case("saturation beside feast serve, which only reads stored features", saturated.rate, feast.rate,
             "requests/s", "shown", True),
    ]  # fmt: skip


def time_cases(settings: Settings, saturated: Loaded, alone: Loaded, feast: Loaded) -> list[Case]:
    """Where the processor time of one request goes; what is not a part measured alone is the framework's."""
    parts = parts_of(settings)
    parts["framework: HTTP, event loop, the rest"] = saturated.processor_us - sum(parts.values())
    sheet = Table("part of one request", "µs", "share", title="processor time of the scoring service")
    for name, micros in parts.items():
        sheet.add_row(name, f"{micros:.0f}", f"{micros / saturated.processor_us:.0%}")
    sheet.add_row("all of it", f"{saturated.processor_us:.0f}", "100%")
    sheet.add_row("FastAPI with one run of the graph", f"{alone.processor_us:.0f}", "")
    sheet.add_row("feast serve, stored features only", f"{feast.processor_us:.0f}", "")
    console.print(sheet)
    cases = [Case(f"time in {name}", micros, None, "µs", "shown", True) for name, micros in parts.items()]
    return [
        *cases,
        Case("time of one request beside FastAPI with one run of the graph", saturated.processor_us,
             alone.processor_us, "µs", "shown", True),
    ]  # fmt: skip


def warm(client: Client, server: Server, tokens: list[str], times: Times) -> None:
    load(client, server, tokens, 300, times.warm)


def load(
    client: Client, server: Server, tokens: list[str], rate: float, seconds: int, *, random: bool = False
) -> Loaded:
    """Fresh transactions; an answer that rests on less than everything is an error."""
    found = client.run(
        server,
        rate=rate,
        seconds=seconds,
        headers=[f"Authorization: Bearer {token}" for token in tokens],
        expect=WHOLE,
        random=random,
    )
    print(
        f"  {rate or 'saturation':>10}  {found.rate:8.0f}/s  p50 {found.p50:.2f}  p99 {found.p99:.2f}  "
        f"p99.9 {found.p999:.2f} ms  errors {found.errors}  {found.processor_us:.0f} µs a request"
    )
    return found


@contextmanager
def scoring(
    settings: Settings, registry: Server, tokens: list[str], log: Path, module: str = "jobs.serving"
) -> Iterator[Server]:
    """The scoring service as `sluice up` starts it, on its core, once its champion answers."""
    port = free_port()
    environment = {
        "SLUICE_HOME": str(settings.home),
        "SLUICE_MLFLOW_URI": f"http://127.0.0.1:{registry.port}",
        "SLUICE_SCORING_URI": f"http://127.0.0.1:{port}",
        "SLUICE_ONLINE_STORE": "redis",
        "SLUICE_REDIS_URL": settings.redis_url,
        TOKEN: ",".join(f"client{number}={token}" for number, token in enumerate(tokens)),
    }
    command = [sys.executable, "-m", module]
    with serving(command, port, SERVER_CORE, "/ready", environment=environment, log=log) as server:
        yield server


@contextmanager
def mlflow_registry(settings: Settings, home: Path) -> Iterator[Server]:
    """The registry that the service asks once a second."""
    port = free_port()
    command = [str(BIN / "mlflow"), "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", settings.mlflow_uri]
    quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with serving(command, port, OTHER_CORE, "/health", environment=quiet, log=home / "registry.log") as one:
        yield one
