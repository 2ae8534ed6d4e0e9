"""Every feature of the model, declared once.

The Spark jobs, the tables, the Feast views, the request-time code of the scoring service, the checks and the
documentation follow from these declarations: a further window is one more label in a line of FEATURES.

Every window is half-open and strictly before its as_of: [as_of - window, as_of).
batch     as of a midnight, built daily by Spark and stored; a delayed window ends earlier, at as_of minus the
          contract's label delay, because younger transactions have no label yet
velocity  as of the event, kept current by the scoring service as transactions come in
request   computed from the event itself and from stored features
Amounts are in major units; all features are doubles.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from datetime import timedelta
from enum import StrEnum
from typing import Literal, get_args

from pydantic import model_validator

from jobs.core import StrictModel

Entity = Literal["customer", "terminal"]
Tier = Literal["batch", "velocity", "request"]
Measure = Literal[
    "count",
    "amount_sum",
    "amount_mean",
    "amount_deviation",
    "risk",
    "seconds_since_last",
    "amount_before",
    "seconds_before",
    "is_new",
    "amount",
    "amount_to_mean",
    "amount_z_score",
    "hour",
    "is_night",
    "is_weekend",
    "missing",
]
ENTITIES: tuple[Entity, ...] = get_args(Entity)
NIGHT_ENDS = 6  # the last hour of the night, UTC
SATURDAY = 5  # datetime.weekday()
OWNER = "payments-risk"
SEQUENCE_LENGTH = 8  # how many of a customer's last transactions are inputs one by one
DAY = timedelta(days=1)
UNITS = {"m": ("minutes", "minute"), "h": ("hours", "hour"), "d": ("days", "day")}


class Nulls(StrEnum):
    """When a feature is null; every other absence is a defect."""

    NEVER = "never"
    EMPTY = "where the window is empty"
    FEW = "where the window holds fewer than two"
    FEWER = "where there were fewer transactions before"
    NO_ROW = "where no fresh row is stored, or its mean is null or 0"
    NO_SPREAD = "where no fresh row is stored, or it has no deviation"


class Feature(StrictModel):
    """One input of the model."""

    name: str
    entity: Literal["customer", "terminal", "pair", "request"]
    tier: Tier
    measure: Measure
    window: timedelta  # 0 where there is none
    place: int = 0  # of the transaction before that it tells of, 1 the newest; 0 where it tells of no one
    delayed: bool  # the window ends the label delay before as_of
    type: Literal["double"] = "double"
    nulls: Nulls
    description: str
    owner: str = OWNER

    @model_validator(mode="after")
    def _batch_windows_are_whole_days(self) -> Feature:
        if self.tier == "batch" and (self.window < DAY or self.window % DAY):
            raise ValueError(
                f"{self.name}: a batch window is one or more whole days, it is not {self.window}"
            )
        return self

    @property
    def days(self) -> int:
        """The window in whole days, which a batch window is."""
        return self.window.days

    @property
    def label(self) -> str:
        """The window as the name has it, e.g. 7d; a name that ends with a place has none in it."""
        return f"{self.days}d" if self.place else self.name.rsplit("_", 1)[1]


def span(label: str) -> timedelta:
    """The length of a window such as 5m, 24h or 7d."""
    return timedelta(**{UNITS[label[-1]][0]: int(label[:-1])})


def _words(label: str) -> str:
    many, one = UNITS[label[-1]]
    return one if label[:-1] == "1" else f"{label[:-1]} {many}"


def _windowed(
    tier: Tier,
    entity: Literal["customer", "terminal", "pair"],
    measure: Measure,
    labels: str,
    nulls: Nulls,
    text: str,
    *,
    delayed: bool = False,
) -> tuple[Feature, ...]:
    """One feature for each label of `labels`."""
    return tuple(
        Feature(
            name=f"{entity}_{measure}_{label}",
            entity=entity,
            tier=tier,
            measure=measure,
            window=span(label),
            delayed=delayed,
            nulls=nulls,
            description=text.format(entity=entity, window=f"the last {_words(label)}"),
        )
        for label in labels.split()
    )


def _sums(tier: Tier, entity: Entity, labels: str) -> tuple[Feature, ...]:
    """Count, sum, mean and deviation of the amounts of an entity."""
    return (
        *_windowed(tier, entity, "count", labels, Nulls.NEVER, "transactions of the {entity} in {window}"),
        *_windowed(tier, entity, "amount_sum", labels, Nulls.NEVER, "amount of the {entity} in {window}"),
        *_windowed(tier, entity, "amount_mean", labels, Nulls.EMPTY,
                   "mean amount of the {entity} in {window}"),
        *_windowed(tier, entity, "amount_deviation", labels, Nulls.FEW,
                   "sample deviation of the amounts of the {entity} in {window}"),
    )  # fmt: skip


def _one_by_one(entity: Entity, measure: Measure, label: str, text: str) -> tuple[Feature, ...]:
    """One feature for each of the last transactions, the newest first."""
    return tuple(
        Feature(
            name=f"{entity}_{measure}_{place}",
            entity=entity,
            tier="velocity",
            measure=measure,
            window=span(label),
            place=place,
            delayed=False,
            nulls=Nulls.FEWER,
            description=f"{text} {entity}'s transaction {place} before the event, 1 is the newest, looking "
            f"back the last {_words(label)}",
        )
        for place in range(1, SEQUENCE_LENGTH + 1)
    )


def _request(
    name: str, measure: Measure, description: str, nulls: Nulls = Nulls.NEVER, window: str = "0d"
) -> Feature:
    return Feature(
        name=name,
        entity="request",
        tier="request",
        measure=measure,
        window=span(window),
        delayed=False,
        nulls=nulls,
        description=description,
    )


def _against_history(label: str) -> tuple[Feature, ...]:
    """The amount beside the customer's stored mean and deviation of a batch window."""
    return (
        _request(f"amount_to_mean_{label}", "amount_to_mean",
                 f"amount over the customer's mean of {_words(label)}", Nulls.NO_ROW, label),
        _request(f"amount_z_score_{label}", "amount_z_score",
                 f"amount minus the customer's mean of {_words(label)}, over the deviation (at least 1)",
                 Nulls.NO_SPREAD, label),
    )  # fmt: skip


