"""What stands in for or before a Redis where a real one cannot be made to misbehave."""

from __future__ import annotations

import re
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

ECHO = re.compile(rb"ECHO\r\n\$\d+\r\n(\w+)\r\n")


@contextmanager
def listening(serve: Callable[[socket.socket], None]) -> Iterator[int]:
    """The port of loopback where each connection is served by a thread of its own."""
    with socket.create_server(("127.0.0.1", 0)) as place:

        def accept() -> None:
            with suppress(OSError):  # the block has ended
                while True:
                    threading.Thread(target=serve, args=(place.accept()[0],), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield place.getsockname()[1]


@contextmanager
def echoes(unasked: bytes) -> Iterator[int]:
    """A server that answers ECHO, and behind the second answer says what nobody asked for."""

    def serve(client: socket.socket) -> None:
        answered = 0
        with client:
            while data := client.recv(1 << 16):
                out = b"" if ECHO.search(data) else b"+OK\r\n" * data.count(b"*")
                for word in ECHO.findall(data):
                    answered += 1
                    out += b"$%d\r\n%s\r\n" % (len(word), word) + (unasked if answered == 2 else b"")
                client.sendall(out)

    with listening(serve) as port:
        yield port


@contextmanager
def encrypted(port: int, folder: Path, connections: list[int]) -> Iterator[str]:
    """TLS before a server on a port: host, port and options of SLUICE_REDIS_URL; each connection is noted."""
    certificate = _certificate(folder)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)

    def carry(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                target.sendall(data)
        with suppress(OSError):
            target.shutdown(socket.SHUT_RDWR)

    def serve(client: socket.socket) -> None:
        connections.append(1)
        with (
            context.wrap_socket(client, server_side=True) as inside,
            socket.create_connection(("127.0.0.1", port)) as outside,
        ):
            threading.Thread(target=carry, args=(outside, inside), daemon=True).start()
            carry(inside, outside)

    with listening(serve) as place:
        yield f"127.0.0.1:{place},ssl=true,ssl_ca_certs={certificate}"


def _certificate(folder: Path) -> Path:
    """A key and its own certificate for this machine, for a day, in one file."""
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=True)
        .sign(key, hashes.SHA256())
    )
    file = folder / "certificate.pem"
    file.write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        + signed.public_bytes(Encoding.PEM)
    )
    return file
