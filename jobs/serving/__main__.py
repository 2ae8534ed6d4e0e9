"""`python -m jobs.serving`: the scoring service at the address of SLUICE_SCORING_URI."""

from __future__ import annotations

import argparse
import ipaddress
import logging
import os
import signal
import socket
import sys
from urllib.parse import urlsplit

from jobs.conf.settings import TOKEN, Settings, settings
from jobs.core import SluiceError
from jobs.ending import leave
from jobs.serving.handover import Successor, meeting_place

GRACE_SECONDS = 10
KEEP_ALIVE_SECONDS = 75  # an idle connection; longer than the clients' own, who then close first
# MLflow and Feast import these when they can; scoring needs none, and they cost seconds and memory
UNUSED = ("pyspark", "torch", "xgboost", "airflow")


def keep_out() -> None:
    """Make the imports of what scoring never needs fail, in this process only."""
    for name in UNUSED:
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]


def address_of(uri: str) -> tuple[str, int]:
    """Host and port to listen on.

    Raises:
        SluiceError: the address is not http://HOST:PORT.
    """
    parts = urlsplit(uri)
    try:
        port = parts.port
    except ValueError:
        port = None
    if parts.scheme != "http" or not parts.hostname or port is None:
        raise SluiceError(f"SLUICE_SCORING_URI is {uri!r}: give it as http://127.0.0.1:8000")
    return parts.hostname, port


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def listening_socket(host: str, port: int) -> socket.socket:
    """The bound socket, before anything heavy is loaded.

    Raises:
        SluiceError: the port is busy or the address is not one of this machine.
    """
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(512)
    except OSError as error:
        listener.close()
        raise SluiceError(
            f"scoring service: cannot listen on {host}:{port} ({error.strerror or error}): "
            "stop what uses the port, or set SLUICE_SCORING_URI"
        ) from None
    return listener


def serve(config: Settings, token: str, *, take_over: bool = False) -> None:
    """Serve until SIGTERM or SIGINT; the prediction log is written before it ends.

    With `take_over` the running service's own socket is used, and it stops once this one is warm.
    """
    host, port = address_of(config.scoring_uri)
    if not token and not is_loopback(host):
        raise SluiceError(
            f"scoring service: {host} can be reached from outside: set {TOKEN} to a "
            "secret that callers send as a bearer token, or listen on 127.0.0.1"
        )
    place = meeting_place(config, port)
    successor = Successor(place) if take_over else None
    listener = successor.listener if successor else listening_socket(host, port)
    keep_out()
    import uvicorn

    from jobs.conf.policy import policy_of
    from jobs.serving.app import create_app
    from jobs.serving.server import Server

    # uvicorn stops gracefully and then raises the signal once more, for whoever listened before it
    signal.signal(signal.SIGTERM, lambda _number, _frame: None)
    sys.setswitchinterval(0.0001)  # background threads give way to requests sooner
    app = create_app(config, token=token)
    options = uvicorn.Config(
        app,
        workers=1,
        http="httptools",
        access_log=False,
        log_level="warning",
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    server = Server(options, app.state.service, policy_of(config).serving)
    server.hand_over_at(place, listener, successor)
    server.run(sockets=[listener])


def main() -> int:
    """Run the service; 0 after a graceful stop, 1 with one sentence where it cannot start."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    words = argparse.ArgumentParser(prog="python -m jobs.serving", description=__doc__)
    words.add_argument(
        "--take-over",
        action="store_true",
        help="take the port of the running service, which stops once this one is warm; no request is lost",
    )
    take_over: bool = words.parse_args().take_over
    # taken out, so that neither settings nor a child process ever shows it
    token = os.environ.pop(TOKEN, "")
    try:
        serve(settings(), token, take_over=take_over)
    except SluiceError as error:
        print(f"sluice: {error}", file=sys.stderr)  # noqa: T201
        return 1
    except KeyboardInterrupt:
        return 0
    return 0


if __name__ == "__main__":
    leave(main())
