"""Entities, views and the service `fraud`, derived from jobs/features/declarations.py."""

from feast import Entity, FeatureService, FeatureView

from jobs.conf.settings import settings
from jobs.features.definitions import feast_objects

_objects = feast_objects(settings())
customer, terminal, transaction = (found for found in _objects if isinstance(found, Entity))
customer_history, terminal_history, transaction_velocity = (
    found for found in _objects if isinstance(found, FeatureView)
)
fraud, fraud_online = (found for found in _objects if isinstance(found, FeatureService))
