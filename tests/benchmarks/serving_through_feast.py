"""The scoring service with one thing exchanged: stored features come by Feast's own get_online_features.

Run as `python -m jobs.serving` is, on its settings. Token, velocity, rules, routing, model and log are the
service's own. Feast's call waits for Redis, so it is made beside the event loop, as our own read is.
"""

from __future__ import annotations

from jobs.serving.__main__ import keep_out, main

keep_out()  # as the service does before it imports what follows

from jobs.conf.settings import Settings  # noqa: E402
from jobs.core import SluiceError  # noqa: E402
from jobs.ending import leave  # noqa: E402
from jobs.features.declarations import STORED_FEATURES  # noqa: E402
from jobs.features.definitions import ONLINE_SERVICE  # noqa: E402
from jobs.features.store import feature_store  # noqa: E402
from jobs.features.velocity_store import Event  # noqa: E402
from jobs.serving import app  # noqa: E402
from jobs.serving.request_features import Asked, StoredFeatures  # noqa: E402


class ThroughFeast(StoredFeatures):
    """Velocity as the service reads it, and the stored features in a call of their own."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._store = feature_store(settings)
        service = self._store.get_feature_service(ONLINE_SERVICE)
        # by their names: to take the service apart costs Feast a quarter of the call
        self._asked_for = [f"{each.name}:{field.name}" for each in service.feature_view_projections
                           for field in each.features]  # fmt: skip

    async def _asked(self, event: Event, *, record: bool) -> Asked:
        velocity, _ = await super()._asked(event, record=record)
        return velocity, None

    def _read(self, event: Event) -> dict[str, float | None]:
        if self._reader is None:
            raise SluiceError("online store: not opened yet")
        entities = [{"customer_id": event.customer_id, "terminal_id": event.terminal_id}]
        found = self._store.get_online_features(features=self._asked_for, entity_rows=entities).to_dict()
        return {name: found[name][0] for name in STORED_FEATURES}


if __name__ == "__main__":
    app.StoredFeatures = ThroughFeast  # type: ignore[misc]
    leave(main())
