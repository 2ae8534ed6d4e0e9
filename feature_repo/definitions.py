"""Entities, views and the service `fraud`, derived from jobs/features/declarations.py."""

from feast import Entity, FeatureService, FeatureView

from jobs.conf.settings import settings
from jobs.features.definitions import feast_objects

_objects = feast_objects(settings())
customer, terminal = (found for found in _objects if isinstance(found, Entity))
customer_history, terminal_history = (found for found in _objects if isinstance(found, FeatureView))
(fraud,) = (found for found in _objects if isinstance(found, FeatureService))
