"""Fires when an alias of a registered model moves to another version in MLflow."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
from airflow.triggers.base import BaseEventTrigger, TriggerEvent

from jobs.conf.settings import mlflow_login

ABSENT = ""


class AliasTrigger(BaseEventTrigger):
    """Asks the registry every `poll_seconds`; the event's payload is `{"version": …}`.

    The last version seen is kept by Airflow with the asset, so that a restarted triggerer neither
    misses a move nor reports one twice. Removing the alias is not an event.
    """

    def __init__(self, registry_uri: str, model_name: str, alias: str, poll_seconds: float = 1.0) -> None:
        super().__init__()
        self.registry_uri = registry_uri
        self.model_name = model_name
        self.alias = alias
        self.poll_seconds = poll_seconds

    def serialize(self) -> tuple[str, dict[str, Any]]:
        return (
            "plugins.alias_trigger.AliasTrigger",
            {
                "registry_uri": self.registry_uri,
                "model_name": self.model_name,
                "alias": self.alias,
                "poll_seconds": self.poll_seconds,
            },
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        memory = self.asset_state_store
        last = (await memory.aget("version") if memory else None) or ABSENT
        client = httpx.AsyncClient(base_url=self.registry_uri, timeout=5.0, auth=mlflow_login())
        async with client as http:
            while True:
                version = await self._version(http, otherwise=last)
                if version not in (last, ABSENT):
                    yield TriggerEvent({"version": version})
                if version != last and memory:
                    await memory.aset("version", version)
                last = version
                await asyncio.sleep(self.poll_seconds)

    async def _version(self, http: httpx.AsyncClient, otherwise: str) -> str:
        """The version under the alias, ABSENT without one; the last one known while MLflow is away."""
        try:
            answer = await http.get(
                "/api/2.0/mlflow/registered-models/alias",
                params={"name": self.model_name, "alias": self.alias},
            )
        except httpx.HTTPError as error:
            self.log.warning("MLflow at %s does not answer: %r", self.registry_uri, error)
            return otherwise
        if answer.status_code in (400, 404):
            return ABSENT
        if answer.status_code != 200:
            self.log.warning("MLflow at %s answered %d", self.registry_uri, answer.status_code)
            return otherwise
        return str(answer.json()["model_version"]["version"])
