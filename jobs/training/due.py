"""Whether a model may be trained again: not within the cooldown, and not without enough new matured rows.

In: the versions' tags, transactions as they were known. Out: why not; an empty text where it may.
"""

from __future__ import annotations

from datetime import date, timedelta

from jobs.conf.contract import contract_of
from jobs.conf.policy import Retrain, policy_of
from jobs.conf.settings import Settings
from jobs.core import NothingToDo, midnight
from jobs.evaluation.transactions import known_transactions
from jobs.lake.store import Lake, lake_of
from jobs.promotion import state as registry


def what_forbids(hours: float | None, new_rows: int, policy: Retrain) -> str:
    """What is said of a training that would begin now, `hours` after the last one; None: there was none."""
    if hours is not None and hours < policy.cooldown_hours:
        return f"{hours:.0f} h since the last one, cooldown {policy.cooldown_hours:.0f} h"
    if new_rows < policy.minimum_new_rows:
        return f"{new_rows} new matured rows, needed {policy.minimum_new_rows}"
    return ""


def last_training(settings: Settings) -> date | None:
    """The latest day that a registered version was trained for, whatever became of it; no fire drills."""
    client = registry.registry_client(settings)
    with registry.registry_errors():
        versions = client.search_model_versions(f"name='{settings.model_name}'")
    honest = [each.tags for each in versions if each.tags.get(registry.TAG_DRILL, "") in ("", "none")]
    days = [str(tags.get(registry.TAG_DAY, "")) for tags in honest]
    return max((date.fromisoformat(day) for day in days if day), default=None)


def hours_since(trained: date, day: date) -> float:
    """From the midnight that a training was for to that of a day."""
    return (midnight(day) - midnight(trained)).total_seconds() / 3600


def new_matured_rows(lake: Lake, trained: date | None, day: date, maturity_days: int) -> int:
    """Transactions that matured after the last training, as far as they were known on the day."""
    last = day - timedelta(days=maturity_days)
    first = trained - timedelta(days=maturity_days - 1) if trained else None
    if first is not None and first > last:
        return 0
    as_of = midnight(day + timedelta(days=1))
    return int(known_transactions(lake, first, last, as_of, ["day"]).num_rows)


def require_due(settings: Settings, day: date) -> None:
    """The weekly training: the first model is always due.

    Raises:
        NothingToDo: there was a training too short ago, or too little has matured since.
    """
    trained = last_training(settings)
    if trained is None:
        return
    rows = new_matured_rows(lake_of(settings), trained, day, contract_of(settings).labels.maturity_days)
    reason = what_forbids(hours_since(trained, day), rows, policy_of(settings).retrain)
    if reason:
        raise NothingToDo(f"no weekly training as of {day}: {reason}; with a reason of its own one may begin")
