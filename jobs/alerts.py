"""Alerts: each names its cause, its owner and what to do, and is raised once."""

from __future__ import annotations

import fcntl
import json
import logging
from collections.abc import Iterable
from typing import Any

from pydantic import Field

from jobs.conf.settings import Settings
from jobs.core import StrictModel

FILE = "alerts.jsonl"
log = logging.getLogger(__name__)


class Alert(StrictModel):
    """One alert. Two alerts with the same key are the same alert."""

    key: str
    cause: str
    owner: str
    action: str = Field(description="what its owner should do")
    status: str = "alert"
    facts: dict[str, Any] = Field(default_factory=dict, description="the figures behind it")


def raise_alerts(settings: Settings, alerts: Iterable[Alert]) -> int:
    """Add to `alerts.jsonl` what is not there yet; gives how many were new."""
    alerts = list(alerts)
    if not alerts:
        return 0
    settings.home.mkdir(parents=True, exist_ok=True)
    fresh: dict[str, Alert] = {}
    with (settings.home / FILE).open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        known = {json.loads(line)["key"] for line in file if line.endswith("}\n")}
        for alert in alerts:
            if alert.key not in known:
                fresh.setdefault(alert.key, alert)
        # a line that a killed writer left unfinished ends here
        file.write("".join(f"{alert.model_dump_json()}\n" for alert in fresh.values()))
    for alert in fresh.values():
        log.warning("alert for %s: %s; to do: %s", alert.owner, alert.cause, alert.action)
    return len(fresh)
