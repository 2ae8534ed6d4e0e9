"""Objects on S3 through boto3: each is there whole or not at all.

In: an address and what the environment says (`AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`,
`AWS_ENDPOINT_URL`, `AWS_REGION`). Out: bytes, with the ETag that a conditional write needs.
Errors: SluiceError, one sentence for each thing that can be wrong; no request and no credential is in it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cache
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionClosedError,
    ConnectTimeoutError,
    EndpointConnectionError,
    NoCredentialsError,
    PartialCredentialsError,
    ReadTimeoutError,
)

from jobs.core import SluiceError
from jobs.s3_address import DEFAULT_REGION, REFUSED, S3Address

NOT_THERE = {"NoSuchKey", "404", "NotFound"}
NOT_MET = {"PreconditionFailed", "412", "ConditionalRequestConflict", "409"}
VARIABLES = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL",
             "AWS_REGION", "AWS_DEFAULT_REGION")  # fmt: skip


class ObjectNotThere(SluiceError):
    """There is no object of that name."""


class ConditionNotMet(SluiceError):
    """A conditional write came second: nothing was written."""


@dataclass(frozen=True)
class Found:
    """An object as it was read."""

    data: bytes
    etag: str
    modified: datetime  # UTC
    age_seconds: float  # since it was written, both moments by the server's clock


def s3_client() -> Any:
    """A client with the environment's credentials; one per process and environment."""
    return _client(os.getpid(), tuple(os.environ.get(name) for name in VARIABLES))


@cache
def _client(_process: int, _environment: tuple[str | None, ...]) -> Any:
    config = Config(
        connect_timeout=3,
        read_timeout=20,
        retries={"total_max_attempts": 2, "mode": "standard"},
        s3={"addressing_style": "path"},
    )
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or DEFAULT_REGION
    # a session of its own: the default one would keep the first credentials for good
    return boto3.Session().client("s3", region_name=region, config=config)


@contextmanager
def explained(where: str, bucket: str, what: str) -> Iterator[None]:
    """Turn boto's exceptions into one sentence each, without the request in it."""
    try:
        yield
    except (NoCredentialsError, PartialCredentialsError):
        raise SluiceError(
            f"{where}: no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        ) from None
    except (EndpointConnectionError, ConnectTimeoutError, ReadTimeoutError, ConnectionClosedError):
        raise SluiceError(
            f"{where}: the S3 server does not answer; check AWS_ENDPOINT_URL and that it is running"
        ) from None
    except ClientError as error:
        code = str(error.response.get("Error", {}).get("Code", ""))
        raise _refusal(where, bucket, what, code) from None
    except BotoCoreError as error:
        raise SluiceError(
            f"{where}: {what} could not be read or written ({type(error).__name__}); "
            "try again or check the server"
        ) from None


def _refusal(where: str, bucket: str, what: str, code: str) -> SluiceError:
    if code == "NoSuchBucket":
        return SluiceError(f"{where}: there is no bucket {bucket}; check the address")
    if code in NOT_THERE:
        return ObjectNotThere(f"{where}: no file {what}")
    if code in NOT_MET:
        return ConditionNotMet(f"{where}: {what} was written by another meanwhile")
    if code in REFUSED:
        return SluiceError(
            f"{where}: access denied ({code}); check AWS_ACCESS_KEY_ID, "
            "AWS_SECRET_ACCESS_KEY and the bucket's permissions"
        )
    return SluiceError(f"{where}: the S3 server refused {what} ({code})")


class Objects:
    """The objects under one prefix of a bucket."""

    def __init__(self, address: S3Address, where: str) -> None:
        """`where` begins the errors: what the objects are, and their address."""
        self.address = address
        self.where = where

    def read(self, name: str) -> Found:
        """An object.

        Raises:
            ObjectNotThere: there is none of that name.
        """
        with self._explained(name):
            answer = s3_client().get_object(Bucket=self.address.bucket, Key=self.address.key(name))
            data: bytes = answer["Body"].read()
        now = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
        written = answer["LastModified"].astimezone(UTC)
        age = (parsedate_to_datetime(now).astimezone(UTC) - written).total_seconds() if now else 0.0
        return Found(data, str(answer["ETag"]), written, age)

    def stream(self, name: str, size: int) -> tuple[Iterator[bytes], datetime]:
        """An object in pieces of this size, and when it was written.

        Raises:
            ObjectNotThere: there is none of that name.
        """
        with self._explained(name):
            answer = s3_client().get_object(Bucket=self.address.bucket, Key=self.address.key(name))
        return self._pieces(name, answer["Body"], size), answer["LastModified"].astimezone(UTC)

    def _pieces(self, name: str, body: Any, size: int) -> Iterator[bytes]:
        with self._explained(name):
            yield from body.iter_chunks(size)

    def write(self, name: str, data: bytes) -> None:
        """Put an object there, whatever was there before."""
        self._put(name, data)

    def write_new(self, name: str, data: bytes) -> str:
        """Put an object where none is; gives its ETag.

        Raises:
            ConditionNotMet: one is there already.
        """
        return self._put(name, data, IfNoneMatch="*")

    def write_over(self, name: str, data: bytes, etag: str) -> str:
        """Replace the object that has this ETag; gives the new one.

        Raises:
            ConditionNotMet: it is gone or was replaced by another writer.
        """
        try:
            return self._put(name, data, IfMatch=etag)
        except ObjectNotThere as error:
            raise ConditionNotMet(str(error)) from None

    def _put(self, name: str, data: bytes, **condition: str) -> str:
        with self._explained(name):
            answer = s3_client().put_object(
                Bucket=self.address.bucket, Key=self.address.key(name), Body=data, **condition
            )
        return str(answer["ETag"])

    def names(self) -> list[str]:
        """The names directly under the prefix, sorted."""
        prefix = self.address.key("")
        with self._explained("its list of files"):
            pages = (
                s3_client()
                .get_paginator("list_objects_v2")
                .paginate(Bucket=self.address.bucket, Prefix=prefix, Delimiter="/")
            )
            keys = [entry["Key"] for page in pages for entry in page.get("Contents", [])]
        return sorted(key.removeprefix(prefix) for key in keys if key != prefix)

    def remove_all(self) -> None:
        """Remove every object under the prefix, however deep."""
        bucket, prefix = self.address.bucket, self.address.key("")
        with self._explained("its objects"):
            pages = s3_client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
            for page in pages:
                for entry in page.get("Contents", []):
                    s3_client().delete_object(Bucket=bucket, Key=entry["Key"])

    @contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        with explained(self.where, self.address.bucket, what):
            yield
