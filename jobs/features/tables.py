"""The feature tables, derived from the declarations and written by Spark.

One row per active entity and day for the batch features, one per transaction for the velocity features.
A feature that is declared anew becomes a column with the next build; days that are not built again are null.
One that is no longer declared keeps its column, which nobody reads and which is null in what is built.
"""

from __future__ import annotations

import pyarrow as pa

from jobs.features.declarations import VELOCITY_FEATURES, Entity, stored_features
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
        optional=tuple(feature.name for feature in stored_features(entity)),
        derived=True,
    )


CUSTOMER_FEATURES = _table("customer")
TERMINAL_FEATURES = _table("terminal")
FEATURE_TABLES: dict[Entity, Table] = {"customer": CUSTOMER_FEATURES, "terminal": TERMINAL_FEATURES}
TRANSACTION_VELOCITY = Table(
    "transaction_velocity",
    "velocity features of each transaction, as the scoring service saw them; as_of is the microsecond before",
    pa.schema(
        [
            pa.field("day", pa.date32()),
            pa.field("transaction_id", pa.int64()),
            pa.field("as_of", TIMESTAMP),
            *(pa.field(name, pa.float64()) for name in VELOCITY_FEATURES),
        ]
    ),
    key=("transaction_id",),
    writer="spark",
    optional=VELOCITY_FEATURES,
    derived=True,
)
BUILT_TABLES: tuple[Table, ...] = (*FEATURE_TABLES.values(), TRANSACTION_VELOCITY)
