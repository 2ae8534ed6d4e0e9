"""Health of a server from inside its container, without curl and without importing the project.

`http URL` wants an answer with 200, `port PORT` an open port on this host, and
`airflow API NAME` a fresh heartbeat of the scheduler, dag_processor or triggerer, as the api-server sees it.
"""

from __future__ import annotations

import json
import socket
import sys
import urllib.request
from typing import Any

TIMEOUT_SECONDS = 5.0


def main(arguments: list[str]) -> int:
    """0 when it is healthy, else 1."""
    try:
        return 0 if healthy(*arguments) else 1
    except OSError as error:
        sys.stderr.write(f"{error}\n")
        return 1


def healthy(kind: str, target: str, name: str = "") -> bool:
    """Whether the server is healthy.

    Raises:
        OSError: it does not answer.
    """
    if kind == "http":
        with _get(target) as answer:
            return bool(answer.status == 200)
    if kind == "port":
        socket.create_connection(("127.0.0.1", int(target)), timeout=TIMEOUT_SECONDS).close()
        return True
    if kind == "airflow":
        with _get(f"{target}/api/v2/monitor/health") as answer:
            found: dict[str, Any] = json.load(answer)
        return bool(found[name]["status"] == "healthy")
    sys.exit(f"healthcheck: {kind!r} is none of http, port, airflow")


def _get(url: str) -> Any:
    return urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS)  # noqa: S310 - the address is in compose.yaml


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
