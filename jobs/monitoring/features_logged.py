"""Features of the prediction log as columns: they are kept as one JSON object a row."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd


def with_features(rows: pd.DataFrame, names: tuple[str, ...]) -> pd.DataFrame:
    """The rows without their JSON, with a float64 column per feature; NaN where one is null or absent."""
    parsed = [json.loads(text) if text else {} for text in rows["features"].fillna("")]
    values = {name: np.array([each.get(name) for each in parsed], dtype=np.float64) for name in names}
    return rows.drop(columns="features").join(pd.DataFrame(values, index=rows.index))
