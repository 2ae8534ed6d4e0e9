"""Where a training run comes from: the code, the packages and the policy when its frame was built.

Out: origin.json of the run's folder. The policy's sections that decide a model are noted with their values:
names of overlays are no record.
"""

from __future__ import annotations

import os
import platform
from importlib.metadata import version as installed_version
from typing import Any, Final

from jobs.commit import code_commit
from jobs.conf.policy import Policy, policy_of
from jobs.conf.settings import Settings
from jobs.core import StrictModel

ORIGIN_FILE: Final = "origin.json"
# what scoring needs; versions are those of this installation
REQUIREMENTS = ("mlflow", "onnxruntime", "numpy", "pandas", "pydantic")
ENVIRONMENT = (
    *REQUIREMENTS,
    "xgboost-cpu",
    "torch",
    "scikit-learn",
    "optuna",
    "feast",
    "pyspark",
    "deltalake",
)
POLICY_SECTIONS = ("features", "training", "tuning", "decisions")


class Origin(StrictModel):
    """What a model is made by, besides its data."""

    code_commit: str
    environment: dict[str, str]
    contract: str
    policy_overlay: str
    policy: dict[str, dict[str, Any]]


def origin_of(settings: Settings) -> Origin:
    """The origin of a run that starts now."""
    return Origin(
        code_commit=code_commit(),
        environment=environment(),
        contract=settings.contract,
        policy_overlay=settings.policy_overlay,
        policy=deciding_policy(policy_of(settings)),
    )


def environment() -> dict[str, str]:
    """Versions of what trains a model, and the processors, which decide how XGBoost adds up."""
    there = {"python": platform.python_version(), "processors": f"{os.cpu_count()} {platform.machine()}"}
    return there | {name: installed_version(name) for name in ENVIRONMENT}


def deciding_policy(policy: Policy) -> dict[str, dict[str, Any]]:
    """The policy's sections that decide a model."""
    return policy.model_dump(mode="json", include=set(POLICY_SECTIONS))
