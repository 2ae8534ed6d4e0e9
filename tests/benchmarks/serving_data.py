"""An installation to score with: features in Redis, a past for the velocity store, a trained champion.

The features of a day are brought online by the project's own job, the transactions of the days before it fill
the velocity store. The champion is trained by the project's own code at the most that the policy's tuning may
choose (units times rounds_per_unit trees), and logged as MLflow's model, which its peer serves.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from jobs.conf.policy import load_policy
from jobs.conf.settings import Settings, load_settings
from jobs.core import midnight
from jobs.features import materialize
from jobs.features.declarations import FEATURE_VERSION, MODEL_FEATURES, stored_features
from jobs.features.tables import FEATURE_TABLES
from jobs.lake.store import lake_of
from jobs.lake.tables import TRANSACTIONS
from jobs.serving.bundle import Calibrations

DAY = date(2026, 3, 1)  # its features serve the events of the next day
PAST_DAYS = 30
DEPTH = 6


@dataclass(frozen=True)
class Size:
    """How much there is."""

    customers: int = 200_000
    terminals: int = 20_000
    past: int = 600_000  # transactions of PAST_DAYS
    training_rows_per_day: int = 1000


@dataclass(frozen=True)
class Installed:
    """An installation with a champion, and what is worth saying about it."""

    settings: Settings
    model: str  # the address of the logged model
    trees: int
    graph_bytes: int
    size: Size

    @property
    def first_moment(self) -> int:
        """Microseconds of the first event that the features serve."""
        return int((midnight(DAY + timedelta(days=1)) + timedelta(hours=9)).timestamp()) * 1_000_000


def install(home: Path, redis_url: str, port: int, size: Size) -> Installed:
    """Everything that serving needs, in an empty folder."""
    registry = home / "registry"
    registry.mkdir(parents=True)
    settings = load_settings(
        {
            "SLUICE_HOME": str(home / "sluice"),
            "SLUICE_MLFLOW_URI": f"sqlite:///{registry / 'mlflow.db'}",
            "SLUICE_SCORING_URI": f"http://127.0.0.1:{port}",
            "SLUICE_ONLINE_STORE": "redis",
            "SLUICE_REDIS_URL": redis_url,
        }
    )
    fill_stores(settings, size)
    bundle, trees = train_bundle(home / "model", size.training_rows_per_day)
    address = register_champion(settings, bundle)
    return Installed(settings, address, trees, (bundle / "xgboost.onnx").stat().st_size, size)


def fill_stores(settings: Settings, size: Size) -> None:
    """Features and past transactions into the tables, and from there online."""
    random = np.random.default_rng(1)
    lake = lake_of(settings)
    for entity, table in FEATURE_TABLES.items():
        count = size.customers if entity == "customer" else size.terminals
        columns: dict[str, Any] = {
            "day": pa.array([DAY] * count, pa.date32()),
            f"{entity}_id": np.arange(1, count + 1),
            "as_of": pa.array([midnight(DAY + timedelta(days=1))] * count, pa.timestamp("us", "UTC")),
        }
        for feature in stored_features(entity):
            columns[feature.name] = random.gamma(2.0, 2.0, count)
        lake.replace(table, pa.table({name: columns[name] for name in table.schema.names}), DAY)
    per_day = size.past // PAST_DAYS
    days = [DAY - timedelta(days=back) for back in range(PAST_DAYS)]
    for place, day in enumerate(days):
        lake.replace(TRANSACTIONS, _past(day, 1 + place * per_day, per_day, size, random), day)
    for day in days[1:]:
        materialize.record_velocity([day], lake, settings)
    materialize.run(materialize.Params(day=DAY), settings)


def _past(day: date, first: int, count: int, size: Size, random: np.random.Generator) -> pa.Table:
    micros = np.sort(random.integers(0, 86_400_000_000, count)) + int(midnight(day).timestamp() * 1e6)
    columns = {
        "day": pa.array([day] * count, pa.date32()),
        "transaction_id": np.arange(first, first + count),
        "event_time": pa.array(micros).cast(pa.timestamp("us", "UTC")),
        "customer_id": 1 + (size.customers * random.random(count) ** 1.5).astype(np.int64),
        "terminal_id": 1 + (size.terminals * random.random(count) ** 1.5).astype(np.int64),
        "amount_minor": np.exp(random.normal(8.0, 1.2, count)).astype(np.int64) + 1,
        "available_at": pa.array([midnight(day + timedelta(days=1))] * count, pa.timestamp("us", "UTC")),
        "file_day": pa.array([day] * count, pa.date32()),
    }
    return pa.table({field.name: pa.array(columns[field.name], field.type) for field in TRANSACTIONS.schema})


def train_bundle(folder: Path, rows_per_day: int) -> tuple[Path, int]:
    """A sealed bundle of both models with their calibrations, and the number of trees."""
    from jobs.training import calibrate, onnx_files, sequence_network, train_xgboost
    from jobs.training.boosting import fit_booster, probabilities
    from jobs.training.bundle_writer import write_bundle
    from jobs.training.network_fit import fit_network
    from tests.training_support import made_rows

    tuning = load_policy().tuning
    trees = tuning.max_units * tuning.rounds_per_unit
    rows = made_rows(rows_per_day)
    held = rows["day"] > max(rows["day"]) - timedelta(days=7)
    matrix, labels = _matrix(rows[~held])
    held_matrix, held_labels = _matrix(rows[held])
    booster = fit_booster(
        matrix, labels, {"max_depth": DEPTH, "eta": 0.1, "weight_power": 0.3}, trees, seed=7, threads=1
    )
    network = fit_network(matrix, labels, MODEL_FEATURES, seed=7, epochs=2).network
    found = {
        "xgboost": (train_xgboost.to_onnx(booster, len(MODEL_FEATURES)), probabilities(booster, held_matrix)),
        "torch": (
            sequence_network.to_onnx(network, len(MODEL_FEATURES)),
            sequence_network.raw_scores(network, held_matrix),
        ),
    }
    folder.mkdir(parents=True)
    for name, (graph, raw) in found.items():
        whole = probabilities(booster, matrix) if name == "xgboost" else None
        expected, probe = (whole, matrix) if whole is not None else (raw, held_matrix)
        onnx_files.write_checked(graph, expected, probe, folder / f"{name}.onnx")
    maps = {name: calibrate.fit_map(raw, held_labels) for name, (_, raw) in found.items()}
    write_bundle(
        folder / "bundle",
        xgboost=folder / "xgboost.onnx",
        torch=folder / "torch.onnx",
        calibrations=Calibrations(**maps),
        features=MODEL_FEATURES,
        feature_version=FEATURE_VERSION,
    )
    return folder / "bundle", trees


def _matrix(rows: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    return rows[list(MODEL_FEATURES)].to_numpy(np.float32), rows["is_fraud"].to_numpy()


def register_champion(settings: Settings, bundle: Path) -> str:
    """The bundle as the champion of the registry; gives the logged model's address."""
    import mlflow

    from jobs.promotion import state
    from jobs.training.register import create_version, log_bundle

    mlflow.set_tracking_uri(settings.mlflow_uri)
    mlflow.set_registry_uri(settings.mlflow_uri)
    client = state.registry_client(settings)
    artifacts = Path(settings.mlflow_uri.removeprefix("sqlite:///")).parent / "artifacts"
    experiment = client.create_experiment("bench", artifact_location=artifacts.as_uri())
    run = client.create_run(experiment)
    example = pd.DataFrame(np.zeros((1, len(MODEL_FEATURES))), columns=list(MODEL_FEATURES))
    address, model_id = log_bundle(run.info.run_id, bundle, MODEL_FEATURES, example)
    tags = {state.TAG_PROMOTION: state.COMPLETED}
    version = create_version(client, settings.model_name, address, run.info.run_id, model_id, tags, "")
    client.set_registered_model_alias(settings.model_name, state.CHAMPION, version)
    return address


def add_shadow(settings: Settings, bundle: Path) -> None:
    """A second version of the same bundle that is scored in the shadow of the champion."""
    from jobs.promotion import state
    from tests.served_bundles import register

    client, version = register(
        settings, bundle, {state.TAG_PROMOTION: state.IN_SHADOW, state.TAG_STEP: state.SHADOW_STEP}
    )
    client.set_registered_model_alias(settings.model_name, state.CHALLENGER, version)
