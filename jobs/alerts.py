"""Alerts: each names its cause, its owner and what to do, is raised once, and goes to every channel.

In: `Alert`s. Out: a line each in home/alerts.jsonl, which is the record, and a delivery to each
channel of the policy. What a channel does not take waits in home/alerts_waiting/CHANNEL and is tried again
with the next alerts, so that a mail server that is down loses nothing and fails no job.
An alert whose key the policy silences is recorded and not delivered; a silence ends by itself.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable
from datetime import date
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from pydantic import AwareDatetime, Field

from jobs import clock
from jobs.channels import CHANNELS, ChannelFailed
from jobs.conf.policy import Policy, policy_of
from jobs.conf.settings import Settings
from jobs.core import StrictModel
from jobs.files import write_whole
from jobs.locks import file_lock

FILE = "alerts.jsonl"
WAITING = "alerts_waiting"
log = logging.getLogger(__name__)


class Alert(StrictModel):
    """One alert. Two alerts with the same key are the same alert."""

    key: str
    cause: str
    owner: str
    action: str = Field(description="what its owner should do")
    status: str = "alert"
    facts: dict[str, Any] = Field(default_factory=dict, description="the figures behind it")
    raised_at: AwareDatetime | None = None  # set by the one who records it; older lines have none
    silenced_until: date | None = None  # told to nobody: the policy silences it


def silenced(alert: Alert, policy: Policy, today: date) -> Alert:
    """The alert with the end of its silence, where the policy has one that still lasts."""
    ends = [
        each.until
        for each in policy.alerts.silenced
        if today < each.until and fnmatchcase(alert.key, each.key)
    ]
    return alert.model_copy(update={"silenced_until": max(ends, default=None)})


def raise_alerts(settings: Settings, alerts: Iterable[Alert], today: date | None = None) -> int:
    """Record what was not raised before and deliver it; gives how many were new.

    `today` decides whether a silence has ended; without it the clock does.
    """
    policy, now = policy_of(settings), clock.now()
    fresh: dict[str, Alert] = {}
    for alert in alerts:
        told = silenced(alert, policy, today or now.date())
        fresh.setdefault(alert.key, told.model_copy(update={"raised_at": now}))
    if fresh:
        fresh = _record(settings, policy, fresh)
    deliver(settings, policy)
    return len(fresh)


def _record(settings: Settings, policy: Policy, found: dict[str, Alert]) -> dict[str, Alert]:
    """Append the lines of those that the record does not hold yet."""
    settings.home.mkdir(parents=True, exist_ok=True)
    with file_lock(settings.home / f".{FILE}.lock"), (settings.home / FILE).open("a+") as file:
        file.seek(0)
        known = {json.loads(line)["key"] for line in file if line.endswith("}\n")}
        fresh = {key: alert for key, alert in found.items() if key not in known}
        # killed in between, the alert is raised again and waits under the same name
        for alert in fresh.values():
            if alert.silenced_until is None:
                _queue(settings, policy, alert)
        # a line that a killed writer left unfinished ends here
        file.write("".join(f"{alert.model_dump_json()}\n" for alert in fresh.values()))
    return fresh


def _queue(settings: Settings, policy: Policy, alert: Alert) -> None:
    for name in policy.alerts.channels:
        if CHANNELS[name].ready(settings):
            folder = settings.home / WAITING / name
            path = folder / f"{hashlib.sha256(alert.key.encode()).hexdigest()[:16]}.json"
            write_whole(path, alert.model_dump_json())


def deliver(settings: Settings, policy: Policy) -> int:
    """Give every waiting alert to its channel; gives how many still wait."""
    waiting = settings.home / WAITING
    if not waiting.exists():
        return 0
    left = 0
    with file_lock(waiting / ".lock"):
        for name in policy.alerts.channels:
            left += _deliver_by(name, sorted((waiting / name).glob("*.json")), settings, policy)
    return left


def _deliver_by(name: str, files: list[Path], settings: Settings, policy: Policy) -> int:
    for place, path in enumerate(files):
        alert = Alert.model_validate_json(path.read_text())
        try:
            CHANNELS[name].send(alert.model_dump(mode="json"), settings, policy.alerts.timeout_seconds)
        except ChannelFailed as error:
            # the next ones would wait as long for the same answer
            log.warning("alerts by %s: %s; %d wait", name, error, len(files) - place)
            return len(files) - place
        path.unlink()
    return 0
