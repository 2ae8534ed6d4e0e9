"""The reference of a version: its own test rows with features, score and label, kept by its MLflow run.

In: a run id. Out: a frame with the model's features, score, is_fraud, amount_minor, event_time (UTC), read
from the artifact reference/reference.parquet and kept under work/reference, since a run never changes.
Errors: SluiceError where MLflow does not answer and the file is not here yet.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import pandas as pd

from jobs.conf.settings import Settings
from jobs.core import SluiceError, first_line
from jobs.promotion.state import quiet_mlflow

ARTIFACT = "reference/reference.parquet"


def reference_path(settings: Settings, run_id: str) -> Path:
    return settings.work / "reference" / f"{run_id}.parquet"


def load_reference(settings: Settings, run_id: str) -> pd.DataFrame | None:
    """The reference of a run; None where the run has none."""
    if not run_id:
        return None
    path = reference_path(settings, run_id)
    if not path.exists() and not _fetch(settings, run_id, path):
        return None
    try:
        return pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise SluiceError(
            f"reference {path}: not readable ({error}); delete it, it is fetched again"
        ) from None


def _fetch(settings: Settings, run_id: str, path: Path) -> bool:
    quiet_mlflow(settings)
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    client = MlflowClient(tracking_uri=settings.mlflow_uri, registry_uri=settings.mlflow_uri)
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=path.parent, prefix=".fetch."))
    try:
        there = [item.path for item in client.list_artifacts(run_id, str(Path(ARTIFACT).parent))]
        if ARTIFACT not in there:
            return False
        Path(client.download_artifacts(run_id, ARTIFACT, str(folder))).replace(path)
    except (MlflowException, OSError) as error:
        raise SluiceError(
            f"reference of run {run_id}: MLflow gave no artifact: {first_line(error)}"
        ) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return True
