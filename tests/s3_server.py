"""A real S3-compatible server that checks signatures, for tests: rclone serving a folder on loopback."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class S3Server:
    """Where it listens and what a client needs to be let in."""

    endpoint: str
    folder: Path  # one subfolder a bucket
    key_id: str
    secret: str

    def environment(self) -> dict[str, str]:
        """The variables that boto3 reads."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.key_id,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_EC2_METADATA_DISABLED": "true",
        }


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def listens(port: int) -> bool:
    """Whether somebody answers on a port."""
    with socket.socket() as probe:
        probe.settimeout(0.2)
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def serve_s3(folder: Path) -> Iterator[S3Server]:
    """Serve a folder until the block ends; its subfolders are the buckets."""
    folder.mkdir(parents=True, exist_ok=True)
    port, key_id, secret = free_port(), "test" + secrets.token_hex(6), secrets.token_hex(20)
    rclone = Path(sys.executable).parent / "rclone"
    process = subprocess.Popen(
        [str(rclone), "serve", "s3", "--config", os.devnull, "--addr", f"127.0.0.1:{port}",
         str(folder)],
        # by the environment, which other users cannot read; quoted, because the variable is a CSV list
        env={**os.environ, "RCLONE_AUTH_KEY": f'"{key_id},{secret}"'},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        _wait_for(port, process)
        yield S3Server(f"http://127.0.0.1:{port}", folder, key_id, secret)
    finally:
        process.terminate()
        process.wait(timeout=10)


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    for _ in range(150):
        if process.poll() is not None:
            raise RuntimeError(f"rclone ended with {process.returncode}")
        if listens(port):
            return
        time.sleep(0.1)
    raise RuntimeError("rclone did not start to listen within 15 s")
