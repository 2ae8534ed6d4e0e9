"""Features of the prediction log as columns.

In: rows with the log's `features` and `feature_version`. A list of values means nothing without the
declaration that it was made by, so only today's version is read; rows of another one are told apart, counted
and named in the log of the job.
"""

from __future__ import annotations

import logging
from datetime import date

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from jobs.core import SluiceError
from jobs.features.declarations import FEATURE_VERSION, MODEL_FEATURES
from jobs.lake.storage import TableMissing
from jobs.lake.store import Lake
from jobs.lake.tables import PREDICTIONS

LOGGER = logging.getLogger(__name__)
LOGGED = ["feature_version", "features"]


def logged_rows(
    lake: Lake, first: date, last: date, columns: list[str], hour: int | None = None
) -> pd.DataFrame:
    """`log_rows` with the two columns more that features need.

    Raises:
        SluiceError: the table was written by an older version of Sluice and keeps the features as text.
    """
    try:
        stored = {field.name for field in lake.delta(PREDICTIONS).schema().fields}
    except TableMissing:
        stored = set(LOGGED)
    if not stored.issuperset(LOGGED):
        raise SluiceError(
            "table predictions keeps the features as an older version of Sluice did; start the scoring "
            "service once: it gives the table its new columns before it writes the first rows"
        )
    return log_rows(lake, first, last, columns + LOGGED, hour)


def log_rows(
    lake: Lake, first: date, last: date, columns: list[str], hour: int | None = None
) -> pd.DataFrame:
    """Rows of the log with some columns, of whole days or of one hour of them: then no other row is kept."""
    if hour is None:
        return pd.DataFrame(lake.read(PREDICTIONS, first=first, last=last, columns=columns).to_pandas())
    needed = list(dict.fromkeys([*columns, "event_time"]))
    found = [
        batch.filter(pc.equal(pc.hour(batch["event_time"]), hour))
        for batch in lake.scan(PREDICTIONS, first=first, last=last, columns=needed)
    ]
    schema = pa.schema([PREDICTIONS.schema.field(name) for name in needed])
    return pd.DataFrame(pa.Table.from_batches(found, schema).select(columns).to_pandas())


def of_this_version(rows: pd.DataFrame) -> pd.Series:
    """Where a row has features, by the declaration of today; rows of another one are warned of."""
    lengths = rows["features"].map(_length, na_action="ignore")
    with_some = rows["features"].notna()
    ours = rows["feature_version"].eq(FEATURE_VERSION) & lengths.eq(len(MODEL_FEATURES))
    others = rows.loc[with_some & ~ours, "feature_version"].fillna("")
    if len(others):
        LOGGER.warning(
            "%d rows of the prediction log hold features of version %s, not of %s: they are not read",
            len(others), ", ".join(sorted(set(others))) or "unknown", FEATURE_VERSION,
        )  # fmt: skip
    return pd.Series(with_some & ours, index=rows.index, dtype=bool)


def with_features(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows with a float64 column for each feature of the model.

    NaN where a value is null, and throughout a row that has no features of today's version.
    """
    ours = of_this_version(rows).to_numpy()
    values = np.full((len(rows), len(MODEL_FEATURES)), np.nan)
    if ours.any():
        values[ours] = np.stack(rows.loc[ours, "features"].to_list()).astype(np.float64)
    found = pd.DataFrame(values, rows.index, list(MODEL_FEATURES))
    return rows.drop(columns=LOGGED).join(found)


def _length(values: object) -> int:
    return len(values) if isinstance(values, (list, np.ndarray)) else 0
