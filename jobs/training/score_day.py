"""Job score_day: scores of all transactions of a day by one version, without anybody waiting for them.

In: transactions of the day, feature tables (through Feast); the champion's bundle or the named version's.
Out: table scores, partition of the day: calibrated score and the policy's decision. Rules take no part.
Errors: SluiceError where there is no champion, no such version, or no transaction of that day.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
from pydantic import Field

from jobs.conf.policy import policy_of
from jobs.conf.settings import Settings
from jobs.core import DayParams, Receipt, SluiceError, Stopwatch
from jobs.features.history import historical_features
from jobs.features.tables import TRANSACTION_VELOCITY
from jobs.lake.store import conform, content_digest, lake_of
from jobs.lake.tables import SCORES, TRANSACTIONS
from jobs.promotion.state import read_routing, registry_client
from jobs.serving.bundle import ModelBundle, decide
from jobs.serving.bundles import fetch_bundle

READS = ("transactions", "customer_features", "terminal_features", "transaction_velocity")
WRITES = ("scores",)


class Params(DayParams):
    """Which day, by which version."""

    version: str = Field("", pattern=r"^\d*$", description="version of the registered model, empty: champion")


def champion_version(settings: Settings) -> str:
    """The version that serves.

    Raises:
        SluiceError: there is none, or the alias points at one that may not serve.
    """
    routing = read_routing(registry_client(settings), settings.model_name)
    if routing.champion is None:
        why = "; ".join(routing.alerts) or "no version has the alias champion"
        raise SluiceError(f"score_day: {why}; name a version, or promote one")
    return routing.champion


def run(params: Params, settings: Settings) -> Receipt:
    watch = Stopwatch()
    lake = lake_of(settings)
    events = lake.read(TRANSACTIONS, first=params.day, last=params.day).to_pandas()
    if events.empty:
        raise SluiceError(f"score_day: no transactions of {params.day}; run the ingestion of that day first")
    version = params.version or champion_version(settings)
    decisions = policy_of(settings).decisions
    bundle = ModelBundle.load(fetch_bundle(settings, version), decisions)
    if str(params.day) not in lake.partitions(TRANSACTION_VELOCITY):
        raise SluiceError(
            f"score_day: no features of {params.day}; run `sluice build_features --day {params.day}` (DAG "
            "fraud_features) first"
        )
    joined = historical_features(events, settings)
    scores = bundle.score(np.ascontiguousarray(joined[list(bundle.features)].to_numpy(dtype=np.float32)))
    rows = pd.DataFrame(
        {
            "day": params.day,
            "transaction_id": joined["transaction_id"],
            "model_version": version,
            "score": scores,
            "decision": [decide(float(score), decisions) for score in scores],
        }
    )
    table = conform(SCORES, pa.Table.from_pandas(rows, preserve_index=False))
    written = lake.replace(SCORES, table, params.day)
    return Receipt(
        job="score_day",
        table=SCORES.name,
        partition=str(params.day),
        version=written,
        rows=len(rows),
        digest=content_digest(table),
        seconds=watch.seconds,
        facts={"model_version": version, "decisions": rows["decision"].value_counts().to_dict()},
    )
