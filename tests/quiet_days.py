"""Days of the simulator without drift, with all features and the scores of a model: what monitoring expects.

Features by Polars (the benchmarks' peer, held to ours there), so that no Spark is needed; a small forest of
trees is fitted on the first days and scores the later ones.
"""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
from xgboost import XGBClassifier

from jobs.core import days_between
from jobs.features.declarations import MODEL_FEATURES, STORED_FEATURES
from jobs.features.request import assemble_frame
from jobs.simulator.simulate import simulate_day
from jobs.simulator.world import SimulatorConfig
from tests.benchmarks.features_data import DELAY_DAYS, LABELS, TRANSACTIONS
from tests.benchmarks.features_full_polars import batch, velocity

START = date(2026, 1, 1)
WARM = 38  # days until all windows are full
FITTED = 14  # days before that on which the model is fitted


def quiet_history(folder: Path, config: SimulatorConfig, days: int) -> pd.DataFrame:
    """Rows of `days` days, from the first one whose windows are full."""
    last = START + timedelta(days=WARM + days - 1)
    parts = [simulate_day(config, day).transactions.assign(day=day) for day in days_between(START, last)]
    rows = pd.concat(parts, ignore_index=True)
    rows["event_time"] = pd.to_datetime(rows["event_time"], utc=True).dt.as_unit("us")
    features = features_of(rows, folder)
    frame = pd.concat([rows.drop(columns="pattern"), features], axis=1)
    first = START + timedelta(days=WARM)
    fitted = frame[(frame["day"] < first) & (frame["day"] >= first - timedelta(days=FITTED))]
    model = XGBClassifier(n_estimators=60, max_depth=4, learning_rate=0.2, n_jobs=1, random_state=7)
    model.fit(fitted[list(MODEL_FEATURES)], fitted["is_fraud"])
    kept = frame[frame["day"] >= first].reset_index(drop=True)
    return kept.assign(score=model.predict_proba(kept[list(MODEL_FEATURES)])[:, 1].astype(np.float64))


def features_of(rows: pd.DataFrame, folder: Path) -> pd.DataFrame:
    """The model's inputs of every row: stored rows are those of the day before."""
    for name in (TRANSACTIONS, LABELS):
        (folder / name).mkdir(parents=True, exist_ok=True)
    known = ["day", "transaction_id", "event_time", "customer_id", "terminal_id", "amount_minor"]
    pl.from_pandas(rows[known]).write_parquet(folder / TRANSACTIONS / "all.parquet")
    frauds = rows.loc[rows["is_fraud"] == 1, ["transaction_id", "is_fraud"]]
    pl.from_pandas(frauds).write_parquet(folder / LABELS / "all.parquet")
    joined = rows[known]
    for entity in ("customer", "terminal"):
        stored = batch(folder, entity).to_pandas()  # type: ignore[arg-type]
        stored["day"] = [each + timedelta(days=1) for each in pd.to_datetime(stored["day"]).dt.date]
        joined = joined.merge(stored, on=["day", f"{entity}_id"], how="left")
    fast = velocity(folder).to_pandas().drop(columns="day")
    joined = joined.merge(fast, on="transaction_id", how="left")
    assert len(joined) == len(rows) > DELAY_DAYS
    assert set(STORED_FEATURES) <= set(joined.columns)
    return assemble_frame(joined.drop(columns=["day", "transaction_id", "customer_id", "terminal_id"]))
