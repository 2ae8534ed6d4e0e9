"""Airflow's public REST API, as far as a person at the UI would use it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import httpx

from jobs.core import SluiceError

FINISHED = {"success", "failed"}
Answer = TypeVar("Answer")


class ConflictError(SluiceError):
    """What was asked for is there already, or stands in the way."""


class Airflow:
    """A signed-in session with the api-server."""

    def __init__(self, address: str, user: str, password_file: Path) -> None:
        self.address = address.rstrip("/")
        self._user = user
        self._password_file = password_file
        self._http = httpx.Client(base_url=self.address, timeout=30.0)
        self._sign_in()

    def unpause(self, dag: str) -> None:
        self._call("PATCH", f"/api/v2/dags/{dag}", json={"is_paused": False})

    def dags(self) -> list[dict[str, Any]]:
        return self._items("/api/v2/dags", "dags")

    def backfill(
        self,
        dag: str,
        first: date,
        last: date,
        conf: dict[str, Any] | None = None,
        reprocess: str = "none",
        max_active_runs: int = 2,
    ) -> int:
        """Create a backfill of the days first..last and give its id."""
        body = {
            "dag_id": dag,
            "from_date": f"{first}T00:00:00Z",
            "to_date": f"{last}T00:00:00Z",
            "reprocess_behavior": reprocess,
            "max_active_runs": max_active_runs,
            "dag_run_conf": conf or {},
            "run_backwards": False,
        }
        return int(self._call("POST", "/api/v2/backfills", json=body)["id"])

    def has_backfill(self, dag: str) -> bool:
        """Whether a backfill of a DAG has not been completed."""
        found = self._call("GET", "/api/v2/backfills", params={"dag_id": dag})["backfills"]
        return any(each["completed_at"] is None for each in found)

    def trigger(self, dag: str, conf: dict[str, Any] | None = None, **more: Any) -> str:
        """Start a run by hand and give its id."""
        run = f"by_hand__{uuid4().hex[:12]}"  # ours, so that a call that is repeated starts one run
        body = {"dag_run_id": run, "logical_date": None, "conf": conf or {}, **more}
        try:
            self._call("POST", f"/api/v2/dags/{dag}/dagRuns", json=body)
        except ConflictError:
            return run
        return run

    def runs(self, dag: str, **query: Any) -> list[dict[str, Any]]:
        return self._items(f"/api/v2/dags/{dag}/dagRuns", "dag_runs", order_by="id", **query)

    def run(self, dag: str, run: str) -> dict[str, Any]:
        return self._call("GET", f"/api/v2/dags/{dag}/dagRuns/{run}")

    def tasks(self, dag: str, run: str = "~", **query: Any) -> list[dict[str, Any]]:
        return self._items(f"/api/v2/dags/{dag}/dagRuns/{run}/taskInstances", "task_instances", **query)

    def events_of(self, dag: str, run: str) -> list[dict[str, Any]]:
        """The asset events that began a run."""
        return self._items(f"/api/v2/dags/{dag}/dagRuns/{run}/upstreamAssetEvents", "asset_events")

    def receipt(self, dag: str, run: str, task: str, map_index: int = -1) -> dict[str, Any]:
        """What a task returned."""
        path = f"/api/v2/dags/{dag}/dagRuns/{run}/taskInstances/{task}/xcomEntries/return_value"
        value = self._call("GET", path, params={"map_index": map_index, "deserialize": False})["value"]
        return dict(value)

    def wait_for(
        self, what: str, probe: Callable[[], Answer | None], seconds: float, every: float = 1.0
    ) -> Answer:
        """Ask until there is an answer.

        Raises:
            SluiceError: none came within `seconds`.
        """
        deadline = time.monotonic() + seconds
        while True:
            answer = probe()
            if answer is not None:
                return answer
            if time.monotonic() > deadline:
                raise SluiceError(
                    f"{what}: nothing after {seconds:.0f} s; look at {self.address} and `make status`"
                )
            time.sleep(every)

    def wait_run(self, dag: str, run: str, seconds: float = 600.0) -> dict[str, Any]:
        """Wait until a run has ended."""

        def ended() -> dict[str, Any] | None:
            state = self.run(dag, run)
            return state if state["state"] in FINISHED else None

        return self.wait_for(f"{dag} run {run}", ended, seconds)

    def respond(self, dag: str, run: str, task: str, chosen: str) -> None:
        """Answer a task that waits for a person."""
        path = f"/api/v2/dags/{dag}/dagRuns/{run}/taskInstances/{task}/-1/hitlDetails"
        self._call("PATCH", path, json={"chosen_options": [chosen], "params_input": {}})

    def _items(self, path: str, key: str, **query: Any) -> list[dict[str, Any]]:
        return list(self._pages(path, key, query))

    def _pages(self, path: str, key: str, query: dict[str, Any]) -> Iterator[dict[str, Any]]:
        offset, page = 0, 100
        while True:
            answer = self._call("GET", path, params={**query, "limit": page, "offset": offset})
            yield from answer[key]
            offset += page
            if offset >= int(answer["total_entries"]):
                return

    def _sign_in(self) -> None:
        try:
            password = self._password_file.read_text().strip()
        except FileNotFoundError:
            raise SluiceError(
                f"{self._password_file}: no password of the Airflow user; `make up` writes it"
            ) from None
        answer = self._http.post("/auth/token", json={"username": self._user, "password": password})
        if answer.status_code >= 400:
            raise SluiceError(f"Airflow at {self.address} refused the user {self._user}: {answer.text[:200]}")
        self._http.headers["Authorization"] = f"Bearer {answer.json()['access_token']}"

    def _call(self, method: str, path: str, **request: Any) -> dict[str, Any]:
        for attempt in range(5):
            try:
                answer = self._http.request(method, path, **request)
            except httpx.TransportError:
                if attempt == 4:
                    raise SluiceError(f"Airflow at {self.address} does not answer; `make status`") from None
                time.sleep(1.0 + attempt)
                continue
            if answer.status_code == 401:
                self._sign_in()
                continue
            if answer.status_code == 409:
                raise ConflictError(f"Airflow: {method} {path}: {answer.text[:500]}")
            if answer.status_code >= 500 and attempt < 4:
                time.sleep(1.0 + attempt)
                continue
            if answer.status_code >= 400:
                raise SluiceError(f"Airflow: {method} {path}: {answer.status_code} {answer.text[:500]}")
            return dict(answer.json() or {}) if answer.content else {}
        raise SluiceError(f"Airflow at {self.address} refuses our token; `make down`, then `make up`")
