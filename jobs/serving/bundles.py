"""Bundles of registered versions on this machine, so that scoring goes on while MLflow is down.

In: a version of the registered model whose artifacts hold the bundle under `artifacts/bundle`.
Out: `home/serving/bundles/<version>/`, which appears whole and only after the bundle was checked
    against its manifest, loaded, and queried once.
Errors: BundleRefused where the bundle is here and no good; SluiceError where it cannot be had: MLflow does
    not answer, or the version or its artifact does not exist.
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


class BundleRefused(SluiceError):
    """No service would serve this bundle; it is the same however often it is fetched."""


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
        BundleRefused: it was fetched, and does not load or does not answer.
        SluiceError: MLflow does not answer, or there is no such version or bundle.
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
            _try(fetched, settings)
            if folder.exists():  # damaged: out of the way first, a folder cannot be replaced
                folder.rename(workshop / "damaged")
            fetched.rename(folder)
        finally:
            shutil.rmtree(workshop, ignore_errors=True)
    return folder


def _try(folder: Path, settings: Settings) -> None:
    try:
        ModelBundle.load(folder, policy_of(settings).decisions).try_out()
    except SluiceError as error:
        raise BundleRefused(str(error)) from error


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
