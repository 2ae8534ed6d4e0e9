"""Feast objects, derived from the declarations: entities, views over the Delta tables, one service.

The batch views are materialized. The velocity view holds what the scoring service saw at each transaction,
keyed by it, for training; online the service keeps these values itself (jobs/features/velocity_store.py), so
that the service `fraud_online` leaves that view out. A view says in a tag how long after its as_of a row is
published: Feast has no word of its own for it.
Errors: SluiceError where the contract has rows expire before they are published.
"""

from __future__ import annotations

from datetime import timedelta

from feast import Entity, FeatureService, FeatureView, Field, FileSource, ValueType
from feast.data_format import DeltaFormat
from feast.types import Float64, Int64

from jobs.conf.contract import contract_of
from jobs.conf.policy import policy_of
from jobs.conf.settings import Settings
from jobs.core import SluiceError
from jobs.features import declarations
from jobs.features.packed import VERSION_TAG
from jobs.features.tables import FEATURE_TABLES, TRANSACTION_VELOCITY
from jobs.lake.store import lake_of
from jobs.lake.tables import Table

SERVICE = "fraud"
ONLINE_SERVICE = "fraud_online"
VIEWS: dict[declarations.Entity, str] = {
    "customer": "customer_history",
    "terminal": "terminal_history",
}
# A row must be older than the event, and Feast joins on "not younger": offline and online both ask for the
# moment one microsecond before the event, the resolution of every time in the lake.
TICK = timedelta(microseconds=1)
PUBLISHED = "published_after_hours"  # the tag of a view


def time_to_live(settings: Settings) -> timedelta:
    """How long after its as_of a batch row serves: as_of <= event_time - TICK <= as_of + ttl."""
    return timedelta(hours=policy_of(settings).features.batch_ttl_hours)


def publication(view: FeatureView) -> timedelta:
    """How long after its as_of a row of the view is known: offline none serves an event before that."""
    return timedelta(hours=float(view.tags[PUBLISHED]))


def feature_view(entity: declarations.Entity, settings: Settings) -> FeatureView:
    """The view of an entity over its table of batch features."""
    features, ttl = declarations.stored_features(entity), time_to_live(settings)
    hours = contract_of(settings).published_after_hours
    if timedelta(hours=hours) >= ttl:
        raise SluiceError(
            f"the contract's files are due {hours:g} hours after their day, when its features have expired: "
            f"raise features.batch_ttl_hours of the policy, which is {ttl / timedelta(hours=1):g}"
        )
    return _view(VIEWS[entity], entity, FEATURE_TABLES[entity], features, ttl, hours, settings)


def velocity_view(settings: Settings) -> FeatureView:
    """The view of each transaction's own velocity features."""
    ttl = timedelta(minutes=policy_of(settings).features.velocity_ttl_minutes)
    table = TRANSACTION_VELOCITY
    return _view(table.name, "transaction", table, declarations.VELOCITY, ttl, 0.0, settings, online=False)


def feature_views(settings: Settings) -> list[FeatureView]:
    """All views of the service, in the order of their tables."""
    return [*(feature_view(entity, settings) for entity in VIEWS), velocity_view(settings)]


def _view(
    name: str,
    entity: str,
    table: Table,
    features: tuple[declarations.Feature, ...],
    ttl: timedelta,
    published_after_hours: float,
    settings: Settings,
    *,
    online: bool = True,
) -> FeatureView:
    key = f"{entity}_id"
    return FeatureView(
        name=name,
        description=table.description,
        entities=[Entity(name=entity, join_keys=[key], value_type=ValueType.INT64)],
        ttl=ttl,
        schema=[
            Field(name=key, dtype=Int64),
            *(
                Field(name=feature.name, dtype=Float64, description=feature.description)
                for feature in features
            ),
        ],
        source=FileSource(
            name=table.name,
            path=lake_of(settings).path(table),
            file_format=DeltaFormat(),
            timestamp_field="as_of",
        ),
        online=online,
        owner=declarations.OWNER,
        tags={VERSION_TAG: declarations.version_of(features), PUBLISHED: str(published_after_hours)},
    )


def feast_objects(settings: Settings) -> list[Entity | FeatureView | FeatureService]:
    """Everything that Feast's registry holds."""
    entities = [
        Entity(name=entity, join_keys=[f"{entity}_id"], value_type=ValueType.INT64)
        for entity in (*VIEWS, "transaction")
    ]
    views = feature_views(settings)
    services = [
        FeatureService(
            name=name,
            features=found,
            description=f"stored inputs of the fraud model{note}",
            tags={VERSION_TAG: declarations.FEATURE_VERSION},
        )
        for name, found, note in (
            (SERVICE, views, ""),
            (ONLINE_SERVICE, [view for view in views if view.online], " that the online store holds"),
        )
    ]
    return [*entities, *views, *services]
