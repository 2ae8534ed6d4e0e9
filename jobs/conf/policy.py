"""How strict: policy.yaml as one strict model. The comments about each number stand in the file."""

from __future__ import annotations

from datetime import date
from functools import cache
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import Field, ValidationError, model_validator

from jobs.conf.settings import Settings
from jobs.core import SluiceError, StrictModel

FOLDER = Path(__file__).parent
WEEKLY = "weekly"  # the reason of a training that its schedule began, and nobody asked for
# where its search begins: at the last winner, or at nothing: what made a model that has failed is no guide
Start = Literal["warm", "full"]
Share = Field(ge=0.0, le=1.0)


class Quality(StrictModel):
    null_share_fail: float = Share
    duplicate_share_warn: float = Share
    duplicate_share_fail: float = Share
    passing_rows_min: float = Share
    volume_share_alert: float = Share
    volume_share_fail: float = Share
    volume_weeks: int = Field(ge=1)
    volume_weeks_min: int = Field(ge=1)
    distribution_days: int = Field(ge=1)
    distribution_days_min: int = Field(ge=1)
    distribution_rows_min: int = Field(ge=1)
    distribution_psi_alert: float = Field(gt=0)
    distribution_psi_fail: float = Field(gt=0)
    unknown_label_share_fail: float = Share
    unknown_labels_min: int = Field(ge=1)
    freshness_alert_hours: float = Field(ge=0)


class Features(StrictModel):
    batch_ttl_hours: float = Field(gt=0)
    null_share_alert: float = Share
    velocity_ttl_minutes: float = Field(gt=0)
    skew_share_fail: float = Field(gt=0, lt=1)


class Drift(StrictModel):
    bins: int = Field(ge=2)
    bin_floor: float = Field(gt=0, lt=0.1)
    psi_investigate: float = Field(gt=0)
    psi_alert: float = Field(gt=0)
    psi_retrain: float = Field(gt=0)
    jensen_shannon_high: float = Field(gt=0)
    kullback_leibler_high: float = Field(gt=0)
    significance: float = Field(gt=0, lt=1)
    score_buckets: int = Field(ge=2)
    minimum_rows: int = Field(ge=1)
    slice_rows_min: int = Field(ge=1)
    slice_margin: float = Field(gt=0)


class Silence(StrictModel):
    """Alerts that go to no channel until a day; their lines are kept all the same."""

    key: str = Field(min_length=3, description="pattern of the alerts' keys, such as */slice_psi night")
    until: date = Field(description="first day on which they are told again")
    person: str = Field(min_length=1)
    reason: str = Field(min_length=1)


class Remedy(StrictModel):
    """What a cause of alerts means for the one who is told."""

    action: Literal["retrain", "roll back", "disable feature", "review", "repair", "tell"]
    text: str = Field(min_length=1, description="what to do, in a sentence")


class Alerts(StrictModel):
    false_alarms: float = Field(gt=0)
    budget_days: int = Field(ge=1)
    channels: tuple[Literal["log", "webhook", "mail"], ...] = Field(min_length=1)
    timeout_seconds: float = Field(gt=0, le=60)
    silenced: tuple[Silence, ...] = ()
    runbook: dict[str, Remedy] = Field(min_length=1)


class Performance(StrictModel):
    window_days: int = Field(ge=1)
    drop_retrain: float = Field(gt=0)
    drop_page: float = Field(gt=0)
    false_positive_rate: float = Share
    bootstrap_samples: int = Field(ge=100)
    business_change_alert: float = Field(gt=0)
    label_change_alert: float = Field(gt=0)
    proxy_significance: float = Field(gt=0, lt=1)


class Retrain(StrictModel):
    cooldown_hours: float = Field(ge=0)
    minimum_new_rows: int = Field(ge=0)


class Training(StrictModel):
    window_days: int = Field(ge=1)
    validation_days: int = Field(ge=1)
    test_days: int = Field(ge=2)  # of one day nobody knows how what is saved varies
    calibration_days: int = Field(ge=1)
    known_card_days: int = Field(ge=1)
    good_rows_per_fraud: int = Field(ge=1)
    seeds: tuple[int, ...] = Field(min_length=1)


class Tuning(StrictModel):
    trials: int = Field(ge=1)
    workers: int = Field(ge=1)
    grace_units: int = Field(ge=1)
    reduction: int = Field(ge=2)
    max_units: int = Field(ge=1)
    patience_units: int = Field(ge=1)
    rounds_per_unit: int = Field(ge=1)
    random_trials: int = Field(ge=1)


class OperatingPoint(StrictModel):
    false_positive_rate_max: float = Share
    fraud_caught_min: float = Share


class Decisions(StrictModel):
    block_above: float = Share
    challenge_above: float = Share
    review_above: float = Share
    blend_first: float = Share
    blend_second: float = Share
    blend_from: float = Share
    blend_to: float = Share


class Gate(StrictModel):
    automatic_gain: float = Field(ge=0)
    bootstrap_samples: int = Field(ge=100)
    ece_max: float = Share
    ece_increase_max: float = Share
    slice_positives_min: int = Field(ge=1)
    slice_drop_max: float = Share
    group_gap_increase_max: float = Share
    latency_p99_ms: float = Field(gt=0)
    minimum_positives: int = Field(ge=1)


class Approval(StrictModel):
    expires_days: float = Field(gt=0)


class Shadow(StrictModel):
    minutes: float = Field(ge=0)
    requests: int = Field(ge=1)


class CanaryStep(StrictModel):
    percent: int = Field(ge=1, le=100)
    minutes: float = Field(ge=0)