FEATURES: tuple[Feature, ...] = (
    _request("amount", "amount", "amount of the transaction"),
    *_against_history("7d"),
    *_against_history("30d"),
    _request("hour", "hour", "hour of the day, UTC"),
    _request("is_night", "is_night", "1 in the hours 0 to 6, UTC"),
    _request("is_weekend", "is_weekend", "1 on Saturday and Sunday, UTC"),
    *_sums("batch", "customer", "1d 7d 30d"),
    *_sums("batch", "terminal", "1d 7d 30d"),
    *_windowed("batch", "terminal", "risk", "1d 7d 30d", Nulls.NEVER,
               "share of known fraud at the terminal in {window} before the label delay, 0 where empty",
               delayed=True),
    *_sums("velocity", "customer", "5m 30m 1h 24h"),
    *_sums("velocity", "terminal", "5m 30m 1h 24h"),
    *_windowed("velocity", "customer", "seconds_since_last", "30d", Nulls.EMPTY,
               "seconds since the customer's transaction before, looking back {window}"),
    *_windowed("velocity", "terminal", "seconds_since_last", "24h", Nulls.EMPTY,
               "seconds since the terminal's transaction before, looking back {window}"),
    *_one_by_one("customer", "amount_before", "30d", "amount of the"),
    *_one_by_one("customer", "seconds_before", "30d", "seconds since the"),
    *_windowed("velocity", "pair", "is_new", "30d", Nulls.NEVER,
               "1 where the customer was not at the terminal in {window}"),
    _request("customer_missing", "missing", "1 where no fresh row of the customer is stored"),
    _request("terminal_missing", "missing", "1 where no fresh row of the terminal is stored"),
    _request("velocity_missing", "missing", "1 where the velocity features could not be read"),
)  # fmt: skip

MODEL_FEATURES: tuple[str, ...] = tuple(feature.name for feature in FEATURES)
STORED_FEATURES: tuple[str, ...] = tuple(feature.name for feature in FEATURES if feature.tier == "batch")
VELOCITY: tuple[Feature, ...] = tuple(feature for feature in FEATURES if feature.tier == "velocity")
VELOCITY_FEATURES: tuple[str, ...] = tuple(feature.name for feature in VELOCITY)
# the customer's last transactions, the newest first: what a model of sequences reads
SEQUENCE_AMOUNTS: tuple[str, ...] = tuple(
    feature.name for feature in VELOCITY if feature.measure == "amount_before"
)
SEQUENCE_SECONDS: tuple[str, ...] = tuple(
    feature.name for feature in VELOCITY if feature.measure == "seconds_before"
)
# Present in every stored row of the entity, so their absence means that there is no row.
PRESENCE: dict[str, str] = {
    "customer": "customer_count_30d",
    "terminal": "terminal_count_30d",
    "velocity": "pair_is_new_30d",
}


def stored_features(entity: Entity) -> tuple[Feature, ...]:
    """The batch features of an entity, in their declared order."""
    return tuple(feature for feature in FEATURES if feature.tier == "batch" and feature.entity == entity)


def longest_window(entity: Entity, delay_days: int) -> int:
    """Days before as_of in which a transaction makes the entity active: its risk looks back furthest."""
    return max(feature.days + delay_days * feature.delayed for feature in stored_features(entity))


def velocity_memory(entity: Entity) -> timedelta:
    """How far back the velocity features of an entity look, a customer's pairs included."""
    own = (entity, "pair") if entity == "customer" else (entity,)
    return max(feature.window for feature in VELOCITY if feature.entity in own)


def version_of(features: Iterable[Feature]) -> str:
    """Changes with what is declared of the features, and not with their wording or their owner.

    Not with the code that computes a measure, and not with the contract's label delay: a measure that comes
    to mean something else gets another name.
    """
    text = "\n".join(feature.model_dump_json(exclude={"description", "owner"}) for feature in features)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


FEATURE_VERSION: str = version_of(FEATURES)
