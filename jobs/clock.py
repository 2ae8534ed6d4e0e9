"""What time it is, for those few decisions that depend on it: approvals, steps of a promotion, freshness.

In: nothing. Out: an instant in UTC, the machine's own unless somebody has set another one around the call.
A job takes its day from its parameters and never from here.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime

_SET: ContextVar[datetime | None] = ContextVar("sluice_clock", default=None)


def now() -> datetime:
    """This instant in UTC."""
    return _SET.get() or datetime.now(UTC)


@contextmanager
def standing_at(moment: datetime) -> Iterator[None]:
    """Inside the block it is `moment`, for this thread and what it awaits.

    Raises:
        ValueError: the moment has no zone.
    """
    if moment.tzinfo is None:
        raise ValueError("an instant needs its zone")
    token = _SET.set(moment.astimezone(UTC))
    try:
        yield
    finally:
        _SET.reset(token)
