"""Tags of the DAGs."""

from enum import StrEnum


class Tag(StrEnum):
    """The stage of the chain that a DAG belongs to."""

    DATA = "data"
    FEATURES = "features"
    MODEL = "model"
    PROMOTION = "promotion"
    MONITORING = "monitoring"
    MAINTENANCE = "maintenance"
