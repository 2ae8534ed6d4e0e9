"""One stored row of an entity online: the digest of its view's declarations, as_of and the features, packed.

In: Arrow batches of a view's rows (one int64 key, a timestamp, doubles). Out: rows of one size,
little-endian: 8 bytes of digest, as_of in microseconds since 1970 as int64, one double a feature; a null is
NaN. A row of other features, of the same in another order, or of the same names that were declared otherwise,
has another digest: it is no row.
Errors: SluiceError for a view of another shape and for rows without a key or a time.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa

from jobs.core import SluiceError

if TYPE_CHECKING:
    from feast import FeatureView, RepoConfig

MARK = 8  # bytes of the digest
VERSION_TAG = "feature_version"  # of a view: the version of its declarations
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
TIME = pa.timestamp("us", "UTC")


class Row(NamedTuple):
    """A row as it was stored."""

    as_of: datetime
    values: dict[str, float | None]


class Packed(NamedTuple):
    """Many rows, in the order of their keys, which is what a B-tree takes fastest."""

    keys: list[int]
    as_of: list[int]
    rows: np.ndarray  # of the layout's dtype


@dataclass(frozen=True)
class Layout:
    """How the rows of one view are stored."""

    table: str  # project and view
    key: str  # column of the entity
    moment: str  # column of the time
    names: tuple[str, ...]  # the features, in their declared order
    version: str  # of their declarations

    @cached_property
    def mark(self) -> bytes:
        """What a row of these declarations begins with."""
        return hashlib.sha256("\n".join((self.version, *self.names)).encode()).digest()[:MARK]

    @cached_property
    def dtype(self) -> np.dtype[np.void]:
        """One row as numpy has it, without gaps."""
        return np.dtype([("mark", "<u8"), ("as_of", "<i8"), ("values", "<f8", (len(self.names),))])

    @property
    def columns(self) -> list[str]:
        """What is needed of a table."""
        return [self.key, self.moment, *self.names]

    @property
    def _struct(self) -> struct.Struct:
        return _struct_of(len(self.names))  # not kept here: a layout is pickled for Spark's executors

    def address(self, key: int) -> str:
        """The key under which Redis has the row of an entity."""
        return f"{self.table}:{key}"

    def pack(self, batch: pa.RecordBatch) -> Packed:
        """The rows of a batch that has the layout's columns.

        Raises:
            SluiceError: a column is missing or of another type, or a row has no key or no time.
        """
        absent = [name for name in self.columns if name not in batch.schema.names]
        if absent:
            raise SluiceError(f"online rows of {self.table}: column {absent[0]} is missing")
        try:
            keys, moments = batch[self.key].cast(pa.int64()), batch[self.moment].cast(TIME)
            doubles = [batch[name].cast(pa.float64()) for name in self.names]
        except pa.ArrowInvalid as error:
            raise SluiceError(f"online rows of {self.table}: {error}") from None
        if keys.null_count or moments.null_count:
            raise SluiceError(f"online rows of {self.table}: a row has no {self.key} or no {self.moment}")
        numbers, order = keys.to_numpy(), np.argsort(keys.to_numpy(), kind="stable")
        rows = np.empty(len(numbers), self.dtype)
        rows["mark"] = int.from_bytes(self.mark, "little")
        rows["as_of"] = moments.cast(pa.int64()).to_numpy()[order]
        for place, values in enumerate(doubles):
            rows["values"][:, place] = values.to_numpy(zero_copy_only=False)[order]
        return Packed(numbers[order].tolist(), rows["as_of"].tolist(), rows)

    def numbers(self, stored: bytes | None) -> tuple[int, tuple[float, ...]] | None:
        """as_of in microseconds and the features of a row, NaN for null; None where there is no such row."""
        layout = self._struct
        if not isinstance(stored, bytes) or len(stored) != layout.size or not stored.startswith(self.mark):
            return None
        micros, *values = layout.unpack(stored)
        return micros, tuple(values)

    def unpack(self, stored: bytes | None) -> Row | None:
        """A stored row; None where there is none or it was written for other declarations."""
        found = self.numbers(stored)
        if found is None:
            return None
        micros, values = found
        # NaN alone differs from itself
        named = {name: None if v != v else v for name, v in zip(self.names, values, strict=True)}
        return Row(EPOCH + timedelta(microseconds=micros), named)

    def batch(self, rows: list[tuple[int, datetime, dict[str, float | None]]]) -> pa.RecordBatch:
        """Rows of (key, as_of, features) as the batch that `pack` takes; an absent feature is null."""
        columns: list[Any] = [
            pa.array([key for key, _, _ in rows], pa.int64()),
            pa.array(
                [moment if moment.tzinfo else moment.replace(tzinfo=UTC) for _, moment, _ in rows], TIME
            ),
            *(pa.array([values.get(name) for _, _, values in rows], pa.float64()) for name in self.names),
        ]
        return pa.record_batch(columns, self.columns)


@cache
def _struct_of(features: int) -> struct.Struct:
    return struct.Struct(f"<{MARK}xq{features}d")


def layout_of(config: RepoConfig, view: FeatureView) -> Layout:
    """The layout of a Feast view.

    Raises:
        SluiceError: its key is not one int64, or a feature is no double.
    """
    from feast.types import Float64, Int64

    others = [field.name for field in view.features if field.dtype != Float64]
    if others:
        raise SluiceError(f"feature view {view.name}: online features are Float64, {others[0]} is not")
    keys = view.entity_columns
    if len(keys) != 1 or keys[0].dtype != Int64:
        raise SluiceError(f"feature view {view.name}: online rows have one join key, an Int64")
    return Layout(
        table=table_of(config, view),
        key=keys[0].name,
        moment=view.batch_source.timestamp_field,
        names=tuple(field.name for field in view.features),
        version=view.tags.get(VERSION_TAG, ""),
    )


def table_of(config: RepoConfig, view: FeatureView) -> str:
    """The name under which a view is stored."""
    from feast.infra.online_stores.helpers import compute_table_id

    versioned = config.registry.enable_online_feature_view_versioning
    name: str = compute_table_id(config.project, view, versioned)
    return name
