"""A client of Redis from SLUICE_REDIS_URL, for the stores, the scoring service and Spark's executors."""

from __future__ import annotations

import json
from typing import Any

from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from jobs.core import SluiceError

TEXTS = ("username", "password")  # the other options are numbers and switches
REQUEST_WAITS, JOB_WAITS = 0.5, 30.0  # seconds without an answer


def connect(address: str, waits: float = JOB_WAITS) -> Redis:
    """A client for `host:port,password=…,db=…`, Feast's own form; it connects when it is first used.

    It tries once more at once, for a connection that went stale, and then says so: a request cannot wait.

    Raises:
        SluiceError: the address names no host and port, or an option that the client does not know.
    """
    place, *options = address.split(",")
    host, _, port = place.rpartition(":")
    named = dict(option.split("=", 1) for option in options if "=" in option)
    if not host or not port.isdigit() or len(named) != len(options):
        raise SluiceError("SLUICE_REDIS_URL must read like 127.0.0.1:6379 or redis:6379,password=secret,db=0")
    known: dict[str, Any] = {"socket_connect_timeout": waits, "socket_timeout": waits}
    known |= {name: value if name in TEXTS else _parsed(value) for name, value in named.items()}
    try:
        return Redis(host=host, port=int(port), retry=Retry(NoBackoff(), 1), **known)
    except TypeError:
        names = ", ".join(sorted(named))
        raise SluiceError(f"SLUICE_REDIS_URL: Redis at {place} has no such option among {names}") from None


def _parsed(value: str) -> Any:
    try:
        return json.loads(value)
    except json.JSONDecodeError:
        return value
