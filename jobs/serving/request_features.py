"""Features of one request: the stored ones read in process, the request's own computed from it.

In: customer, terminal, amount in minor units, event time in UTC. Out: one value per name, NaN for a gap.
Errors: SluiceError while the online store is not readable; the caller then answers by rules alone.
"""

from __future__ import annotations

import logging
from datetime import datetime
from typing import TYPE_CHECKING, Protocol

from jobs.conf.settings import Settings
from jobs.core import SluiceError
from jobs.features.declarations import FEATURE_VERSION, MODEL_FEATURES
from jobs.features.request import assemble

if TYPE_CHECKING:
    from jobs.features.online import OnlineFeatures

LOGGER = logging.getLogger("sluice.serving")


class FeatureSource(Protocol):
    """What the service needs to know about features."""

    names: tuple[str, ...]
    version: str

    def connect(self) -> None:
        """Open the store if it is not open; called again and again from the background."""

    def vector(
        self, customer_id: int, terminal_id: int, amount_minor: int, event_time: datetime
    ) -> list[float]:
        """The values in the order of `names`."""


class StoredFeatures:
    """Feast's online store in this process."""

    def __init__(self, settings: Settings) -> None:
        self.names: tuple[str, ...] = MODEL_FEATURES
        self.version: str = FEATURE_VERSION
        self._settings = settings
        self._reader: OnlineFeatures | None = None
        self._trouble = "not opened yet"

    def connect(self) -> None:
        """Open the store, or open it again after a read failed; trouble is kept for `vector` to tell."""
        if self._reader is not None:
            return
        try:
            from jobs.features.online import OnlineFeatures

            self._reader = OnlineFeatures(self._settings)
        except Exception as error:  # the store's libraries raise kinds of their own
            if str(error) != self._trouble:
                LOGGER.warning("online store: %s", error)
            self._trouble = str(error)

    def vector(
        self, customer_id: int, terminal_id: int, amount_minor: int, event_time: datetime
    ) -> list[float]:
        """The values in the order of `names`.

        Raises:
            SluiceError: the online store cannot be read now.
        """
        reader = self._reader
        if reader is None:
            raise SluiceError(f"online store: {self._trouble}")
        try:
            stored = reader.read(customer_id, terminal_id, event_time)
        except Exception as error:
            self._reader = None  # the background opens it again
            self._trouble = str(error)
            raise SluiceError(f"online store: {error}") from error
        return assemble(amount_minor, event_time, stored)
