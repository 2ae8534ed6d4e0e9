"""What Prometheus is told: counted by plain dictionaries on the request path, shaped when it asks.

In: requests by path and status, the scorer's, the log's and the follower's own counters. Out: text in
Prometheus' format, by prometheus-client. Every process counts for itself.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

OTHER = "other"  # of all paths that do not exist, so that nobody can make labels without end
BUCKETS = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)


class Requests:
    """Requests by path and status, and how long they took."""

    def __init__(self, paths: Iterable[str]) -> None:
        self._paths = frozenset(paths)
        self._statuses: dict[tuple[str, int], int] = {}
        self._seconds: dict[str, list[float]] = {}  # a count per bucket, the last without an end, and the sum

    def count(self, path: str, status: int, seconds: float) -> None:
        """One request that was answered."""
        if path not in self._paths:
            path = OTHER
        key = (path, status)
        self._statuses[key] = self._statuses.get(key, 0) + 1
        counts = self._seconds.get(path)
        if counts is None:
            counts = self._seconds[path] = [0.0] * (len(BUCKETS) + 2)
        counts[bisect_left(BUCKETS, seconds)] += 1
        counts[-1] += seconds

    def collect(self) -> Iterator[Metric]:
        """As Prometheus has it."""
        requests = CounterMetricFamily(
            "sluice_requests", "answered requests by path and status", labels=["path", "status"]
        )
        for (path, status), count in list(self._statuses.items()):
            requests.add_metric([path, str(status)], count)
        yield requests
        latency = HistogramMetricFamily(
            "sluice_request_seconds", "from a request's arrival to its answer", labels=["path"]
        )
        for path, counts in list(self._seconds.items()):
            so_far = 0.0
            buckets = []
            for bound, number in zip((*map(str, BUCKETS), "+Inf"), counts, strict=False):
                so_far += number
                buckets.append((bound, so_far))
            latency.add_metric([path], buckets, sum_value=counts[-1])
        yield latency


class Figures(Collector):
    """Collects from several sources, each of which makes its metrics anew."""

    def __init__(self, *sources: Callable[[], Iterator[Metric]]) -> None:
        self._sources = sources
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    def collect(self) -> Iterator[Metric]:
        """Every metric of every source."""
        for source in self._sources:
            yield from source()

    def text(self) -> bytes:
        """What /metrics answers."""
        return generate_latest(self._registry)


def counter(name: str, text: str, labels: list[str], values: dict[tuple[str, ...], float]) -> Metric:
    """A counter of some label values."""
    family = CounterMetricFamily(name, text, labels=labels)
    for key, value in values.items():
        family.add_metric(key, value)
    return family


def gauge(name: str, text: str, value: float) -> Metric:
    """A gauge without labels."""
    return GaugeMetricFamily(name, text, value=value)


def served_versions(champion: str | None, challenger: str | None, features: str) -> Metric:
    """Who serves, as the labels of an info metric."""
    return InfoMetricFamily(
        "sluice_serving",
        "versions that answer now, empty where there is none",
        value={
            "champion": champion or "",
            "challenger": challenger or "",
            "feature_version": features,
        },
    )
