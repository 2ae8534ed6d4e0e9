"""Point-in-time features of past events, through Feast's get_historical_features.

In: events with transaction_id, event_time (UTC), customer_id, terminal_id, amount_minor and whatever else.
Out: the same rows in the same order with the columns of MODEL_FEATURES. A row of features serves an
event when it is older and within its ttl; where none does, the features are NaN and the missing flag is 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from jobs.conf.settings import Settings
from jobs.core import SluiceError
from jobs.features.declarations import MODEL_FEATURES, STORED_FEATURES
from jobs.features.definitions import SERVICE, TICK
from jobs.features.request import assemble_frame
from jobs.features.store import feature_store

if TYPE_CHECKING:
    from feast import FeatureStore

CHUNK = 250_000  # events in one join; bounds its memory
NEEDED = ("event_time", "customer_id", "terminal_id", "amount_minor")


def historical_features(
    events: pd.DataFrame, settings: Settings, versions: Mapping[str, int] | None = None
) -> pd.DataFrame:
    """The events with their model inputs as they could have been known at each event.

    The feature tables are read at the named versions, at their newest where none are given.

    Raises:
        SluiceError: a needed column is missing, or the feature tables do not exist.
    """
    missing = [name for name in NEEDED if name not in events.columns]
    if missing:
        raise SluiceError(f"historical features: the events have no column {missing[0]}")
    stored = np.full((len(events), len(STORED_FEATURES)), np.nan)
    # in order of time, so that each chunk touches few partitions
    order = np.argsort(events["event_time"].to_numpy(), kind="stable")
    for start in range(0, len(events), CHUNK):
        places = order[start : start + CHUNK]
        stored[places] = _stored_features(events.iloc[places], feature_store(settings, versions))
    inputs = events[["event_time", "amount_minor"]].reset_index(drop=True)
    inputs = pd.concat([inputs, pd.DataFrame(stored, columns=list(STORED_FEATURES))], axis=1)
    features = assemble_frame(inputs).set_index(events.index)
    kept = events.drop(columns=[name for name in MODEL_FEATURES if name in events.columns])
    return pd.concat([kept, features], axis=1)


def _stored_features(events: pd.DataFrame, store: FeatureStore) -> np.ndarray:
    """One row of STORED_FEATURES per event, in the events' order."""
    moments = pd.to_datetime(events["event_time"], utc=True).dt.as_unit("us")
    # Feast joins on as_of <= moment: a tick earlier makes it strict
    entities = pd.DataFrame(
        {
            "place": np.arange(len(events)),
            "customer_id": events["customer_id"].to_numpy(dtype=np.int64),
            "terminal_id": events["terminal_id"].to_numpy(dtype=np.int64),
            "event_timestamp": (moments - TICK).array,
        }
    )
    answer = store.get_historical_features(
        entity_df=entities, features=store.get_feature_service(SERVICE)
    ).to_df()
    if len(answer) != len(events) or answer["place"].nunique() != len(events):
        raise SluiceError(
            f"historical features: {len(events)} events went in and {len(answer)} rows came back; "
            "look for two rows of one entity and as_of in the feature tables (sluice check_features)"
        )
    ordered = answer.sort_values("place")[list(STORED_FEATURES)]
    values: np.ndarray = ordered.to_numpy(dtype=np.float64)
    return values
