"""Who calls: the clients that SLUICE_TOKEN names, each with a secret of its own.

In: one secret, or NAME=SECRET pairs separated by commas. Out: the client's name of an Authorization header.
Secrets are kept and compared as digests, so the time of a comparison says nothing about them.
Errors: SluiceError where the variable is not readable; it never repeats a secret.
"""

from __future__ import annotations

import re
from hashlib import blake2b

from jobs.conf.settings import TOKEN
from jobs.core import SluiceError

# a secret in base64 may end with "=": what begins with it is no pair
PAIR = re.compile(r"([A-Za-z0-9][A-Za-z0-9_.-]{0,63})=([^=,\s][^,\s]*)")
ONLY = "token"  # the client of a secret without a name
SCHEME = b"bearer "


class Tokens:
    """The clients of one service; empty where none is needed."""

    def __init__(self, text: str) -> None:
        self._names: dict[bytes, str] = {}
        for number, (name, secret) in enumerate(_clients(text), 1):
            digest = _digest(secret.encode())
            if digest in self._names or name in self._names.values():
                raise SluiceError(f"{TOKEN}: part {number}: client {name}, or its secret, is there twice")
            self._names[digest] = name

    def __bool__(self) -> bool:
        return bool(self._names)

    def client_of(self, header: bytes | None) -> str | None:
        """The client of a request's Authorization header; None where it shows no known secret."""
        if header is None or header[:7].lower() != SCHEME:
            return None
        return self._names.get(_digest(header[7:].strip()))


def own_headers(text: str) -> dict[str, str]:
    """What this installation itself sends to its scoring service: the first secret of SLUICE_TOKEN.

    Raises:
        SluiceError: the variable is not readable.
    """
    clients = _clients(text)
    return {"Authorization": f"Bearer {clients[0][1]}"} if clients else {}


def _clients(text: str) -> list[tuple[str, str]]:
    """Each client's name and secret."""
    parts = [part.strip() for part in text.split(",")] if text else []
    pairs = [PAIR.fullmatch(part) for part in parts]
    if not any(pairs):
        return [(ONLY, text)] if text else []
    found = []
    for number, pair in enumerate(pairs, 1):
        if pair is None:
            raise SluiceError(f"{TOKEN}: part {number} is not NAME=SECRET, as other parts are")
        found.append((pair[1], pair[2]))
    return found


def _digest(secret: bytes) -> bytes:
    return blake2b(secret, digest_size=32).digest()
