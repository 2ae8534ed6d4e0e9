"""Where files come from and go to: a directory, or a bucket and prefix on S3.

In: an address (`/path`, `file:///path`, `s3://bucket/prefix`) and file names. Out: bytes, with the instant at
which they were last modified as the source says it. S3 is reached through boto3 with what the environment
says (`AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_ENDPOINT_URL`, `AWS_REGION`); credentials never
appear in an address, an error or a log.
Errors: SluiceError for each thing that can be wrong with an address.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import boto3
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectTimeoutError,
    EndpointConnectionError,
    NoCredentialsError,
    PartialCredentialsError,
    ReadTimeoutError,
)

from jobs.core import SluiceError
from jobs.ingest.files import write_atomic

S3_ADDRESS = re.compile(r"s3://(?P<bucket>[a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(/(?P<prefix>[^?#@]*))?$")
FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
NOT_THERE = {"NoSuchKey", "404", "NotFound"}
REFUSED = {
    "AccessDenied", "403", "Forbidden", "SignatureDoesNotMatch", "InvalidAccessKeyId",
    "ExpiredToken", "InvalidToken", "AuthorizationHeaderMalformed", "RequestTimeTooSkewed",
}  # fmt: skip


EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class FileNotThere(SluiceError):
    """The source has no file of that name."""


class SourceFile(NamedTuple):
    """A file as its source had it."""

    data: bytes
    modified: datetime  # UTC; the source's own word, no clock of ours


class Source(Protocol):
    """Files under one address."""

    address: str

    def read(self, name: str) -> SourceFile:
        """The file; FileNotThere where there is none."""

    def write(self, name: str, data: bytes) -> None:
        """Put a file there, whole or not at all."""

    def names(self) -> list[str]:
        """All file names, sorted."""


class DirectorySource:
    """One directory of files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.expanduser().resolve()
        self.address = str(self.folder)

    def read(self, name: str) -> SourceFile:
        try:
            with (self.folder / checked_name(name)).open("rb") as file:
                changed = os.fstat(file.fileno()).st_mtime_ns // 1000
                return SourceFile(file.read(), EPOCH + timedelta(microseconds=changed))
        except FileNotFoundError:
            raise FileNotThere(f"source {self.address}: no file {name}") from None
        except OSError as error:
            raise SluiceError(
                f"source {self.address}: cannot read {name}: {error.strerror}; check its permissions"
            ) from None

    def write(self, name: str, data: bytes) -> None:
        try:
            write_atomic(self.folder / checked_name(name), data)
        except OSError as error:
            raise SluiceError(
                f"{self.address}: cannot write {name}: {error.strerror}; check the directory"
            ) from None

    def names(self) -> list[str]:
        if not self.folder.is_dir():
            raise SluiceError(
                f"source {self.address}: no such directory; check SLUICE_SOURCE_URI and SLUICE_LABELS_URI"
            )
        return sorted(entry.name for entry in self.folder.iterdir() if entry.is_file())


