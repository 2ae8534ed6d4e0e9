"""The stages of the demo: each triggers what a person would, and waits for what Airflow makes of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console

from demo import upstream
from demo.airflow_api import FINISHED, Airflow, ConflictError
from demo.mlflow_api import Registry
from demo.plan import Plan
from demo.traffic import requests_of, send
from jobs.conf.contract import load_contract
from jobs.core import SluiceError

PROMOTION_PACE = 90.0  # requests a second while a promotion waits for its samples
EVENT_SECONDS = 20.0
READING_SECONDS = 5.0  # of the question of an approval
console = Console()


class Chain:
    """A running installation, seen from outside."""

    def __init__(
        self, plan: Plan, home: Path, airflow: Airflow, approver: Airflow, registry: Registry, scoring: str
    ) -> None:
        self.plan = plan
        self.airflow = airflow
        self.approver = approver  # somebody else than who trains
        self.registry = registry
        self.scoring = scoring
        self.home = home
        self.contract = load_contract(plan.contract)
        self.source = plan.source_uri or upstream.S3_SOURCE
        self.played = plan.backfill_last
        self.asked_at: float | None = None
        self.promotions: set[str] = set()  # runs of fraud_promote that the story has come to

    # -- data -------------------------------------------------------------------------------------------

    def backfill(self) -> None:
        """Ingest and labels of the past, then features of every day of it."""
        plan = self.plan
        say(f"backfill of {len(plan.backfilled)} days, {plan.first} to {plan.backfill_last}")
        if plan.simulated:
            early, _ = upstream.folders(self.home)
            in_directory = upstream.early_days(plan)
            self._backfill("fraud_labels", plan.first, plan.backfill_last)
            self._backfill("fraud_ingest", plan.first, in_directory[-1], {"source_uri": str(early)})
            self._wait_days("fraud_ingest", plan.first, in_directory[-1])
            self._backfill("fraud_ingest", plan.backfilled[len(in_directory)], plan.backfill_last)
        else:
            self._backfill("fraud_labels", plan.first, plan.backfill_last)
            self._backfill("fraud_ingest", plan.first, plan.backfill_last)
        failed = self._wait_days("fraud_ingest", plan.first, plan.backfill_last)
        failed += self._wait_days("fraud_labels", plan.first, plan.backfill_last)
        expected = [plan.failing_day] if plan.failing_day else []
        if failed != expected:
            raise SluiceError(f"days {', '.join(map(str, failed))} failed to be ingested; see the Airflow UI")

    def repair_feed(self) -> None:
        """The source sends the failed day again, and the day is ingested again."""
        day = self.plan.failing_day
        if day is None:
            return
        say(f"{day} failed its quality gate; the source sends it again")
        upstream.repair(self.plan, day)
        self._backfill("fraud_ingest", day, day, reprocess="failed")
        if self._wait_days("fraud_ingest", day, day):
            raise SluiceError(f"{day} failed again after its repair; see the Data Docs")

    def wait_features(self) -> None:
        """Features of all backfilled days are there."""
        say("features of every day")
        if self._wait_days("fraud_features", self.plan.first, self.plan.backfill_last):
            raise SluiceError("a run of fraud_features failed; see the Airflow UI")

    def _backfill(
        self, dag: str, first: date, last: date, conf: dict[str, Any] | None = None, reprocess: str = "none"
    ) -> None:
        """Create a backfill; Airflow allows one at a time for a DAG and takes a while to close the last."""

        def create() -> bool | None:
            # asking writes nothing; a refused attempt does
            if self.airflow.has_backfill(dag):
                return None
            try:
                self.airflow.backfill(dag, first, last, conf, reprocess)
            except ConflictError:
                return None
            return True

        self.airflow.wait_for(f"backfill of {dag}", create, 300)

    def _wait_days(self, dag: str, first: date, last: date) -> list[date]:
        """Wait until the newest run of every day has ended; gives the days that failed."""
        days = [day for day in [*self.plan.backfilled, *self.plan.replayed] if first <= day <= last]

        def ended() -> dict[str, str] | None:
            states = {run["partition_key"]: run["state"] for run in self.airflow.runs(dag)}
            missing = [day for day in days if states.get(str(day)) not in FINISHED]
            return None if missing else states

        states = self.airflow.wait_for(f"{dag} {first} to {last}", ended, 1800, every=2.0)
        return [day for day in days if states[str(day)] == "failed"]

    # -- models -----------------------------------------------------------------------------------------

    def train(self, reason: str, drill: str = "none") -> str:
        """Start a training by hand and give the version that it registered."""
        say(f"training: {reason}")
        conf = {"day": str(self.played), "reason": reason, "drill": drill}
        return self.trained(self.airflow.trigger("fraud_train", conf))

    def trained(self, run: str) -> str:
        """Wait for a training; gives its version."""
        state = self.airflow.wait_run("fraud_train", run, 1800)
        if state["state"] != "success":
            raise SluiceError(
                f"fraud_train {run} failed; see {self.airflow.address}/dags/fraud_train/runs/{run}"
            )
        version = str(self.airflow.receipt("fraud_train", run, "register_model")["facts"]["version"])
        tags = self.registry.tags(version)
        say(f"version {version}: gate says {tags['sluice.gate']}: {tags['sluice.gate_reason'][:120]}")
        return version

    def gate(self, version: str) -> str:
        return self.registry.tags(version)["sluice.gate"]

    def offer(self, version: str) -> str:
        """Set the alias `challenger`, as a click in the MLflow UI does, unless its training has; the run."""
        running = self.registry.aliases().get("challenger")
        if running not in (None, version):
            self.take_back(str(running), f"version {version} comes first")
        if running != version:
            self.registry.set_alias("challenger", version)
        say(f"version {version} is offered: alias challenger is set")
        return self._promotion_of(version)

    def take_back(self, version: str, reason: str) -> None:
        """Press the button on a version that is being promoted."""
        run = self._promotion_of(version)
        say(f"version {version} is taken off by the button: {reason}")
        pressed = self.airflow.trigger("fraud_roll_back", {"version": version, "reason": reason})
        if self.airflow.wait_run("fraud_roll_back", pressed)["state"] != "success":
            raise SluiceError(f"fraud_roll_back {pressed} failed; see the Airflow UI")
        self.airflow.wait_run("fraud_promote", run)

    def decline(self, version: str) -> None:
        """Answer no where the promotion of a version asks a person."""
        run = self.offer(version)

        def asked() -> bool | None:
            tasks = self.airflow.tasks("fraud_promote", run, task_id="approve_version")
            return any(task["state"] == "awaiting_input" for task in tasks) or None

        self.airflow.wait_for(f"the question about version {version}", asked, EVENT_SECONDS * 3, 0.5)
        self.approver.respond("fraud_promote", run, "approve_version", "Reject")
        self.airflow.wait_run("fraud_promote", run)

    def _promotion_of(self, version: str) -> str:
        """The run that began as the alias was set on a version, and that the story has not come to yet."""

        def started() -> str | None:
            new = [run["dag_run_id"] for run in self.airflow.runs("fraud_promote")]
            return next((run for run in new if run not in self.promotions and begun_by(run) == version), None)

        def begun_by(run: str) -> str:
            events = self.airflow.events_of("fraud_promote", run)
            return str(events[-1]["extra"]["payload"]["version"]) if events else ""

        run = self.airflow.wait_for("fraud_promote after the alias moved", started, EVENT_SECONDS, 0.5)
        self.promotions.add(run)
        return run

    def promote(self, version: str) -> str:
        """Offer a version, let traffic flow until its promotion has ended, and give the run's state."""
        run = self.offer(version)
        while (state := self.airflow.run("fraud_promote", run)["state"]) not in FINISHED:
            self._approve_if_asked(run)
            if not self.has_next_day():
                raise SluiceError(f"no day of traffic is left, and version {version} is still being promoted")
            self.play_day(PROMOTION_PACE, until=lambda: self._ended_or_asks(run))
        say(f"version {version}: promotion {state}: {self.registry.tags(version).get('sluice.promotion')}")
        return state

    def _ended_or_asks(self, run: str) -> bool:
        self._approve_if_asked(run)
        return self.airflow.run("fraud_promote", run)["state"] in FINISHED

    def _approve_if_asked(self, run: str) -> None:
        """Approve as a person would: some seconds after the question has appeared."""
        tasks = self.airflow.tasks("fraud_promote", run, task_id="approve_version")
        states = {task["task_id"]: task["state"] for task in tasks}
        if states.get("approve_version") != "awaiting_input":
            self.asked_at = None
            return
        self.asked_at = self.asked_at or time.monotonic()
        if time.monotonic() - self.asked_at > READING_SECONDS:
            self.approver.respond("fraud_promote", run, "approve_version", "Approve")
            self.asked_at = None
            say("a person approves in Airflow")

    # -- days -------------------------------------------------------------------------------------------

    def has_next_day(self) -> bool:
        return self.played < self.plan.last

    def play_day(
        self, per_second: float | None = None, until: Callable[[], bool] = lambda: False
    ) -> dict[str, Any]:
        """The next day: its transactions as live traffic, then its data, features and monitoring.

        With a pace, the traffic goes on at it until `until` says yes, and the rest of the day at full speed.
        Gives the monitor's receipt.
        """
        day = self.plan.replayed[self.plan.replayed.index(self.played) + 1 if self._replaying() else 0]
        bodies = requests_of(self.contract, self.source, day)
        answered, slow = 0, per_second is not None
        for first in range(0, len(bodies), 200):
            slow = slow and not until()
            answered += send(self.scoring, bodies[first : first + 200], per_second if slow else None)
        if answered != len(bodies):
            raise SluiceError(f"{day}: {len(bodies) - answered} of {len(bodies)} requests were not answered")
        self.played = day
        decision = self._process_day(day)
        facts = decision["facts"]
        say(
            f"{day}: {len(bodies)} transactions scored; monitor: {facts['decision']}: {facts['reason'][:110]}"
        )
        return decision

    def _replaying(self) -> bool:
        return self.played in self.plan.replayed

    def _process_day(self, day: date) -> dict[str, Any]:
        for dag in ("fraud_labels", "fraud_ingest"):
            self.airflow.trigger(dag, partition_key=str(day))
        for dag in ("fraud_labels", "fraud_ingest", "fraud_features"):
            if self._wait_days(dag, day, day):
                raise SluiceError(f"{dag} failed for {day}; see the Airflow UI")
        self._wait_prediction_log(day)
        run = self.airflow.trigger("fraud_monitor", {"day": str(day)})
        if self.airflow.wait_run("fraud_monitor", run)["state"] != "success":
            raise SluiceError(f"fraud_monitor failed for {day}; see the Airflow UI")
        return self.airflow.receipt("fraud_monitor", run, "decide_reaction")

    def _wait_prediction_log(self, day: date) -> None:
        """The log is written behind the answers: wait until the service has nothing left to write."""

        def written() -> bool | None:
            log = httpx.get(f"{self.scoring}/state", timeout=10.0).json()["log"]
            return (log["waiting"] == 0 and log["queued"] == log["written"] + log["dropped"]) or None

        self.airflow.wait_for(f"the prediction log of {day}", written, 30, every=0.2)

    def retraining_of(self, decision: dict[str, Any], known: set[str]) -> str:
        """The training that the monitor's decision has started: the run that an asset event made."""

        def started() -> str | None:
            runs = self.airflow.runs("fraud_train")
            new = [run["dag_run_id"] for run in runs if run["dag_run_id"] not in known]
            return new[0] if new else None

        return self.airflow.wait_for("fraud_train after the monitor's decision", started, EVENT_SECONDS, 0.5)


def say(text: str) -> None:
    """One line of the story."""
    console.print(f"[dim]{time.strftime('%H:%M:%S')}[/] {text}", highlight=False)
