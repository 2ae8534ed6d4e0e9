"""A training of the story once more, by Celery: two workers on one Redis share the tasks of fraud_train.

Nothing but the setting SLUICE_CELERY_BROKER_URL is another, and what comes out is the same to the byte.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from jobs.conf.settings import Settings
from jobs.training.run_folder import RunFolder
from stack.command import start_services
from stack.environment import BIN
from stack.processes import ProcessFolder, start, stop
from tests.e2e.story import Story
from tests.redis_server import NOWHERE, binary, serve_redis

pytestmark = [
    pytest.mark.timeout(1500),
    pytest.mark.skipif(binary() is None, reason=NOWHERE),
]
DAG, SCHEDULER = "fraud_train", "airflow-scheduler"
WORKERS = ("first", "second")
# every task that decides what a version is writes one of these
WRITTEN = (
    "labels.parquet", "frame.parquet", "tuning.json",
    "bundle/calibration.json", "bundle/xgboost.onnx", "bundle/torch.onnx",
)  # fmt: skip


@dataclass(frozen=True)
class Trained:
    """The story's training, and the one by Celery."""

    story: Story
    before: str
    run: str
    state: str
    logs: dict[str, str]  # of the workers, by name

    def folder(self, run: str) -> Path:
        return RunFolder(self.story.settings, run).path


@pytest.fixture(scope="module")
def trained(story: Story, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    before = story.airflow.runs(DAG)[0]
    with serve_redis(tmp_path_factory.mktemp("broker")) as redis:
        broker = f"redis://:{redis.password}@127.0.0.1:{redis.port}/0"
        with on_celery(story.settings, broker) as logs:
            run = story.airflow.trigger(DAG, before["conf"])
            state = story.airflow.wait_run(DAG, run, 600)["state"]
            texts = {name: file.read_text() for name, file in logs.items()}
    return Trained(story, before["dag_run_id"], run, state, texts)


@contextmanager
def on_celery(ours: Settings, broker: str) -> Iterator[dict[str, Path]]:
    """The installation's tasks go to two Celery workers of one task at a time; gives their logs."""
    folder = ProcessFolder(ours.home)
    theirs = ours.model_copy(update={"celery_broker_url": broker})
    environment = {**os.environ, "SLUICE_CELERY_BROKER_URL": broker}
    stop(folder, SCHEDULER)
    try:
        start_services(theirs, environment, SCHEDULER)
        for name in WORKERS:
            command = (str(BIN / "sluice"), "worker", "--concurrency", "1", "--celery-hostname", name)
            start(folder, name, command, environment)
        yield {name: folder.log_file(name) for name in WORKERS}
    finally:
        for name in (*WORKERS, SCHEDULER):
            stop(folder, name)
        start_services(ours, os.environ, SCHEDULER)


def tasks_of(trained: Trained, run: str) -> dict[tuple[str, int], Any]:
    tasks = trained.story.airflow.tasks(DAG, run)
    # its twin is champion by then, so the version of the second training is offered or not as its gate says
    return {
        (task["task_id"], task["map_index"]): task["state"]
        for task in tasks
        if task["task_id"] != "offer_version"
    }


def test_a_training_by_celery_runs_the_same_tasks_to_the_same_end(trained: Trained) -> None:
    assert trained.state == "success"
    assert tasks_of(trained, trained.run) == tasks_of(trained, trained.before)
    assert {index for task, index in tasks_of(trained, trained.run) if task == "tune_model"} == {0, 1}


def test_both_workers_searched_beside_each_other(trained: Trained) -> None:
    searched = {name: log.count("task_id=tune_model") for name, log in trained.logs.items()}
    assert all(searched.values()), searched


def test_whoever_ran_its_tasks_a_training_ends_in_the_same_bytes(trained: Trained) -> None:
    ours, theirs = trained.folder(trained.run), trained.folder(trained.before)
    same = {name: (ours / name).read_bytes() == (theirs / name).read_bytes() for name in WRITTEN}
    assert all(same.values()), same
