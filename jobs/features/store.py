"""Feast's FeatureStore of an installation, its registry kept in step with the declarations.

State: settings.home/feast with the registry, the SQLite online store and the digest of what was applied.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

os.environ.setdefault("FEAST_USAGE", "False")  # no telemetry; read when feast is imported

from feast import FeatureStore, RepoConfig
from feast.version import get_version
from pydantic import SecretStr

from jobs.conf.settings import Settings
from jobs.features.declarations import FEATURE_VERSION
from jobs.features.definitions import feast_objects, feature_views
from jobs.files import write_whole
from jobs.locks import file_lock

PROJECT = "sluice"
OFFLINE_STORE = "jobs.features.delta_offline.DeltaDuckDBOfflineStore"
SQLITE_STORE = "jobs.features.sqlite_online.NewestSqliteOnlineStore"
REDIS_STORE = "jobs.features.redis_online.NewestRedisOnlineStore"
ENGINE = "jobs.features.engine.ArrowComputeEngine"


def feast_home(settings: Settings) -> Path:
    """Folder of Feast's own state."""
    return settings.home / "feast"


def repo_config(settings: Settings, versions: Mapping[str, int] | None = None) -> RepoConfig:
    """Feast's configuration; feature_repo/feature_store.yaml says the same for its command line.

    Past features are read at the `versions` of the feature tables, the newest where none are given.
    """
    folder = feast_home(settings)
    online: dict[str, Any] = {"type": SQLITE_STORE, "path": str(folder / "online.db")}
    if settings.online_store == "redis":
        online = {"type": REDIS_STORE, "connection_string": SecretStr(settings.redis_url)}
    engine = {"type": ENGINE}
    if settings.materialize_on == "spark":
        engine["spark_remote"] = settings.spark_remote
    return RepoConfig(
        project=PROJECT,
        provider="local",
        registry={
            "registry_type": "file",
            "path": str(folder / "registry.db"),
            "cache_ttl_seconds": 3600,
        },
        offline_store={"type": OFFLINE_STORE, "versions": dict(versions or {})},
        online_store=online,
        batch_engine=engine,
        entity_key_serialization_version=3,
        repo_path=folder,
    )


def feature_store(settings: Settings, versions: Mapping[str, int] | None = None) -> FeatureStore:
    """The feature store with the current definitions applied; one per process, definitions and versions."""
    digest = _definitions_digest(settings)
    applied = feast_home(settings) / "applied"
    if not _is(applied, digest):
        with registry_lock(settings):
            if not _is(applied, digest):
                FeatureStore(config=repo_config(settings)).apply(feast_objects(settings))
                write_whole(applied, digest)
    return _open_store(settings, digest, tuple(sorted((versions or {}).items())))


def applied_definitions(settings: Settings) -> str:
    """Digest of the definitions that the registry holds; use it after `feature_store`."""
    return (feast_home(settings) / "applied").read_text()


@contextmanager
def registry_lock(settings: Settings) -> Iterator[None]:
    """Hold the registry: Feast reads, changes and writes its file as a whole."""
    with file_lock(feast_home(settings) / ".lock"):
        yield


@cache
def _open_store(settings: Settings, _digest: str, versions: tuple[tuple[str, int], ...]) -> FeatureStore:
    return FeatureStore(config=repo_config(settings, dict(versions)))


def _definitions_digest(settings: Settings) -> str:
    """Digest of what `apply` would write and of where the values are kept online.

    Made from the definitions' own fields: Feast's serialised form differs from process to process.
    """
    store = REDIS_STORE if settings.online_store == "redis" else SQLITE_STORE
    said = [get_version(), store, FEATURE_VERSION]
    if settings.online_store == "redis":
        said.append(settings.redis_url)
    for found in feature_views(settings):
        said += [found.name, str(found.ttl), found.batch_source.path, *sorted(found.entities)]
        said += sorted(f"{name} {value}" for name, value in found.tags.items())
        said += sorted(f"{field.name} {field.dtype}" for field in found.schema)
    return hashlib.sha256("\n".join(said).encode()).hexdigest()


def _is(file: Path, text: str) -> bool:
    try:
        return file.read_text() == text
    except FileNotFoundError:
        return False