class Canary(StrictModel):
    mode: Literal["steps", "blue_green"]
    steps: tuple[CanaryStep, ...] = Field(min_length=1)
    requests: int = Field(ge=1)
    poll_seconds: float = Field(gt=0)
    alpha: float = Field(gt=0, lt=1)
    error_rate_max: float = Share
    latency_ratio_max: float = Field(gt=1)
    score_psi_max: float = Field(gt=0)
    agreement_min: float = Field(ge=0.5, lt=1)
    decision_ratio_max: float = Field(gt=1)
    calibration_ratio_max: float = Field(gt=1)
    sample_ratio_p_value: float = Field(gt=0, lt=1)
    salt: str = Field(min_length=1)

    @model_validator(mode="after")
    def _up_to_everybody(self) -> Self:
        percents = [step.percent for step in self.steps]
        if percents != sorted(set(percents)) or percents[-1] != 100:
            raise ValueError("steps must rise and end at 100 percent")
        return self


class Experiments(StrictModel):
    alpha: float = Field(gt=0, lt=0.5)
    power: float = Field(ge=0.5, lt=1)
    sample_ratio_p_value: float = Field(gt=0, lt=1)
    looks: int = Field(ge=1, le=20)
    pre_period_days: int = Field(ge=1)
    customers_min: int = Field(ge=2)


class Rules(StrictModel):
    deny_customers: tuple[int, ...] = ()
    deny_terminals: tuple[int, ...] = ()
    amount_cap_minor: int = Field(gt=0)
    customer_count_5m_max: int = Field(ge=1)
    customer_count_1h_max: int = Field(ge=1)
    customer_amount_5m_max_minor: int = Field(gt=0)
    customer_amount_1h_max_minor: int = Field(gt=0)
    new_pair_amount_max_minor: int = Field(gt=0)


class Backfill(StrictModel):
    landings_at_once: int = Field(ge=1)
    rows_change_max: float = Share
    keys_change_max: float = Share
    values_change_max: float = Share
    psi_max: float = Field(gt=0)
    minimum_rows: int = Field(ge=1)
    reversible_days: int = Field(ge=1)


class PredictionLogLimits(StrictModel):
    append_seconds: float = Field(gt=0, le=60)
    spool_mb: int = Field(ge=16)


class Serving(StrictModel):
    alias_poll_seconds: float = Field(gt=0, le=5)
    holdout_share: float = Share
    requests_per_second: int = Field(ge=1)
    clients_max: int = Field(ge=1)
    batch_rows_max: int = Field(ge=1)
    body_bytes_max: int = Field(ge=1024)
    request_seconds: float = Field(gt=0)
    answer_seconds: float = Field(gt=0)
    batch_seconds: float = Field(gt=0)
    explain_seconds: float = Field(gt=0)
    reasons: int = Field(ge=1)
    last_known_customers: int = Field(ge=0)
    drain_seconds: float = Field(ge=0)
    log: PredictionLogLimits

    @model_validator(mode="after")
    def _batches_fit(self) -> Serving:
        if self.batch_rows_max > self.requests_per_second:
            raise ValueError("batch_rows_max is above requests_per_second: such a batch would never pass")
        return self


class Retention(StrictModel):
    version_days: int = Field(ge=1)
    compact_files: int = Field(ge=2)
    predictions_days: int = Field(ge=1)
    quarantine_days: int = Field(ge=1)
    raw_days: int = Field(ge=1)
    work_days: int = Field(ge=1)
    reports_days: int = Field(ge=1)
    model_versions_days: int = Field(ge=1)


class Replay(StrictModel):
    promotion: Literal["earned", "direct"]
    monitoring: bool
    approval_hours: float = Field(ge=0)
    training_hours: float = Field(ge=0)
    look_minutes: float = Field(gt=0)
    counterfactual_days: int = Field(ge=1)
    bootstrap_samples: int = Field(ge=100)


class Policy(StrictModel):
    """Every threshold that the pipelines honour."""

    version: int
    quality: Quality
    features: Features
    drift: Drift
    performance: Performance
    alerts: Alerts
    retrain: Retrain
    training: Training
    tuning: Tuning
    operating_point: OperatingPoint
    decisions: Decisions
    gate: Gate
    approval: Approval
    shadow: Shadow
    canary: Canary
    experiments: Experiments
    rules: Rules
    serving: Serving
    backfill: Backfill
    retention: Retention
    replay: Replay


def load_policy(overlay: str = "", folder: Path = FOLDER) -> Policy:
    """The policy, with the values of an overlay laid over it: one of the folder, or any YAML file.

    Raises:
        SluiceError: the file is missing, a key is unknown or a value is wrong, with its place.
    """
    document = _read(folder / "policy.yaml")
    path = folder / "policy.yaml"
    if overlay:
        given = Path(overlay)
        path = given if given.suffix == ".yaml" else folder / "overlays" / f"{given.name}.yaml"
        document = _merge(document, _read(path))
    try:
        return Policy.model_validate(document)
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(str(part) for part in problem["loc"])
        raise SluiceError(f"{path}: {place}: {problem['msg']}") from None


def _read(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise SluiceError(f"{path}: no such policy file; overlays live in {FOLDER / 'overlays'}")
    document = yaml.safe_load(path.read_text())
    if not isinstance(document, dict):
        raise SluiceError(f"{path}: a policy is a mapping of sections")
    return document


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(base.get(key), dict)
        merged[key] = _merge(base[key], value) if both else value
    return merged


@cache
def policy_of(settings: Settings) -> Policy:
    """The policy that an installation runs under."""
    return load_policy(settings.policy_overlay)
