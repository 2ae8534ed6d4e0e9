"""MLflow's public REST API as a person at the UI would use it: look at versions, move an alias."""

from __future__ import annotations

from typing import Any

import httpx

from jobs.core import SluiceError


class Registry:
    """One registered model."""

    def __init__(self, address: str, model: str) -> None:
        self._http = httpx.Client(base_url=f"{address.rstrip('/')}/api/2.0/mlflow", timeout=30.0)
        self.model = model

    def set_alias(self, alias: str, version: str) -> None:
        """What a click in the UI does."""
        body = {"name": self.model, "alias": alias, "version": version}
        self._call("POST", "/registered-models/alias", json=body)

    def aliases(self) -> dict[str, str]:
        answer = self._http.get("/registered-models/get", params={"name": self.model})
        if answer.status_code == 404:
            return {}
        listed = answer.json()["registered_model"].get("aliases", [])
        return {entry["alias"]: str(entry["version"]) for entry in listed}

    def tags(self, version: str) -> dict[str, str]:
        query = {"name": self.model, "version": version}
        found = self._call("GET", "/model-versions/get", params=query)["model_version"]
        return {tag["key"]: tag["value"] for tag in found.get("tags", [])}

    def versions(self) -> list[str]:
        """All versions, oldest first."""
        query = {"filter": f"name='{self.model}'", "max_results": 1000}
        found = self._call("GET", "/model-versions/search", params=query).get("model_versions", [])
        return sorted((str(entry["version"]) for entry in found), key=int)

    def _call(self, method: str, path: str, **request: Any) -> dict[str, Any]:
        answer = self._http.request(method, path, **request)
        if answer.status_code >= 400:
            raise SluiceError(f"MLflow: {method} {path}: {answer.status_code} {answer.text[:300]}")
        return dict(answer.json())
