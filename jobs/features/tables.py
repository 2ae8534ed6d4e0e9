"""The feature tables, derived from the declarations: one row per active entity and day, written by Spark."""

from __future__ import annotations

import pyarrow as pa

from jobs.features.declarations import Entity, stored_features
from jobs.lake.tables import TIMESTAMP, Table


def _table(entity: Entity) -> Table:
    key = f"{entity}_id"
    # every feature is a double, counts too: the same type in Delta, Feast and the model's matrix
    fields = [
        pa.field("day", pa.date32()),
        pa.field(key, pa.int64()),
        pa.field("as_of", TIMESTAMP),
        *(pa.field(feature.name, pa.float64()) for feature in stored_features(entity)),
    ]
    return Table(
        f"{entity}_features",
        f"features of each active {entity} as of the midnight that ends the day",
        pa.schema(fields),
        key=(key, "day"),
        writer="spark",
    )


CUSTOMER_FEATURES = _table("customer")
TERMINAL_FEATURES = _table("terminal")
FEATURE_TABLES: dict[Entity, Table] = {"customer": CUSTOMER_FEATURES, "terminal": TERMINAL_FEATURES}
