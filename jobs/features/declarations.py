"""Every feature of the model, declared once.

The Spark job, the tables, the Feast views and the request-time code all follow from these declarations.
Batch features are as of a midnight and count the half-open window [as_of - w, as_of); a risk's window ends
earlier, at as_of - delay, because younger transactions have no label yet. Amounts are in major units.
"""

from __future__ import annotations

import hashlib
from typing import Literal

from pydantic import Field

from jobs.core import StrictModel

Entity = Literal["customer", "terminal"]
Measure = Literal[
    "count",
    "amount_mean",
    "risk",
    "amount",
    "amount_ratio",
    "hour",
    "is_night",
    "is_weekend",
    "missing",
]
WINDOWS = (1, 7, 30)
NIGHT_ENDS = 6  # the last hour of the night, UTC
SATURDAY = 5  # datetime.weekday()


class Feature(StrictModel):
    """One input of the model."""

    name: str
    entity: Literal["customer", "terminal", "request"]
    measure: Measure
    window_days: int = Field(ge=0, description="0 for features of the request itself")
    description: str


def _windowed(entity: Entity, measure: Measure, text: str) -> tuple[Feature, ...]:
    return tuple(
        Feature(
            name=f"{entity}_{measure}_{days}d",
            entity=entity,
            measure=measure,
            window_days=days,
            description=text.format(days=f"{days} day" if days == 1 else f"{days} days"),
        )
        for days in WINDOWS
    )


def _request(name: str, measure: Measure, description: str) -> Feature:
    return Feature(name=name, entity="request", measure=measure, window_days=0, description=description)


FEATURES: tuple[Feature, ...] = (
    _request("amount", "amount", "amount of the transaction, in major units"),
    _request("amount_to_mean_30d", "amount_ratio", "amount over the customer's mean of 30 days"),
    _request("hour", "hour", "hour of the day, UTC"),
    _request("is_night", "is_night", "1 in the hours 0 to 6, UTC"),
    _request("is_weekend", "is_weekend", "1 on Saturday and Sunday, UTC"),
    *_windowed("customer", "count", "transactions of the customer in the last {days}"),
    *_windowed("customer", "amount_mean", "mean amount of the customer in the last {days}"),
    *_windowed("terminal", "count", "transactions at the terminal in the last {days}"),
    *_windowed("terminal", "risk", "share of known fraud at the terminal in {days} before the delay"),
    _request("customer_missing", "missing", "1 where no fresh row of the customer is stored"),
    _request("terminal_missing", "missing", "1 where no fresh row of the terminal is stored"),
)  # fmt: skip

MODEL_FEATURES: tuple[str, ...] = tuple(feature.name for feature in FEATURES)
STORED_FEATURES: tuple[str, ...] = tuple(feature.name for feature in FEATURES if feature.entity != "request")
# Present in every stored row of the entity, so their absence means that there is no row.
PRESENCE: dict[Entity, str] = {
    "customer": "customer_count_30d",
    "terminal": "terminal_count_30d",
}


def stored_features(entity: Entity) -> tuple[Feature, ...]:
    """The batch features of an entity, in their declared order."""
    return tuple(feature for feature in FEATURES if feature.entity == entity)


def longest_window(entity: Entity, delay_days: int) -> int:
    """Days before as_of in which a transaction makes the entity active: its risk looks back furthest."""
    return max(
        feature.window_days + (delay_days if feature.measure == "risk" else 0)
        for feature in stored_features(entity)
    )


def _version() -> str:
    text = "\n".join(feature.model_dump_json() for feature in FEATURES)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


FEATURE_VERSION: str = _version()
