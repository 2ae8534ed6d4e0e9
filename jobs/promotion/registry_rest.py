"""The registry by its REST interface, for readers that must stay light.

In: settings. Out: aliases and `VersionState`s as `jobs.promotion.state` reads them with MLflow's own client.
To import that client takes three seconds and 150 MB, which a web server that shows a page does not spend.
Errors: SluiceError where MLflow does not answer, or not as it should.
"""

from __future__ import annotations

from datetime import UTC, datetime
from types import TracebackType
from typing import Any

import httpx

from jobs.conf.settings import Settings, mlflow_login
from jobs.core import SluiceError
from jobs.promotion.state import VersionState

ABSENT = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
SECONDS = 2.0  # a person waits for the page


class RegistryRest:
    """One registered model; use it as a context."""

    def __init__(self, settings: Settings, transport: httpx.BaseTransport | None = None) -> None:
        self._uri = settings.mlflow_uri
        self._name = settings.model_name
        base = f"{self._uri.rstrip('/')}/api/2.0/mlflow"
        self._http = httpx.Client(base_url=base, timeout=SECONDS, transport=transport, auth=mlflow_login())

    def __enter__(self) -> RegistryRest:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def aliases(self) -> dict[str, str]:
        """Alias -> version; empty where the model is not registered yet."""
        found = self._get("/registered-models/get", name=self._name)
        listed = found["registered_model"].get("aliases", []) if found else []
        return {str(each["alias"]): str(each["version"]) for each in listed}

    def version(self, version: str) -> VersionState | None:
        """One version with its tags, None where it does not exist."""
        found = self._get("/model-versions/get", name=self._name, version=version)
        if not found:
            return None
        state = found["model_version"]
        return VersionState(
            version=str(state["version"]),
            run_id=str(state.get("run_id") or ""),
            source=str(state.get("source") or ""),
            tags={str(tag["key"]): str(tag.get("value", "")) for tag in state.get("tags", [])},
            registered_at=datetime.fromtimestamp(int(state["creation_timestamp"]) / 1000, UTC),
        )

    def _get(self, path: str, **query: str) -> dict[str, Any]:
        """The answer; empty where what was asked for does not exist."""
        try:
            answer = self._http.get(path, params=query)
            content = answer.json()
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
            raise SluiceError(f"MLflow does not answer at {self._uri} ({type(error).__name__})") from None
        if answer.status_code == 200 and isinstance(content, dict):
            return content
        if isinstance(content, dict) and content.get("error_code") in ABSENT:
            return {}
        raise SluiceError(f"MLflow at {self._uri} answered {answer.status_code}")