class S3Source:
    """Objects directly under one prefix of a bucket."""

    def __init__(self, bucket: str, prefix: str) -> None:
        self.bucket = bucket
        self.prefix = prefix.strip("/") + "/" if prefix.strip("/") else ""
        self.address = f"s3://{bucket}/{self.prefix}".rstrip("/")

    @cached_property
    def _client(self) -> Any:
        config = Config(
            connect_timeout=3,
            read_timeout=20,
            retries={"total_max_attempts": 2, "mode": "standard"},
            s3={"addressing_style": "path"},
        )
        # a server that is not Amazon's knows no regions; the signature needs one all the same
        region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
        # a session of its own: the default one would keep the first credentials for good
        return boto3.Session().client("s3", region_name=region, config=config)

    def read(self, name: str) -> SourceFile:
        with self._explained(name):
            answer = self._client.get_object(Bucket=self.bucket, Key=self.prefix + checked_name(name))
            return SourceFile(answer["Body"].read(), answer["LastModified"].astimezone(UTC))

    def write(self, name: str, data: bytes) -> None:
        with self._explained(name):
            self._client.put_object(Bucket=self.bucket, Key=self.prefix + checked_name(name), Body=data)

    def names(self) -> list[str]:
        with self._explained("its list of files"):
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self.bucket, Prefix=self.prefix, Delimiter="/"
            )
            keys = [entry["Key"] for page in pages for entry in page.get("Contents", [])]
        return sorted(key.removeprefix(self.prefix) for key in keys if key != self.prefix)

    @contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        """Turn boto's exceptions into one sentence each, without the request in it."""
        try:
            yield
        except (NoCredentialsError, PartialCredentialsError):
            raise SluiceError(
                f"source {self.address}: no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            ) from None
        except (EndpointConnectionError, ConnectTimeoutError, ReadTimeoutError):
            raise SluiceError(
                f"source {self.address}: the S3 server does not answer; check AWS_ENDPOINT_URL "
                "and that it is running"
            ) from None
        except ClientError as error:
            raise self._refusal(str(error.response.get("Error", {}).get("Code", "")), what) from None
        except BotoCoreError as error:
            raise SluiceError(
                f"source {self.address}: {what} could not be read or written "
                f"({type(error).__name__}); try again or check the server"
            ) from None

    def _refusal(self, code: str, what: str) -> SluiceError:
        if code == "NoSuchBucket":
            return SluiceError(f"source {self.address}: there is no bucket {self.bucket}; check the address")
        if code in NOT_THERE:
            return FileNotThere(f"source {self.address}: no file {what}")
        if code in REFUSED:
            return SluiceError(
                f"source {self.address}: access denied ({code}); check AWS_ACCESS_KEY_ID, "
                "AWS_SECRET_ACCESS_KEY and the bucket's permissions"
            )
        return SluiceError(f"source {self.address}: the S3 server refused {what} ({code})")


def checked_name(name: str) -> str:
    """A plain file name: nothing that leads out of the source."""
    if not FILE_NAME.fullmatch(name):
        raise SluiceError(f"{name!r} is not a plain file name")
    return name


def open_source(address: str) -> Source:
    """The source at an address; nothing is read yet.

    Raises:
        SluiceError: the address is empty or of a kind that is not known.
    """
    if not address:
        raise SluiceError(
            "no source is set: give SLUICE_SOURCE_URI (and SLUICE_LABELS_URI) a directory or "
            "s3://bucket/prefix"
        )
    if address.startswith("s3:"):
        match = S3_ADDRESS.fullmatch(address)
        if match is None:
            # the address is not repeated: somebody may have put a secret into it
            raise SluiceError("source: not an s3://bucket/prefix address without credentials")
        return S3Source(match["bucket"], match["prefix"] or "")
    if address.startswith("file://"):
        return DirectorySource(Path(address.removeprefix("file://")))
    if "://" in address:
        kind = address.split("://", 1)[0]
        raise SluiceError(f"source: {kind}:// is not supported; give a directory or s3://bucket/prefix")
    return DirectorySource(Path(address))


def days_there(source: Source, template: str) -> list[date]:
    """The days for which the source has a file named by the template, sorted."""
    before, after = template.split("{day}")
    pattern = re.compile(re.escape(before) + r"(\d{4}-\d{2}-\d{2})" + re.escape(after))
    found = [match[1] for name in source.names() if (match := pattern.fullmatch(name))]
    return sorted(date.fromisoformat(text) for text in found if _is_day(text))


def read_day(source: Source, template: str, day: date) -> SourceFile:
    """The file of a day.

    Raises:
        SluiceError: the source is missing or empty, or has no file for the day; it names the days there.
    """
    try:
        return source.read(template.replace("{day}", str(day)))
    except FileNotThere:
        days = days_there(source, template)
    if not days:
        raise SluiceError(
            f"source {source.address}: empty: no file named like {template}; "
            "check the address and the contract"
        )
    if days[0] <= day <= days[-1]:
        raise SluiceError(
            f"source {source.address}: no file for {day} although the days around it are there; "
            "ask the sender for it"
        )
    raise SluiceError(
        f"source {source.address}: {day} lies outside the data: first day {days[0]}, last day {days[-1]}"
    )


def _is_day(text: str) -> bool:
    try:
        date.fromisoformat(text)
    except ValueError:
        return False
    return True
