"""Feast objects, derived from the declarations: entities, views over the Delta tables, one service."""

from __future__ import annotations

from datetime import timedelta

from feast import Entity, FeatureService, FeatureView, Field, FileSource, ValueType
from feast.data_format import DeltaFormat
from feast.types import Float64, Int64

from jobs.conf.policy import policy_of
from jobs.conf.settings import Settings
from jobs.features import declarations
from jobs.features.tables import FEATURE_TABLES
from jobs.lake.store import lake_of

SERVICE = "fraud"
VIEWS: dict[declarations.Entity, str] = {
    "customer": "customer_history",
    "terminal": "terminal_history",
}
# A row must be older than the event, and Feast joins on "not younger": offline and online both ask for the
# moment one microsecond before the event, the resolution of every time in the lake.
TICK = timedelta(microseconds=1)


def time_to_live(settings: Settings) -> timedelta:
    """A row serves an event when as_of <= event_time - TICK <= as_of + ttl."""
    return timedelta(hours=policy_of(settings).features.batch_ttl_hours)


def feature_view(entity: declarations.Entity, settings: Settings) -> FeatureView:
    """The view of an entity over its table."""
    table = FEATURE_TABLES[entity]
    key = f"{entity}_id"
    return FeatureView(
        name=VIEWS[entity],
        description=table.description,
        entities=[Entity(name=entity, join_keys=[key], value_type=ValueType.INT64)],
        ttl=time_to_live(settings),
        schema=[
            Field(name=key, dtype=Int64),
            *(
                Field(name=feature.name, dtype=Float64, description=feature.description)
                for feature in declarations.stored_features(entity)
            ),
        ],
        source=FileSource(
            name=table.name,
            path=lake_of(settings).path(table),
            file_format=DeltaFormat(),
            timestamp_field="as_of",
        ),
        online=True,
        tags={"feature_version": declarations.FEATURE_VERSION},
    )


def feast_objects(settings: Settings) -> list[Entity | FeatureView | FeatureService]:
    """Everything that Feast's registry holds."""
    views = [feature_view(entity, settings) for entity in VIEWS]
    entities = [
        Entity(name=entity, join_keys=[f"{entity}_id"], value_type=ValueType.INT64) for entity in VIEWS
    ]
    service = FeatureService(
        name=SERVICE,
        features=views,
        description="stored inputs of the fraud model",
        tags={"feature_version": declarations.FEATURE_VERSION},
    )
    return [*entities, *views, service]
