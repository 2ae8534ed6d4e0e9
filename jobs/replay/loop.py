"""One policy, day by day: traffic, monitoring, training, promotion, in order of the simulated time.

In: the data of a replay (jobs/replay/data.py), an installation of its own. Out: what a running installation
leaves: prediction log, figures, decisions, versions, promotions; and days/DAY.json, what happened on the day.
Tables show what was there when the day began. Monitoring looks at the day before at MONITOR_HOUR. A training
starts at midnight while there is no version, at TRAIN_HOUR on a Monday, and when the monitor asks for it.
Errors: those of the jobs, where they are no answer of a gate or of a training that had too little to learn
from. The day is not done then: it is played again once what was wrong is mended.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from jobs import clock
from jobs.conf.policy import WEEKLY, policy_of
from jobs.conf.settings import Settings
from jobs.core import GateClosed, NotEnoughData, NothingToDo, Receipt, midnight
from jobs.lake.store import lake_of
from jobs.lake.tables import PREDICTIONS
from jobs.promotion import state as registry
from jobs.replay import checkpoint, traffic
from jobs.replay.agenda import Agenda, Due, Happening
from jobs.replay.data import read_vectors, rows_of_vectors, run_job
from jobs.replay.graph import DAGS, run_graph
from jobs.replay.plan import Plan
from jobs.replay.promotions import Promotions
from jobs.replay.view import show
from jobs.serving.bundles import BundleRefused, fetch_bundle
from jobs.serving.log_rows import Prediction, encode

TRAIN_HOUR, MONITOR_HOUR, DRILL_HOUR = 3, 5, 9
MONDAY = 0
AUTHOR, OFFER = "sluice", "offer_version"


class Loop:
    """The installation of one policy, played over history."""

    def __init__(
        self, settings: Settings, plan: Plan, data_home: Path, versions: Callable[[date], dict[str, int]]
    ) -> None:
        self.settings = settings
        self.policy = policy_of(settings)
        self.plan = plan
        self.data_home = data_home
        self.versions = versions
        checkpoint.forget_from(settings, changed_day(settings, data_home))
        self.done = checkpoint.restore(settings)
        self.agenda = Agenda(self._left())
        self.seconds: dict[str, float] = {}
        self._make_experiment()
        self.promotions = Promotions(settings, self.agenda)
        self.models: dict[str, traffic.Served | None] = {}

    def play(self) -> None:
        """Every day that has not been played."""
        self.play_to(self.plan.last)

    def play_to(self, last: date) -> None:
        """The days that have not been played, up to one of them."""
        for day in self.plan.days:
            if day <= last and (self.done is None or day > self.done):
                self.seconds = {}
                record = self.play_day(day)
                checkpoint.keep(self.settings, day, record)
                _note_seconds(self.settings, day, self.seconds)
                self.done = day

    def play_day(self, day: date) -> dict[str, Any]:
        """One day from midnight to midnight; gives its record."""
        start, end = midnight(day), midnight(day + timedelta(days=1))
        before = day - timedelta(days=1)
        with self._timed("view"):
            show(self.data_home / "lake", self.settings.home / "lake", self.versions(before))
        self._plan_day(day, before, start)
        events = _events(self.data_home, self.settings, day)
        today = traffic.Day(events, self.policy)
        log: list[pa.RecordBatch] = []
        happened: list[Happening] = []
        served = 0
        while True:
            item = self.agenda.next_before(end)
            upto = today.rows_until((item.at if item else end).timestamp())
            routing = self.promotions.routing()
            with self._timed("traffic"):
                answers = self._answers(today, served, upto, routing)
                log += [encode(answers)] if answers else []
            served = upto
            if item is None or item.kind == "look":
                with self._timed("log"):
                    self._write(day, log)
            if item is None:
                break
            with self._timed(item.kind), clock.standing_at(item.at):
                happened += self._handle(item)
        routing = self.promotions.routing()
        return {
            "day": str(day),
            "rows": len(events),
            "champion": routing.champion or "",
            "happened": [each.model_dump(mode="json") for each in happened],
            "agenda": [each.model_dump(mode="json") for each in self.agenda.items],
        }

    def _plan_day(self, day: date, before: date, start: datetime) -> None:
        replay, drill = self.policy.replay, self.plan.scenario.drills.get(before)
        if not registry.read_versions(self.promotions.client, self.settings.model_name):
            # also where the days so far were too few to learn from
            self.agenda.add(Due(at=start, kind="train", day=before, reason="the first model"))
        elif day.weekday() == MONDAY:
            self.agenda.add(
                Due(at=start + timedelta(hours=TRAIN_HOUR), kind="train", day=before, reason=WEEKLY)
            )
        if replay.monitoring and day > self.plan.first:
            self.agenda.add(Due(at=start + timedelta(hours=MONITOR_HOUR), kind="monitor", day=before))
        if drill:
            at = start + timedelta(hours=DRILL_HOUR)
            self.agenda.add(Due(at=at, kind="train", day=before, reason=f"fault: {drill}", drill=drill))

    def _handle(self, item: Due) -> list[Happening]:
        if item.kind == "train":
            return self._train(item)
        if item.kind == "monitor":
            return self._monitor(item)
        return self.promotions.handle(item)

    def _monitor(self, item: Due) -> list[Happening]:
        further = {"decide_reaction": [{"run": f"replay-{item.day}"}]}
        receipts = self._run("fraud_monitor", {"day": item.day}, further)
        facts = receipts["decide_reaction"].facts
        if facts["decision"] == "retrain" and not facts["repeated"]:
            reason = f"monitor: {facts['reason']}"[:450]
            self.agenda.add(Due(at=item.at, kind="train", day=item.day, reason=reason, start=facts["start"]))
        return [
            Happening(
                at=item.at,
                what="monitor",
                version=facts["model_version"],
                detail=facts["reason"],
                facts={"day": str(item.day), "decision": facts["decision"]},
            )
        ]

    def _train(self, item: Due) -> list[Happening]:
        """The jobs of fraud_train; too little to learn from, or a closed gate, is an answer too.

        Anything else that stops it says nothing of the policy, and stops the replay. What it registers is
        offered once the hours of a training have passed: jobs/replay/promotions.py.
        """
        run = f"replay-{item.day}-{item.at:%H}" + ("" if item.drill == "none" else f"-{item.drill}")
        common = {"day": item.day, "run": run}
        further: dict[str, list[dict[str, Any]]] = {
            "snapshot_labels": [{"reason": item.reason}],
            "build_frame": [{"drill": item.drill}],
            "tune_model": [
                {"start": item.start, "worker": place} for place in range(self.policy.tuning.workers)
            ],
            "register_model": [{"drill": item.drill, "reason": item.reason, "author": AUTHOR}],
        }
        try:
            receipts = self._run("fraud_train", common, further)
        except (NothingToDo, NotEnoughData, GateClosed) as error:
            what = "no training due" if isinstance(error, NothingToDo) else "training failed"
            return [Happening(at=item.at, what=what, detail=str(error)[:500],
                              facts={"reason": item.reason, "day": str(item.day)})]  # fmt: skip
        gate, version = receipts["gate_model"].facts, str(receipts["register_model"].facts["version"])
        ready = item.at + timedelta(hours=self.policy.replay.training_hours)
        self.agenda.add(Due(at=ready, kind="offer", version=version))
        facts = {
            "day": str(item.day), "reason": item.reason, "drill": item.drill, "gate": gate["gate"],
            "gate_reasons": gate["reasons"], "rows": receipts["build_frame"].rows,
        }  # fmt: skip
        return [Happening(at=item.at, what="trained", version=version, detail=item.reason, facts=facts)]

    def _run(
        self, dag: str, common: dict[str, Any], further: dict[str, list[dict[str, Any]]]
    ) -> dict[str, Receipt]:
        """The jobs of a DAG but the offer, which comes later, on this policy's share of the cores.

        Args:
            further: what the calls of a job are told beside what all are told; one call where none is named.
        """
        calls = {
            job: [
                partial(run_job, self.settings, job, common | own)
                for own in further.get(job, [dict[str, Any]()])
            ]
            for job in DAGS[dag]
            if job != OFFER
        }
        return run_graph(calls, max(1, len(os.sched_getaffinity(0)) // len(self.plan.policies)))

    def _answers(
        self, today: traffic.Day, first: int, last: int, routing: registry.Routing
    ) -> list[Prediction]:
        wanted = {each: self._model(each) for each in (routing.champion, routing.challenger) if each}
        return today.answers(first, last, routing, {name: each for name, each in wanted.items() if each})

    def _model(self, version: str) -> traffic.Served | None:
        """A version that serves; none where the service would refuse it, and go on without."""
        if version not in self.models:
            try:
                folder = fetch_bundle(self.settings, version)
                self.models[version] = traffic.load(version, folder, self.policy)
            except BundleRefused:
                self.models[version] = None
        return self.models[version]

    def _write(self, day: date, log: list[pa.RecordBatch]) -> None:
        """The day's log so far, in place of what it was: a day that is played again has no row twice."""
        rows = pa.Table.from_batches(log, PREDICTIONS.schema)
        lake_of(self.settings).replace(PREDICTIONS, rows, day)

    def _left(self) -> list[Due]:
        if self.done is None:
            return []
        record = read_record(self.settings, self.done)
        return [Due.model_validate_json(json.dumps(item)) for item in record["agenda"]]

    def _make_experiment(self) -> None:
        """Runs keep their files in this installation, wherever the process was started."""
        self.settings.home.mkdir(parents=True, exist_ok=True)
        client, name = registry.registry_client(self.settings), self.settings.experiment
        if client.get_experiment_by_name(name) is None:
            client.create_experiment(name, artifact_location=str(self.settings.home / "artifacts"))

    @contextmanager
    def _timed(self, what: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[what] = self.seconds.get(what, 0.0) + time.perf_counter() - start


def _events(data_home: Path, settings: Settings, day: date) -> pd.DataFrame:
    return read_vectors(settings.model_copy(update={"home": data_home}), day)


def changed_day(settings: Settings, data_home: Path) -> date | None:
    """The first played day whose traffic has grown since: rows of it came late, with files of later days."""
    place = settings.model_copy(update={"home": data_home})
    for day in checkpoint.done_days(settings):
        if read_record(settings, day)["rows"] != rows_of_vectors(place, day):
            return day
    return None


def read_record(settings: Settings, day: date) -> dict[str, Any]:
    """What happened on a day that was played."""
    found: dict[str, Any] = json.loads((settings.home / "days" / f"{day}.json").read_text())
    return found


def _note_seconds(settings: Settings, day: date, seconds: dict[str, float]) -> None:
    """What the day cost this machine: beside the results, which must not depend on it."""
    line = {"day": str(day), **{name: round(value, 3) for name, value in seconds.items()}}
    with (settings.home / "seconds.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")
