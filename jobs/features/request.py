"""Request-time features: stored features and one event in, the model's inputs out.

`assemble` answers one request without numpy or pandas; `assemble_frame` gives the same numbers for a frame.
A feature that is absent is NaN, and a flag says that its entity has no fresh row.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from jobs.features.declarations import (
    MODEL_FEATURES,
    NIGHT_ENDS,
    PRESENCE,
    SATURDAY,
    STORED_FEATURES,
)

if TYPE_CHECKING:
    import pandas as pd


def assemble(amount_minor: int, event_time: datetime, stored: Mapping[str, float | None]) -> list[float]:
    """The inputs of one event in the order of MODEL_FEATURES; `event_time` must know its zone."""
    moment = event_time.astimezone(UTC)
    known = {name: _number(stored.get(name)) for name in STORED_FEATURES}
    amount = amount_minor / 100
    mean = known["customer_amount_mean_30d"]
    known["amount"] = amount
    known["amount_to_mean_30d"] = amount / mean if mean > 0 else math.nan
    known["hour"] = float(moment.hour)
    known["is_night"] = float(moment.hour <= NIGHT_ENDS)
    known["is_weekend"] = float(moment.weekday() >= SATURDAY)
    for entity, presence in PRESENCE.items():
        known[f"{entity}_missing"] = float(math.isnan(known[presence]))
    return [known[name] for name in MODEL_FEATURES]


def assemble_frame(frame: pd.DataFrame) -> pd.DataFrame:
    """The inputs of many events: a frame of MODEL_FEATURES with the index of `frame`.

    Args:
        frame: event_time (with a zone), amount_minor and the stored features; an absent one is NaN.
    """
    import numpy as np
    import pandas as pd

    moment = pd.to_datetime(frame["event_time"], utc=True).dt
    columns: dict[str, pd.Series] = {
        name: frame[name].astype("float64") if name in frame else pd.Series(np.nan, index=frame.index)
        for name in STORED_FEATURES
    }
    amount = frame["amount_minor"].astype("float64") / 100
    mean = columns["customer_amount_mean_30d"]
    columns["amount"] = amount
    columns["amount_to_mean_30d"] = amount / mean.where(mean > 0)
    columns["hour"] = moment.hour.astype("float64")
    columns["is_night"] = (moment.hour <= NIGHT_ENDS).astype("float64")
    columns["is_weekend"] = (moment.weekday >= SATURDAY).astype("float64")
    for entity, presence in PRESENCE.items():
        columns[f"{entity}_missing"] = columns[presence].isna().astype("float64")
    return pd.DataFrame({name: columns[name] for name in MODEL_FEATURES}, index=frame.index)


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
