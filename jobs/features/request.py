"""Request-time features: stored and velocity features and one event in, the model's inputs out.

`assemble` answers one request without numpy or pandas; `assemble_frame` gives the same numbers for a frame.
A feature that is absent is NaN, and a flag says that its entity has no fresh row, or that the velocity
features could not be read.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from operator import itemgetter
from typing import TYPE_CHECKING

from jobs.features.declarations import (
    FEATURES,
    MODEL_FEATURES,
    NIGHT_ENDS,
    PRESENCE,
    SATURDAY,
    STORED_FEATURES,
    VELOCITY_FEATURES,
    Measure,
)
from jobs.features.measures import SMALLEST_DEVIATION

if TYPE_CHECKING:
    import pandas as pd

NO_VELOCITY = (math.nan,) * len(VELOCITY_FEATURES)


def _labels(name: Measure) -> list[str]:
    return [feature.label for feature in FEATURES if feature.measure == name]


# everything known of an event is one row of these, in this order; ORDER takes the model's inputs out of it
CLOCK = ("amount", "hour", "is_night", "is_weekend")
RATIOS, Z_SCORES = _labels("amount_to_mean"), _labels("amount_z_score")
COMPUTED = (
    *(f"amount_to_mean_{label}" for label in RATIOS),
    *(f"amount_z_score_{label}" for label in Z_SCORES),
    *(f"{entity}_missing" for entity in PRESENCE),
)
KNOWN = (*STORED_FEATURES, *VELOCITY_FEATURES)
ROW = (*KNOWN, *CLOCK, *COMPUTED)
ORDER = itemgetter(*(ROW.index(name) for name in MODEL_FEATURES))
RATIO_PLACES = tuple(KNOWN.index(f"customer_amount_mean_{label}") for label in RATIOS)
Z_PLACES = tuple(
    (KNOWN.index(f"customer_amount_mean_{label}"), KNOWN.index(f"customer_amount_deviation_{label}"))
    for label in Z_SCORES
)
PRESENCE_PLACES = tuple(KNOWN.index(name) for name in PRESENCE.values())


def assemble(
    amount_minor: int,
    event_time: datetime,
    stored: Mapping[str, float | None],
    velocity: Sequence[float] | None,
) -> list[float]:
    """The inputs of one event in the order of MODEL_FEATURES.

    Args:
        amount_minor: the amount in minor units.
        event_time: it must know its zone.
        stored: STORED_FEATURES by name, None or absent for a null.
        velocity: the values of VELOCITY_FEATURES in their order; None where they could not be read.
    """
    row = [math.nan if value is None else value for value in map(stored.get, STORED_FEATURES)]
    return assemble_values(amount_minor, event_time, row, velocity)


def assemble_values(
    amount_minor: int, event_time: datetime, stored: Sequence[float], velocity: Sequence[float] | None
) -> list[float]:
    """The same, with the values of STORED_FEATURES in their order, NaN for a null."""
    moment = event_time.astimezone(UTC)
    amount = float(amount_minor) / 100
    row = [*stored, *(NO_VELOCITY if velocity is None else velocity)]
    computed = [
        amount,
        float(moment.hour),
        float(moment.hour <= NIGHT_ENDS),
        float(moment.weekday() >= SATURDAY),
    ]
    for place in RATIO_PLACES:
        mean = row[place]
        computed.append(amount / mean if mean > 0 else math.nan)
    for place, spread in Z_PLACES:
        deviation = row[spread]
        # a NaN is never below the smallest, so it stays
        least = SMALLEST_DEVIATION if deviation < SMALLEST_DEVIATION else deviation
        computed.append((amount - row[place]) / least)
    for place in PRESENCE_PLACES:
        computed.append(float(math.isnan(row[place])))
    return list(ORDER(row + computed))


def assemble_frame(frame: pd.DataFrame) -> pd.DataFrame:
    """The inputs of many events: a frame of MODEL_FEATURES with the index of `frame`.

    Args:
        frame: event_time (with a zone), amount_minor, and stored and velocity features; an absent one is NaN.
    """
    import numpy as np
    import pandas as pd

    moment = pd.to_datetime(frame["event_time"], utc=True).dt
    columns: dict[str, pd.Series] = {
        name: frame[name].astype("float64") if name in frame else pd.Series(np.nan, index=frame.index)
        for name in KNOWN
    }
    amount = frame["amount_minor"].astype("float64") / 100
    columns["amount"] = amount
    columns["hour"] = moment.hour.astype("float64")
    columns["is_night"] = (moment.hour <= NIGHT_ENDS).astype("float64")
    columns["is_weekend"] = (moment.weekday >= SATURDAY).astype("float64")
    for label in RATIOS:
        mean = columns[f"customer_amount_mean_{label}"]
        columns[f"amount_to_mean_{label}"] = amount / mean.where(mean > 0)
    for label in Z_SCORES:
        spread = columns[f"customer_amount_deviation_{label}"].clip(lower=SMALLEST_DEVIATION)
        columns[f"amount_z_score_{label}"] = (amount - columns[f"customer_amount_mean_{label}"]) / spread
    for entity, presence in PRESENCE.items():
        columns[f"{entity}_missing"] = columns[presence].isna().astype("float64")
    return pd.DataFrame({name: columns[name] for name in MODEL_FEATURES}, index=frame.index)
