"""Features of the prediction log as columns.

In: rows with the log's `features` and `feature_version`. A list of values means nothing without the
declaration that it was made by, so only today's version is read; rows of another one are told apart, counted
and named in the log of the job.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
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
    _require_lists(lake)
    return log_rows(lake, first, last, columns + LOGGED, hour)


def logged_values(
    lake: Lake,
    day: date,
    columns: Sequence[str],
    features: Sequence[str],
    wanted: Callable[[pa.RecordBatch], pa.Array],
    wanted_by: Sequence[str],
) -> pd.DataFrame:
    """The wanted rows of a day with some columns and some features: nothing else of the log is kept.

    `wanted` sees the columns `wanted_by` too. A feature is float32, NaN as in `with_features`.

    Raises:
        SluiceError: as `logged_rows`.
    """
    _require_lists(lake)
    places = [MODEL_FEATURES.index(name) for name in features]
    frames: list[pd.DataFrame] = []
    others = Counter[str]()
    read = list(dict.fromkeys([*columns, *wanted_by, *LOGGED]))
    for batch in lake.scan(PREDICTIONS, first=day, last=day, columns=read):
        chosen = batch.filter(pc.fill_null(wanted(batch), False))
        lists, versions = chosen["features"], chosen["feature_version"]
        same = pc.and_(pc.equal(versions, FEATURE_VERSION),
                       pc.equal(pc.list_value_length(lists), len(MODEL_FEATURES)))  # fmt: skip
        ours = pc.fill_null(same, False)
        strangers = versions.filter(pc.and_(pc.is_valid(lists), pc.invert(ours)))
        others.update(pc.fill_null(strangers, "").to_pylist())
        values = np.full((len(chosen), len(places)), np.nan, dtype=np.float32)
        held = lists.filter(ours).flatten().to_numpy(zero_copy_only=False)
        values[ours.to_numpy(zero_copy_only=False)] = held.reshape(-1, len(MODEL_FEATURES))[:, places]
        frame = chosen.select(list(columns)).to_pandas()
        frames.append(frame.join(pd.DataFrame(values, frame.index, list(features))))
    _warn_of(others)
    if frames:
        return pd.concat(frames, ignore_index=True)
    schema = pa.schema([PREDICTIONS.schema.field(name) for name in columns])
    empty = pd.DataFrame(schema.empty_table().to_pandas())
    return empty.assign(**dict.fromkeys(features, np.float32("nan")))


def _require_lists(lake: Lake) -> None:
    try:
        stored = {field.name for field in lake.delta(PREDICTIONS).schema().fields}
    except TableMissing:
        stored = set(LOGGED)
    if not stored.issuperset(LOGGED):
        raise SluiceError(
            "table predictions keeps the features as an older version of Sluice did; start the scoring "
            "service once: it gives the table its new columns before it writes the first rows"
        )


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
    _warn_of(Counter(rows.loc[with_some & ~ours, "feature_version"].fillna("")))
    return pd.Series(with_some & ours, index=rows.index, dtype=bool)


def _warn_of(others: Counter[str]) -> None:
    if others:
        LOGGER.warning(
            "%d rows of the prediction log hold features of version %s, not of %s: they are not read",
            sum(others.values()), ", ".join(sorted(others)) or "unknown",
            FEATURE_VERSION,
        )  # fmt: skip


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
