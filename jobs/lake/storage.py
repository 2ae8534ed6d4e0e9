"""How delta-rs and Spark reach the tables, and what their errors mean to a person.

In: the lake's address. Out: options for delta-rs (credentials from the environment and nowhere else), the
spelling of the address that Spark knows, and one sentence for each thing that goes wrong. Those sentences
are made here from known parts: what the engines say themselves may hold keys and strings to sign.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from deltalake import DeltaTable
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError

from jobs.core import SluiceError
from jobs.s3_address import DEFAULT_REGION, REFUSED, SCHEME, is_s3, s3_address

KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
LOOPBACK = ("127.0.0.1", "localhost", "::1")
# a client that waits for minutes looks dead; a dropped connection is tried again before anybody hears of it
PATIENCE = {"max_retries": "3", "retry_timeout": "30s", "connect_timeout": "3s", "timeout": "60s"}
NO_ANSWER = ("error sending request", "Connection re", "timed out", "dns error", "connection closed")
DECORATION = re.compile(r"\x1b\[[0-9;]*m|↳")


class TableMissing(SluiceError):
    """There is no such table yet."""


class WrittenMeanwhile(SluiceError):
    """Another writer's commit came first: nothing of this one is in the table."""


class LeaseLost(SluiceError):
    """A writer's place ran out while it was held."""


def storage_options(address: str) -> dict[str, str] | None:
    """What delta-rs needs for this address; None for a folder.

    Raises:
        SluiceError: credentials are missing, or rows would cross a network unencrypted.
    """
    if not is_s3(address):
        return None
    check_environment(address)
    endpoint = os.environ.get("AWS_ENDPOINT_URL", "")
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or DEFAULT_REGION
    options = {name: os.environ[name] for name in KEYS} | {"AWS_REGION": region, **PATIENCE}
    if os.environ.get("AWS_SESSION_TOKEN"):
        options["AWS_SESSION_TOKEN"] = os.environ["AWS_SESSION_TOKEN"]
    if endpoint:
        options |= {"AWS_ENDPOINT_URL": endpoint, "AWS_VIRTUAL_HOSTED_STYLE_REQUEST": "false"}
        options["AWS_ALLOW_HTTP"] = str(urlsplit(endpoint).scheme == "http").lower()
    # a commit is a new object or nothing: two writers cannot both make version N
    return options | {"AWS_CONDITIONAL_PUT": "etag"}


def check_environment(address: str) -> None:
    """Refuse before anything is sent: an instance's own role or a file in somebody's home is never used.

    Raises:
        SluiceError: credentials are missing, or rows would cross a network unencrypted.
    """
    missing = [name for name in KEYS if not os.environ.get(name)]
    if missing:
        raise SluiceError(f"lake {address}: no credentials; set {' and '.join(missing)}, see docs/s3.md")
    endpoint = urlsplit(os.environ.get("AWS_ENDPOINT_URL", ""))
    open_http = endpoint.scheme == "http" and endpoint.hostname not in LOOPBACK
    if open_http and os.environ.get("AWS_ALLOW_HTTP", "").lower() != "true":
        raise SluiceError(
            f"lake {address}: AWS_ENDPOINT_URL is http:// on another machine, so that rows would travel "
            "unencrypted; use https://, or set AWS_ALLOW_HTTP=true inside a network that you trust"
        )


def open_table(what: str, path: str, version: int | None = None) -> DeltaTable:
    """A table as delta-rs has it, now or at a version; use it inside `explained`.

    Raises:
        TableMissing: it does not exist.
    """
    with explained(what, path):
        return DeltaTable(path, version=version, storage_options=storage_options(path))


def spark_address(path: str) -> str:
    """The same path as Spark's file systems spell it."""
    return f"s3a://{path.removeprefix(SCHEME)}" if is_s3(path) else path


def remove_all(address: str) -> None:
    """Remove everything under an address; nothing where there is nothing."""
    if not is_s3(address):
        shutil.rmtree(address, ignore_errors=True)
        return
    from jobs.objects import Objects  # boto3 is not loaded for a folder

    found = s3_address(address)
    if found is None:
        raise SluiceError(f"{address} is no s3://bucket/prefix address")
    Objects(found, f"lake {address}").remove_all()


@contextmanager
def explained(what: str, path: str) -> Iterator[None]:
    """Turn the errors of delta-rs into one sentence each."""
    try:
        yield
    except TableNotFoundError:
        raise TableMissing(f"{what} does not exist yet at {path}; run the job that writes it first") from None
    except CommitFailedError:
        raise WrittenMeanwhile(
            f"{what}: another writer changed it at the same time, so nothing of this write was kept; "
            "run the job again"
        ) from None
    except (DeltaError, OSError) as error:
        raise SluiceError(_sentence(what, path, str(error))) from None


def _sentence(what: str, path: str, text: str) -> str:
    if not is_s3(path):
        return f"{what} at {path}: {_plain(text)}"
    code = re.search(r"<Code>(\w+)</Code>", text)
    found = code[1] if code else ""
    bucket = path.removeprefix(SCHEME).split("/")[0]
    if found == "NoSuchBucket":
        return f"{what} at {path}: there is no bucket {bucket}; check SLUICE_LAKE_URI and AWS_ENDPOINT_URL"
    if found in REFUSED or "403 Forbidden" in text or "401 Unauthorized" in text:
        return (
            f"{what} at {path}: access denied{f' ({found})' if found else ''}; check AWS_ACCESS_KEY_ID, "
            "AWS_SECRET_ACCESS_KEY and the bucket's permissions"
        )
    if any(sign in text for sign in NO_ANSWER):
        return (
            f"{what} at {path}: the S3 server does not answer or dropped the connection; check "
            "AWS_ENDPOINT_URL and that it is running, then run the job again"
        )
    if found:
        return f"{what} at {path}: the S3 server refused ({found}); check the bucket and the server's log"
    return f"{what} at {path}: {_plain(text)}"


def _plain(text: str) -> str:
    """The engine's words on one line, without colours and without what a server answered."""
    words = DECORATION.sub("", text).split("<?xml")[0].split()
    return " ".join(words)[:300].rstrip(".")
