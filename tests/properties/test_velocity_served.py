"""Velocity features are the same numbers, bit for bit, whether served one by one or built by Spark."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from jobs.conf.settings import Settings
from jobs.features.declarations import VELOCITY_FEATURES
from jobs.features.velocity import velocity_features
from jobs.features.velocity_store import Event, open_velocity_store
from jobs.lake.tables import TRANSACTIONS
from jobs.spark import spark_session
from tests.features_data import DAY

if TYPE_CHECKING:
    from tests.redis_server import RedisServer

pytest_plugins = ("tests.spark_server", "tests.redis_server")
START = pd.Timestamp(DAY, tz="UTC")
ROWS = 4000


def busy_days() -> pd.DataFrame:
    """Three days of transactions with ties, half of them at terminal 1."""
    generator = np.random.default_rng(7)
    seconds = generator.integers(0, 3 * 86_400, ROWS)
    # ties, and a microsecond after one another; served in their order
    ticks = np.sort(seconds * 1_000_000 + generator.integers(0, 2, ROWS))
    moments = START + pd.to_timedelta(ticks, "us")
    frame = pd.DataFrame(
        {
            "day": moments.date,
            "transaction_id": np.arange(1, ROWS + 1),
            "event_time": moments,
            "customer_id": generator.integers(1, 40, ROWS),
            "terminal_id": np.where(generator.random(ROWS) < 0.5, 1, generator.integers(2, 200, ROWS)),
            "amount_minor": generator.integers(1, 2_000_000, ROWS),
            "available_at": moments.floor("D") + pd.Timedelta(days=1),
            "file_day": moments.date,
        }
    )
    return pa.Table.from_pandas(frame, TRANSACTIONS.schema, preserve_index=False).to_pandas()


@pytest.mark.parametrize("kind", ["sqlite", "redis"])
def test_what_was_served_is_what_spark_builds(
    home: Settings, spark_remote: str, kind: str, request: pytest.FixtureRequest
) -> None:
    given = {"online_store": kind}
    if kind == "redis":
        server: RedisServer = request.getfixturevalue("redis_server")
        given["redis_url"] = server.url
    store = open_velocity_store(home.model_copy(update=given))
    transactions = busy_days()
    served = {
        row.transaction_id: store.take(
            Event(
                row.transaction_id,
                row.event_time.to_pydatetime(),
                row.customer_id,
                row.terminal_id,
                row.amount_minor,
            )
        )
        for row in transactions.itertuples()
    }
    store.close()
    session = spark_session(Settings(spark_remote=spark_remote))
    rows = session.createDataFrame(pa.Table.from_pandas(transactions, TRANSACTIONS.schema))
    days = [DAY + timedelta(days=offset) for offset in range(4)]
    built = velocity_features(rows, days).toPandas().set_index("transaction_id")
    assert set(built.index) == set(served)
    online = pd.DataFrame.from_dict(served, orient="index", columns=list(VELOCITY_FEATURES))
    offline = built.loc[online.index, list(VELOCITY_FEATURES)].astype("float64")
    for name in VELOCITY_FEATURES:
        np.testing.assert_array_equal(online[name].to_numpy(), offline[name].to_numpy(), err_msg=name)
    assert online["terminal_count_24h"].max() > 600
