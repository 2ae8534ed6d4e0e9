"""The events between DAGs."""

from __future__ import annotations

from airflow.sdk import Asset, AssetWatcher

from jobs.conf.policy import policy_of
from jobs.conf.settings import settings
from plugins.alias_trigger import AliasTrigger

# by day: a partition key travels with each event
TRANSACTIONS = Asset("transactions", group="sluice")
LABELS = Asset("labels", group="sluice")
FEATURES = Asset("features", group="sluice")

# the monitor asks for a new model; `extra` holds the day and the reason
RETRAINING_REQUESTED = Asset("retraining_requested", group="sluice")


def _alias(alias: str) -> Asset:
    """A person or a job has set an alias in MLflow; the event's payload is the version."""
    trigger = AliasTrigger(
        registry_uri=settings().mlflow_uri,
        model_name=settings().model_name,
        alias=alias,
        poll_seconds=policy_of(settings()).serving.alias_poll_seconds,
    )
    return Asset(
        f"{alias}_alias", group="sluice", watchers=[AssetWatcher(name="mlflow_alias", trigger=trigger)]
    )


CHALLENGER = _alias("challenger")
CHAMPION = _alias("champion")
