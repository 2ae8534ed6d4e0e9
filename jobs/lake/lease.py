"""A lease on S3: at most one process of any machine holds a name at a time.

State: one object a name under `_leases/` of the lake: who holds it and for how long. Each step is one
conditional write: a new object where none is (`If-None-Match: *`), else over the one that was read
(`If-Match`), so that of two that try one wins. While it is held a thread renews it; one that was not renewed
for its length is taken over. Whether it is that old is read off the server's own clock alone (`Date` less
`Last-Modified`), and a holder gives itself up earlier, by its own monotonic clock: no two machines' clocks
are compared.
Errors: SluiceError where it is not free in time (it names the holder), where the holder has lost it, and
where the server ignores conditions.
"""

from __future__ import annotations

import logging
import os
import random
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import uuid4

from pydantic import ValidationError

from jobs.core import SluiceError, StrictModel
from jobs.lake.storage import LeaseLost, check_environment
from jobs.objects import ConditionNotMet, Found, ObjectNotThere, Objects
from jobs.s3_address import s3_address

FOLDER = "_leases"
SECONDS = 30.0  # a killed holder keeps others waiting no longer
MARGIN = 5.0  # dates of HTTP are whole seconds
WAIT_SECONDS = 600.0
LOGGER = logging.getLogger("sluice.lake")
_HELD: dict[str, Lease] = {}
_CHECKED: set[tuple[str, str]] = set()  # servers and buckets that were seen to honour conditions


class Claim(StrictModel):
    """What the object says."""

    holder: str
    token: str
    beat: int  # makes each renewal another content, and so another ETag
    held: bool
    seconds: float


class Lease:
    """One process's claim on a name."""

    def __init__(self, objects: Objects, name: str, seconds: float) -> None:
        self.objects = objects
        self.name = name
        self.file = f"{FOLDER}/{name}.json"
        self.seconds = seconds
        self.token = uuid4().hex
        self._beat = 0
        self._etag = ""
        self._renewed = 0.0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._renew, name=f"lease-{name}", daemon=True)

    def acquire(self, wait_seconds: float) -> None:
        """Wait for the name and hold it."""
        deadline = time.monotonic() + wait_seconds
        while True:
            found = self._read()
            if found is None or _is_free(found):
                if self._write(found.etag if found else None):
                    break
            elif time.monotonic() > deadline:
                raise SluiceError(
                    f"{self.objects.where}: {self.name} is being written by {_claim(found).holder} and was "
                    f"not free within {wait_seconds:.0f} s; wait until that has ended and run the job again"
                )
            time.sleep(random.uniform(0.05, 0.3))  # noqa: S311 - so that those who wait do not meet again
        self._thread.start()

    def release(self) -> None:
        """Leave the name to the next, unless somebody has taken it over."""
        self._done.set()
        self._thread.join()
        try:
            self.objects.write_over(self.file, self.text(held=False), self._etag)
        except SluiceError as error:
            LOGGER.warning("lease of %s not given back: %s; it runs out by itself", self.name, error)

    @property
    def is_held(self) -> bool:
        """Whether nobody else can have taken it over yet."""
        return time.monotonic() - self._renewed < self.seconds

    def _read(self) -> Found | None:
        try:
            return self.objects.read(self.file)
        except ObjectNotThere:
            return None

    def _write(self, over: str | None) -> bool:
        """One conditional write of this claim; whether it won."""
        started = time.monotonic()
        self._beat += 1
        text = self.text(held=True)
        try:
            if over is None:
                self._etag = self.objects.write_new(self.file, text)
            else:
                self._etag = self.objects.write_over(self.file, text, over)
        except ConditionNotMet:
            # the answer to a write that did win may have been lost, and the second try refused
            now = self._read()
            if now is None or now.data != text:
                return False
            self._etag = now.etag
        self._renewed = started
        return True

    def _renew(self) -> None:
        while not self._done.wait(self.seconds / 4):
            try:
                if not self._write(self._etag):
                    self._renewed = float("-inf")
                    return
            except SluiceError as error:
                LOGGER.warning("lease of %s not renewed: %s", self.name, error)

    def text(self, *, held: bool) -> bytes:
        """The claim as it is written."""
        holder = f"process {os.getpid()} of {socket.gethostname()}"
        claim = Claim(holder=holder, token=self.token, beat=self._beat, held=held, seconds=self.seconds)
        return claim.model_dump_json().encode()


@contextmanager
def leased(address: str, name: str, seconds: float = SECONDS, wait: float = WAIT_SECONDS) -> Iterator[None]:
    """Hold a name of the lake at this address, which is on S3.

    Raises:
        SluiceError: it was not free in time, or was lost before the block had ended.
    """
    parsed = s3_address(address)
    if parsed is None:
        raise AssertionError("a lease needs an address on S3")
    check_environment(address)
    lease = Lease(Objects(parsed, f"lake {address}"), name, seconds)
    lease.acquire(wait)
    _HELD[lease.token] = lease
    try:
        _require_conditions(lease)
        require_held()
        yield
        require_held()
    finally:
        del _HELD[lease.token]
        lease.release()


def require_held() -> None:
    """Refuse to go on where this process holds a lease that another may have taken over.

    Called after a table was opened and before it is written: whoever took over since commits another version
    than the one that was opened, and Delta refuses the commit.
    """
    lost = [lease.name for lease in list(_HELD.values()) if not lease.is_held]
    if lost:
        raise LeaseLost(
            f"the lease of {lost[0]} ran out while it was held, because this process stood still or could "
            "not reach the S3 server; run the job again"
        )


def _is_free(found: Found) -> bool:
    claim = _claim(found)
    return not claim.held or found.age_seconds > claim.seconds + MARGIN


def _claim(found: Found) -> Claim:
    try:
        return Claim.model_validate_json(found.data)
    except ValidationError:
        return Claim(holder="a process that is not known", token="", beat=0, held=True, seconds=SECONDS)


def _require_conditions(lease: Lease) -> None:
    """Some servers take conditional writes and ignore the condition: with them a lease would be none."""
    place = (os.environ.get("AWS_ENDPOINT_URL", ""), lease.objects.address.bucket)
    if place in _CHECKED:
        return
    try:
        lease.objects.write_new(lease.file, lease.text(held=True))
    except ConditionNotMet:
        _CHECKED.add(place)
        return
    raise SluiceError(
        f"{lease.objects.where}: this S3 server ignores conditional writes (If-None-Match), so that two "
        "writers could overwrite each other; keep the tables on one that honours them, see docs/s3.md"
    )
