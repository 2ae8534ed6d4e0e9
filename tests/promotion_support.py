"""What tests of the promotion share: versions to offer, traffic as serving logs it, short calls of jobs."""

from __future__ import annotations

import time
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from jobs.conf.policy import policy_of
from jobs.conf.settings import Settings
from jobs.core import Receipt
from jobs.features.declarations import FEATURE_VERSION, MODEL_FEATURES
from jobs.lake.store import lake_of
from jobs.lake.tables import PREDICTIONS
from jobs.promotion import check, judge_step, start_step
from jobs.promotion import state as registry_state
from jobs.promotion.state import Routing, read_routing, read_version, registry_client
from jobs.serving.bundle import ModelBundle
from jobs.serving.routing import in_canary
from jobs.training.bundle_writer import bundle_digest
from tests.served_bundles import logistic_graph, register, write_bundle

pytest_plugins = ("tests.served_bundles",)

STEPS = ("shadow", "canary_5", "canary_25", "canary_50", "canary_100")


@pytest.fixture
def place(home: Settings, registry: str, request: pytest.FixtureRequest) -> Settings:
    """An installation in the demo policy whose model is its own within the shared registry."""
    name = "".join(letter if letter.isalnum() else "-" for letter in request.node.name)
    changes = {"mlflow_uri": registry, "model_name": name, "policy_overlay": "demo"}
    return home.model_copy(update=changes)


def features_of(rows: int, seed: int) -> pd.DataFrame:
    generator = np.random.default_rng(seed)
    columns = {name: generator.gamma(2.0, 1.0, rows) for name in MODEL_FEATURES}
    return pd.DataFrame(columns).astype(np.float32)


def offer(
    settings: Settings,
    tmp_path: Path,
    gate: str = "automatic",
    bias: float = -3.0,
    feature_version: str = FEATURE_VERSION,
    scored_apart: float = 0.0,
    **tags: str,
) -> str:
    """A version judged against the present champion, with bundle and reference, under alias challenger.

    `scored_apart` is by how much its offline scores differ from those of its bundle.
    """
    graph = logistic_graph({0: 1.0}, bias, len(MODEL_FEATURES))
    folder = write_bundle(
        tmp_path / f"bundle{time.time_ns()}", MODEL_FEATURES, graph, feature_version=feature_version
    )
    aliases = registry_state.read_aliases(registry_client(settings), settings.model_name)
    judged = {
        "judged_against": aliases.get("champion", ""),
        "bundle_digest": bundle_digest(folder),
        "author": "sluice",
    }
    marks = {f"sluice.{key}": value for key, value in (judged | tags).items()}
    client, version = register(settings, folder, {"sluice.gate": gate, **marks})
    rows = features_of(2000, 1)
    scores = ModelBundle.load(folder).score(rows.to_numpy(dtype=np.float32))
    reference = rows.assign(
        score=scores + scored_apart,
        is_fraud=0,
        amount_minor=100,
        event_time=pd.date_range("2026-01-01", periods=len(rows), freq="min", tz="UTC"),
    )
    file = tmp_path / "reference.parquet"
    reference.to_parquet(file)
    state = read_version(client, settings.model_name, version)
    assert state is not None
    client.log_artifact(state.run_id, str(file), "reference")
    client.set_registered_model_alias(settings.model_name, "challenger", version)
    return version


def crown(settings: Settings, version: str) -> None:
    """Make a version champion as a promotion before this test would have."""
    client = registry_client(settings)
    client.set_model_version_tag(settings.model_name, version, "sluice.promotion", "completed")
    client.set_registered_model_alias(settings.model_name, "champion", version)
    client.delete_registered_model_alias(settings.model_name, "challenger")


def in_shadow(settings: Settings, tmp_path: Path) -> tuple[str, str]:
    """A champion, and a version that stands in its shadow step beside it."""
    champion = offer(settings, tmp_path)
    crown(settings, champion)
    version = offer(settings, tmp_path)
    checked(settings, version)
    begin(settings, version, "shadow")
    return champion, version


def traffic(
    settings: Settings,
    step: str,
    champion: str,
    challenger: str,
    *,
    requests: int = 1600,
    bias: float = -3.0,
    delay_ms: float = 0.0,
    error: str = "",
) -> None:
    """Rows as the scoring service writes them: answers, shadow scores, and failures of a canary."""
    generator = np.random.default_rng(5)
    amounts = features_of(requests, 9)["amount"].to_numpy()
    percent = registry_state.percent_of(step)
    rows = []
    start = datetime.now(UTC)
    for number in range(requests):
        customer = int(generator.integers(0, 600))
        canary = in_canary(customer, percent, policy_of(settings).canary.salt)
        variants = ["canary" if canary else "champion"] + (["shadow"] if not canary else [])
        if canary and error:
            variants.append("champion")
        for variant in variants:
            mine = variant != "champion"
            score = 1 / (1 + np.exp(-(amounts[number] + (bias if mine else -3.0))))
            failed = error if variant == "canary" else ""
            rows.append({
                "day": date(2026, 2, 1), "request_id": f"{step}-{number}",
                "transaction_id": number, "event_time": datetime(2026, 2, 1, tzinfo=UTC),
                "customer_id": customer, "terminal_id": 1, "amount_minor": 100,
                "model_version": challenger if mine else champion,
                "variant": variant if champion or mine else "rules", "step": step,
                "score": None if failed else float(score), "decision": "approve", "rule": "",
                "error": failed, "latency_ms": float(generator.lognormal(1, 0.4)) + delay_ms * mine,
                "served_at": start + timedelta(milliseconds=number), "feature_version": FEATURE_VERSION,
                "would_be": "", "features": None,
            })  # fmt: skip
    lake_of(settings).append(PREDICTIONS, pa.Table.from_pylist(rows, PREDICTIONS.schema))


def begin(settings: Settings, version: str, step: str) -> Receipt:
    return start_step.run(start_step.Params(version=version, step=step), settings)


def look(settings: Settings, version: str, step: str) -> Receipt:
    return judge_step.run(judge_step.Params(version=version, step=step), settings)


def checked(settings: Settings, version: str) -> Receipt:
    return check.run(
        check.Params(version=version, promotion_id="manual__2026-02-01T00:00:00+00:00"), settings
    )


def routing(settings: Settings) -> Routing:
    return read_routing(registry_client(settings), settings.model_name)


def tag(settings: Settings, version: str, name: str) -> str:
    state = read_version(registry_client(settings), settings.model_name, version)
    return state.tag(f"sluice.{name}") if state else ""
