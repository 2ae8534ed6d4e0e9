"""A small made-up training frame, for tests: real features' names, a signal in a few of them."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd

from jobs.conf.policy import Training
from jobs.conf.settings import Settings, load_settings
from jobs.features.declarations import FEATURE_VERSION, MODEL_FEATURES
from jobs.training.frame import FrameFacts, check_roles, split_days, with_training_labels
from jobs.training.origin import ORIGIN_FILE, origin_of
from jobs.training.run_folder import RunFolder
from tests.served_bundles import registry_in

DAY = date(2026, 3, 1)
LAST = DAY - timedelta(days=3)
SPLIT_POLICY = Training(
    window_days=40,
    validation_days=5,
    test_days=8,
    calibration_days=5,
    known_card_days=14,
    good_rows_per_fraud=30,
    seeds=(7, 17, 27),
)


def made_rows(per_day: int, days: int = 40, seed: int = 1) -> pd.DataFrame:
    """Transactions of the days that end with LAST, with features, a label and gaps."""
    generator = np.random.default_rng(seed)
    rows = per_day * days
    frame = pd.DataFrame({"transaction_id": np.arange(1, rows + 1)})
    offsets = np.repeat(np.arange(days), per_day)
    first = LAST - timedelta(days=days - 1)
    frame["day"] = [first + timedelta(days=int(offset)) for offset in offsets]
    hour = generator.integers(0, 24, rows)
    start = datetime(first.year, first.month, first.day)  # noqa: DTZ001 - the zone follows below
    moments = [start + timedelta(days=int(d), hours=int(h)) for d, h in zip(offsets, hour, strict=True)]
    frame["event_time"] = pd.to_datetime(moments, utc=True).as_unit("us")
    frame["customer_id"] = generator.integers(1, max(per_day, 50), rows)
    frame["terminal_id"] = generator.integers(1, max(per_day, 50), rows)
    frame["amount_minor"] = np.exp(generator.normal(8.0, 1.2, rows)).astype(np.int64) + 1
    for name in MODEL_FEATURES:
        frame[name] = generator.gamma(2.0, 2.0, rows)
    frame["amount"] = frame["amount_minor"] / 100
    frame["hour"] = hour
    frame["is_night"] = (hour <= 6).astype(float)
    frame["is_weekend"] = [float(day.weekday() >= 5) for day in frame["day"]]
    for entity in ("customer", "terminal"):
        missing = generator.random(rows) < 0.05
        stored = [name for name in MODEL_FEATURES if name.startswith(f"{entity}_") and "missing" not in name]
        frame.loc[missing, stored] = np.nan
        frame[f"{entity}_missing"] = missing.astype(float)
    risk = frame["terminal_risk_7d"].fillna(2.0) - 4
    ratio = frame["amount_to_mean_30d"].fillna(2.0) - 4
    # risky terminal and unusual amount together: no straight line finds it
    together = (risk > 1) & (ratio > 1)
    evidence = 5.0 * together + 0.15 * risk + 0.3 * frame["is_night"] - 4.6
    chance = 1 / (1 + np.exp(-evidence))
    frame["is_fraud"] = (generator.random(rows) < chance).astype("int8")
    return frame


def made_run(settings: Settings, run: str, rows: pd.DataFrame, drill: str = "none") -> RunFolder:
    """The folder of a run as build_frame leaves it."""
    split = split_days(LAST, SPLIT_POLICY, 3)
    frame = rows.assign(role=[split.role(day) for day in rows["day"]], weight=np.float32(1))
    frame = with_training_labels(frame, drill, 7)
    frame[list(MODEL_FEATURES)] = frame[list(MODEL_FEATURES)].astype(np.float32)
    counts, positives = check_roles(frame, split)
    folder = RunFolder(settings, run)
    facts = FrameFacts(
        run=run,
        day=DAY,
        drill=drill,
        split=split,
        features=MODEL_FEATURES,
        feature_version=FEATURE_VERSION,
        rows=counts,
        positives=positives,
        leaks={},
        ttl_hours=48,
        published_after_hours=4,
        known_card_days=14,
        good_rows_per_fraud=30,
        seed=7,
        label_digest="0" * 32,
        table_versions={"transactions": 1},
        digest="0" * 64,
        column_digests={},
    )
    folder.write_facts("frame.json", facts)
    folder.write_facts(ORIGIN_FILE, origin_of(settings))
    folder.write_facts("labels.json", {"digest": "0" * 32, "rows": len(rows)})
    folder.write_frame("frame.parquet", frame)
    return folder


def sqlite_settings(folder: Path, overlay: str = "demo") -> Settings:
    """Settings of an installation whose MLflow is a file: the real registry without a server."""
    return load_settings(
        {
            "SLUICE_HOME": str(folder / "home"),
            "SLUICE_MLFLOW_URI": registry_in(folder),
            "SLUICE_POLICY_OVERLAY": overlay,
        }
    )
