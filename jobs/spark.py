"""Spark Connect client: the session a job talks through to the warm Spark server."""

from __future__ import annotations

import socket
from urllib.parse import urlsplit

from pyspark.errors import PySparkException
from pyspark.sql import SparkSession

from jobs.conf.settings import Settings
from jobs.core import SluiceError

DEFAULT_PORT = 15002
_SESSIONS: dict[str, SparkSession] = {}  # of this process, by address
REACHABLE_SECONDS = 3.0  # gRPC itself would retry for minutes before it says so


def spark_session(settings: Settings) -> SparkSession:
    """A session on the Spark Connect server of these settings, in UTC.

    Raises:
        SluiceError: nothing listens at the address, or what listens is no Spark Connect server.
    """
    address = settings.spark_remote
    _require_listener(address)
    for attempt in (1, 2):
        session = _SESSIONS.pop(address, None)
        try:
            # getOrCreate would give the session of another server, where this process has one
            session = session or SparkSession.builder.remote(address).create()
            session.conf.set("spark.sql.session.timeZone", "UTC")
        except (PySparkException, OSError, ValueError) as error:
            # A session kept from before a restart of the server is dead: drop it and try once more.
            if session is not None:
                _forget(session)
            if attempt == 2:
                raise SluiceError(
                    f"Spark at {address} (SLUICE_SPARK_REMOTE) gave no session: {error}; "
                    "look into the log of the Spark server and restart it with `make down up`"
                ) from None
        else:
            _SESSIONS[address] = session
            return session
    raise AssertionError("unreachable")


def close_session(address: str) -> None:
    """End this process's session there, before its server stops: it would be tried for minutes at exit."""
    session = _SESSIONS.pop(address, None)
    if session is not None:
        _forget(session)


def _forget(session: SparkSession) -> None:
    try:
        session.stop()
    except (PySparkException, OSError):
        return


def _require_listener(address: str) -> None:
    parts = urlsplit(address)
    if parts.scheme != "sc" or not parts.hostname:
        raise SluiceError(
            f"Spark address {address!r} (SLUICE_SPARK_REMOTE) must read like sc://127.0.0.1:15002"
        )
    try:
        place = (parts.hostname, parts.port or DEFAULT_PORT)
        socket.create_connection(place, timeout=REACHABLE_SECONDS).close()
    except OSError as error:
        raise SluiceError(
            f"no Spark server answers at {address} ({error.strerror or error}); start the services "
            "with `make up`, or set SLUICE_SPARK_REMOTE to one that runs"
        ) from None
