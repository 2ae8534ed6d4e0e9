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

# a person or a job has set the alias `challenger` in MLflow
CHALLENGER = Asset(
    "challenger_alias",
    group="sluice",
    watchers=[
        AssetWatcher(
            name="mlflow_alias",
            trigger=AliasTrigger(
                registry_uri=settings().mlflow_uri,
                model_name=settings().model_name,
                alias="challenger",
                poll_seconds=policy_of(settings()).serving.alias_poll_seconds,
            ),
        )
    ],
)
