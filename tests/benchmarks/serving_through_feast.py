"""The scoring service with one thing exchanged: stored features come by Feast's own get_online_features.

Run as `python -m jobs.serving` is, on its settings. Token, velocity, rules, routing, model and log are the
service's own. Feast's call costs little more for ten requests than for one, so those that are there at a turn
of the event loop share one. The loop stands still meanwhile: in a thread beside it both wait for the
interpreter, which costs a tenth of the throughput. Numbers are taken out of Feast's answer as they lie there,
since its `to_dict` looks up the type of every single one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from jobs.serving.__main__ import keep_out, main

keep_out()  # as the service does before it imports what follows

from jobs.conf.settings import Settings  # noqa: E402
from jobs.core import SluiceError  # noqa: E402
from jobs.ending import leave  # noqa: E402
from jobs.features.declarations import STORED_FEATURES  # noqa: E402
from jobs.features.definitions import ONLINE_SERVICE  # noqa: E402
from jobs.features.request import assemble  # noqa: E402
from jobs.features.store import feature_store  # noqa: E402
from jobs.features.velocity_store import Event  # noqa: E402
from jobs.serving import app  # noqa: E402
from jobs.serving.request_features import Asked, StoredFeatures  # noqa: E402

Found = dict[str, float | None]


class ThroughFeast(StoredFeatures):
    """Velocity as the service reads it, and the stored features in a call of their own."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._store = feature_store(settings)
        service = self._store.get_feature_service(ONLINE_SERVICE)
        # by their names: to take the service apart costs Feast a quarter of the call
        self._asked_for = [f"{each.name}:{field.name}" for each in service.feature_view_projections
                           for field in each.features]  # fmt: skip
        self._waiting: list[tuple[Event, asyncio.Future[Found]]] = []
        self._asking: asyncio.Task[None] | None = None

    async def _asked(self, event: Event, *, record: bool) -> Asked:
        velocity, _ = await super()._asked(event, record=record)
        return velocity, None

    async def _assembled(self, event: Event, velocity: list[float] | None, stored: Any) -> list[float]:
        loop = asyncio.get_running_loop()
        found: asyncio.Future[Found] = loop.create_future()
        self._waiting.append((event, found))
        if self._asking is None:
            self._asking = loop.create_task(self._ask())
        return assemble(event.amount_minor, event.event_time, await found, velocity)

    async def _ask(self) -> None:
        """One call after another, each for all that wait."""
        while self._waiting:
            await asyncio.sleep(0)
            asked, self._waiting = self._waiting, []
            try:
                rows = self._read_all([event for event, _ in asked])
            except Exception as error:
                self._tell(asked, error)
                continue
            for (_, waits), row in zip(asked, rows, strict=True):
                if not waits.done():  # a request that was given up
                    waits.set_result(row)
        self._asking = None

    def _tell(self, asked: Sequence[tuple[Event, asyncio.Future[Found]]], error: Exception) -> None:
        for _, waits in asked:
            if not waits.done():
                waits.set_exception(SluiceError(f"online store: {error}"))

    def _read_all(self, events: Sequence[Event]) -> list[Found]:
        if self._reader is None:
            raise SluiceError("not opened yet")
        entities = [{"customer_id": each.customer_id, "terminal_id": each.terminal_id} for each in events]
        answer = self._store.get_online_features(features=self._asked_for, entity_rows=entities).proto
        found = {
            name: [value.double_val if value.HasField("double_val") else None for value in column.values]
            for name, column in zip(answer.metadata.feature_names.val, answer.results, strict=True)
        }
        return [dict(zip(STORED_FEATURES, row, strict=True))
                for row in zip(*(found[name] for name in STORED_FEATURES), strict=True)]  # fmt: skip


if __name__ == "__main__":
    app.StoredFeatures = ThroughFeast  # type: ignore[misc]
    leave(main())
