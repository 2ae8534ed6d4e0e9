"""Tables of the lake as Spark frames, at a version and a range of partitions."""

from __future__ import annotations

from datetime import date
from functools import reduce

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F  # noqa: N812 - the name every Spark reader knows

from jobs.lake.storage import spark_address
from jobs.lake.store import Lake, Layer
from jobs.lake.tables import Table


def read_table(
    session: SparkSession, lake: Lake, table: Table, version: int, first: date, last: date
) -> DataFrame:
    """Partitions first to last of a version, both included."""
    layers = [_layer(session, table, layer) for layer in lake.layers(table, version)]
    rows = reduce(lambda above, below: above.union(below), layers)
    return rows.filter(F.col(table.partition).between(F.lit(first), F.lit(last)))


def _layer(session: SparkSession, table: Table, layer: Layer) -> DataFrame:
    rows = session.read.format("delta").option("versionAsOf", layer.version).load(spark_address(layer.path))
    if layer.without is not None:
        low, high = (F.lit(edge).cast("date") for edge in layer.without)
        rows = rows.filter(~F.col(table.partition).between(low, high))
    return rows.select(*table.schema.names)
