"""The last look of a promotion reaches a service that wants a token, whichever form the token has."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from jobs.conf.settings import TOKEN, Settings
from jobs.core import SluiceError
from jobs.promotion import confirm
from jobs.serving.tokens import Tokens


@contextmanager
def service(token: str) -> Iterator[str]:
    """A service that says which champion it serves, to those whom its tokens name."""
    tokens = Tokens(token)

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            header = self.headers.get("Authorization", "").encode()
            known = not tokens or tokens.client_of(header) is not None
            self.send_response(200 if known else 401)
            self.end_headers()
            self.wfile.write(json.dumps({"champion": "7"} if known else {"detail": "who?"}).encode())

        def log_message(self, *words: object) -> None:
            """Nothing."""

    with HTTPServer(("127.0.0.1", 0), Answers) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("token", ["", "one-secret", "with-padding==", "shop=S1,app=S2", " shop=S1 , app=S2"])
def test_a_champion_is_confirmed_with_the_token_that_the_service_has(
    home: Settings, monkeypatch: pytest.MonkeyPatch, token: str
) -> None:
    monkeypatch.setenv(TOKEN, token)
    with service(token) as address:
        receipt = confirm.run(confirm.Params(version="7"), home.model_copy(update={"scoring_uri": address}))
    assert receipt.facts["champion"] == "7"


def test_a_token_that_the_service_would_not_start_with_is_told_without_its_secrets(
    home: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(TOKEN, "shop=S1,S2")
    with pytest.raises(SluiceError, match=f"{TOKEN}: part 2") as refused:
        confirm.run(confirm.Params(version="7"), home)
    assert "S1" not in str(refused.value)
