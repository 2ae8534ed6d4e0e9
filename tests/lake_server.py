"""A real S3-compatible server for the lake: it checks signatures and honours conditional writes.

rclone, which serves the sources, ignores conditions. versitygw keeps objects as files of a folder. It is
built once, at a pinned version whose contents Go checks against its public sum database, into `.tools/`:
`python -m tests.lake_server`. A test that needs it is skipped only where there is neither Go nor the binary.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from jobs.conf.settings import PROJECT_ROOT
from jobs.locks import file_lock
from tests.s3_server import free_port, listens

VERSION = "v1.8.0"
MODULE = f"github.com/versity/versitygw/cmd/versitygw@{VERSION}"
FOLDER = PROJECT_ROOT / ".tools" / f"versitygw-{VERSION}"
BINARY = FOLDER / "versitygw"
BUCKET = "lake"
NEITHER = "neither Go nor versitygw is there: the S3 server of the lake's tests cannot be built"


@dataclass
class LakeServer:
    """Where it listens, and what a client needs to be let in."""

    endpoint: str
    folder: Path  # one subfolder a bucket
    key_id: str
    secret: str
    process: subprocess.Popen[bytes]

    def environment(self, endpoint: str = "") -> dict[str, str]:
        """The variables that every client reads; another endpoint for a way around."""
        return {
            "AWS_ENDPOINT_URL": endpoint or self.endpoint,
            "AWS_ACCESS_KEY_ID": self.key_id,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def objects(self, under: str) -> list[str]:
        """Every object below a prefix of the bucket."""
        folder = self.folder / BUCKET / under
        return sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())


def build() -> Path:
    """The server's binary, built where it is missing."""
    if BINARY.exists():
        return BINARY
    if shutil.which("go") is None:
        pytest.skip(NEITHER)
    with file_lock(FOLDER.parent / ".versitygw.lock"):
        if not BINARY.exists():
            with tempfile.TemporaryDirectory(dir=FOLDER.parent) as scratch:
                command = ["go", "install", "-trimpath", "-ldflags=-s -w", MODULE]
                environment = {**os.environ, "GOBIN": scratch, "GOFLAGS": "-mod=mod", "CGO_ENABLED": "0"}
                subprocess.run(command, env=environment, check=True, timeout=1800, cwd=scratch)
                FOLDER.mkdir(exist_ok=True)
                (Path(scratch) / "versitygw").replace(BINARY)
    return BINARY


@contextmanager
def serve_lake(folder: Path) -> Iterator[LakeServer]:
    """Serve a folder with one bucket until the block ends."""
    (folder / BUCKET).mkdir(parents=True, exist_ok=True)
    port, key_id, secret = free_port(), "key" + secrets.token_hex(6), secrets.token_hex(20)
    process = subprocess.Popen(
        [str(build()), "--port", f"127.0.0.1:{port}", "--quiet", "--keep-alive", "posix", str(folder)],
        # by the environment, which other users cannot read
        env={**os.environ, "ROOT_ACCESS_KEY": key_id, "ROOT_SECRET_KEY": secret},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 30
        while not listens(port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("versitygw did not start to listen")
            time.sleep(0.05)
        yield LakeServer(f"http://127.0.0.1:{port}", folder, key_id, secret, process)
    finally:
        process.terminate()
        process.wait(timeout=10)


if __name__ == "__main__":
    sys.stdout.write(f"{build() if BINARY.exists() or shutil.which('go') else NEITHER}\n")
