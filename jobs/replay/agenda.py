"""What is still to happen in a replay, and what has happened: the two lists that travel from day to day."""

from __future__ import annotations

from datetime import date, datetime
from typing import Any, Literal

from jobs.conf.policy import Start
from jobs.core import StrictModel
from jobs.training.run_folder import Drill

Kind = Literal["train", "monitor", "offer", "approve", "look"]
ORDER: tuple[Kind, ...] = ("look", "approve", "offer", "monitor", "train")  # of what is due at one instant


class Due(StrictModel):
    """One thing to do at an instant."""

    at: datetime
    kind: Kind
    day: date | None = None  # that is monitored or trained for
    version: str = ""
    step: str = ""
    since: datetime | None = None  # when the step was started
    reason: str = ""
    drill: Drill = "none"
    start: Start = "warm"


class Happening(StrictModel):
    """One thing that happened, for the timeline and the score."""

    at: datetime
    what: str
    version: str = ""
    detail: str = ""
    facts: dict[str, Any] = {}


class Agenda:
    """Things to do in order of time."""

    def __init__(self, items: list[Due]) -> None:
        self.items = list(items)

    def add(self, item: Due) -> None:
        self.items.append(item)

    def drop(self, version: str) -> None:
        """Forget what waits for a version that goes no further."""
        self.items = [item for item in self.items if item.version != version]

    def next_before(self, end: datetime) -> Due | None:
        """Take the earliest thing that is due before an instant."""
        due = [item for item in self.items if item.at < end]
        if not due:
            return None
        first = min(due, key=lambda item: (item.at, ORDER.index(item.kind), item.version, str(item.day)))
        self.items.remove(first)
        return first
