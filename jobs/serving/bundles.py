"""Bundles of registered versions on this machine, so that scoring goes on while MLflow is down.

In: a version of the registered model whose artifacts hold the bundle under `artifacts/bundle`.
Out: `home/serving/bundles/<version>/`, which appears whole and only after the bundle was checked
    against its manifest, loaded, and queried once.
Errors: SluiceError where MLflow does not answer, the version does not exist or its bundle is refused.
A version never changes once it is registered, so a checked folder is never fetched again.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from jobs.conf.policy import policy_of
from jobs.conf.settings import Settings
from jobs.core import SluiceError, first_line
from jobs.locks import file_lock
from jobs.promotion.state import registry_client, registry_errors
from jobs.serving.bundle import ModelBundle, verified_manifest

BUNDLE_PATH = "artifacts/bundle"


def bundles_folder(settings: Settings) -> Path:
    """Where the fetched bundles lie."""
    return settings.home / "serving" / "bundles"


def cached_bundle(settings: Settings, version: str) -> Path | None:
    """The folder of a version that was fetched before and is still whole, without asking MLflow."""
    folder = _folder(settings, version)
    try:
        verified_manifest(folder)
    except SluiceError:
        return None
    return folder


def fetch_bundle(settings: Settings, version: str) -> Path:
    """The folder of a version's bundle, fetched from MLflow where it is not here yet.

    Raises:
        SluiceError: MLflow does not answer, or the version or its bundle is not usable.
    """
    found = cached_bundle(settings, version)
    if found is not None:
        return found
    folder = _folder(settings, version)
    with file_lock(folder.parent / f".{version}.lock"):
        found = cached_bundle(settings, version)  # another process may have been quicker
        if found is not None:
            return found
        for left in folder.parent.glob(f".{version}.*/"):  # by a fetch that was killed
            shutil.rmtree(left, ignore_errors=True)
        workshop = Path(tempfile.mkdtemp(prefix=f".{version}.", dir=folder.parent))
        try:
            fetched = _download(settings, version, workshop)
            ModelBundle.load(fetched, policy_of(settings).decisions).try_out()
            if folder.exists():  # damaged: out of the way first, a folder cannot be replaced
                folder.rename(workshop / "damaged")
            fetched.rename(folder)
        finally:
            shutil.rmtree(workshop, ignore_errors=True)
    return folder


def _download(settings: Settings, version: str, into: Path) -> Path:
    client = registry_client(settings)
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    with registry_errors():
        address = client.get_model_version_download_uri(settings.model_name, version)
    try:
        repository = get_artifact_repository(
            address, tracking_uri=settings.mlflow_uri, registry_uri=settings.mlflow_uri
        )
        return Path(repository.download_artifacts(BUNDLE_PATH, dst_path=str(into)))
    except Exception as error:  # each artifact store raises kinds of its own
        raise SluiceError(
            f"model {settings.model_name} version {version}: no bundle at "
            f"{address}/{BUNDLE_PATH}: {first_line(error)}"
        ) from error


def _folder(settings: Settings, version: str) -> Path:
    if not version.isdecimal():
        raise SluiceError(f"model version {version!r}: a version is a number, as in MLflow")
    return bundles_folder(settings) / version
