"""Digests of a frame, bit for bit: of each column with its type and in its order, and of them all."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import pandas as pd


def column_digests(frame: pd.DataFrame) -> dict[str, str]:
    """Digest of each column: values in order, and their type."""
    return {str(name): _digest(frame[name]) for name in frame.columns}


def frame_digest(columns: Mapping[str, str]) -> str:
    """Digest of a frame from those of its columns, which count in their order."""
    text = "\n".join(f"{name} {digest}" for name, digest in columns.items())
    return hashlib.sha256(text.encode()).hexdigest()


def _digest(column: pd.Series) -> str:
    hashes = pd.util.hash_pandas_object(column, index=False).to_numpy()
    return hashlib.sha256(str(column.dtype).encode() + hashes.tobytes()).hexdigest()[:16]
