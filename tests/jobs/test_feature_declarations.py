"""What is declared of the features: names, order and windows."""

from __future__ import annotations

from datetime import timedelta

import pytest
from pydantic import ValidationError

from jobs.features.declarations import (
    FEATURES,
    MODEL_FEATURES,
    SEQUENCE_AMOUNTS,
    SEQUENCE_LENGTH,
    SEQUENCE_SECONDS,
    Feature,
)


def test_every_feature_is_named_once_and_in_the_models_order() -> None:
    assert len(set(MODEL_FEATURES)) == len(MODEL_FEATURES) == len(FEATURES)
    assert len(FEATURES) >= 60
    assert (SEQUENCE_AMOUNTS[0], SEQUENCE_SECONDS[-1]) == (
        "customer_amount_before_1",
        "customer_seconds_before_8",
    )
    assert len(SEQUENCE_AMOUNTS) == len(SEQUENCE_SECONDS) == SEQUENCE_LENGTH == 8


@pytest.mark.parametrize("window", [timedelta(hours=12), timedelta(hours=36), timedelta(0)])
def test_a_batch_window_that_is_not_whole_days_is_refused_by_name(window: timedelta) -> None:
    (daily,) = (feature for feature in FEATURES if feature.name == "terminal_risk_1d")
    with pytest.raises(ValidationError, match="terminal_risk_1d: a batch window is one or more whole days"):
        Feature.model_validate(daily.model_dump() | {"window": window})


def test_the_windows_that_are_declared_are_these() -> None:
    """A further window is one more label in its line, and one more here."""
    declared: dict[str, list[str]] = {}
    for feature in FEATURES:
        if feature.window:
            name = f"{feature.tier} {feature.name.removesuffix(f'_{feature.label}')}"
            declared.setdefault(name, []).append(feature.label)
    sums = ("count", "amount_sum", "amount_mean", "amount_deviation")
    wanted = {
        f"{tier} {entity}_{measure}": labels
        for tier, labels in (("batch", ["1d", "7d", "30d"]), ("velocity", ["5m", "30m", "1h", "24h"]))
        for entity in ("customer", "terminal")
        for measure in sums
    }
    wanted |= {
        "request amount_to_mean": ["7d", "30d"],
        "request amount_z_score": ["7d", "30d"],
        "batch terminal_risk": ["1d", "7d", "30d"],
        "velocity customer_seconds_since_last": ["30d"],
        "velocity terminal_seconds_since_last": ["24h"],
        "velocity pair_is_new": ["30d"],
        **{f"velocity {name}": ["30d"] for name in (*SEQUENCE_AMOUNTS, *SEQUENCE_SECONDS)},
    }
    assert declared == wanted
