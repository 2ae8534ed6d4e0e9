"""The Delta table behind a Feast view, opened at the version that the configuration names."""

from __future__ import annotations

from deltalake import DeltaTable
from feast.data_format import DeltaFormat
from feast.data_source import DataSource
from feast.infra.offline_stores.file_source import FileSource
from feast.repo_config import RepoConfig

from jobs.core import SluiceError
from jobs.lake.at import unreadable
from jobs.lake.storage import TableMissing, open_table


def open_source(config: RepoConfig, source: DataSource) -> DeltaTable:
    """The source's table, the newest version where the configuration names none.

    Raises:
        SluiceError: it is no Delta table, does not exist, or the version is gone.
    """
    if not isinstance(source, FileSource) or not isinstance(source.file_format, DeltaFormat):
        raise SluiceError(f"feature source {source.name}: only Delta tables are read here")
    version = config.offline_store.versions.get(source.name)
    try:
        return open_table(f"table {source.name}", source.path, version)
    except TableMissing:
        raise not_built(source.name, source.path) from None
    except SluiceError as error:
        if version is None:
            raise
        raise unreadable(source.name, version, error) from None


def not_built(table: str, path: str) -> SluiceError:
    """What to say where a feature table is not there."""
    return SluiceError(
        f"the table {table} does not exist at {path}; run `sluice build_features --day D` (DAG "
        "fraud_features) first"
    )
