"""Addresses of the form s3://bucket/prefix: never with a query, and never with credentials in them."""

from __future__ import annotations

import re
from dataclasses import dataclass

SCHEME = "s3://"
DEFAULT_REGION = "us-east-1"  # a server that is not Amazon's knows no regions; a signature needs one
# what servers answer where the credentials are at fault, or what they may do
REFUSED = (
    "AccessDenied", "403", "Forbidden", "SignatureDoesNotMatch", "InvalidAccessKeyId", "ExpiredToken",
    "InvalidToken", "AuthorizationHeaderMalformed", "RequestTimeTooSkewed", "XAdminUserNotFound",
)  # fmt: skip
ADDRESS = re.compile(r"s3://(?P<bucket>[a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(/(?P<prefix>[^?#@]*))?")
# what a table's address may hold: it becomes a part of paths in several engines, which quote differently
PLAIN_PREFIX = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*")


@dataclass(frozen=True)
class S3Address:
    """A bucket and a prefix in it, which may be empty."""

    bucket: str
    prefix: str

    def __str__(self) -> str:
        return f"{SCHEME}{self.bucket}/{self.prefix}".rstrip("/")

    def key(self, name: str) -> str:
        """The key of the object of that name under the prefix."""
        return f"{self.prefix}/{name}" if self.prefix else name


def is_s3(address: str) -> bool:
    """Whether an address leads to S3 and not to a folder."""
    return address.startswith(SCHEME)


def s3_address(text: str) -> S3Address | None:
    """The parts of an address; None where it is none."""
    match = ADDRESS.fullmatch(text)
    return S3Address(match["bucket"], (match["prefix"] or "").strip("/")) if match else None


def is_plain(address: S3Address) -> bool:
    """Whether the prefix is made of plain names, which every engine writes alike."""
    return not address.prefix or PLAIN_PREFIX.fullmatch(address.prefix) is not None
