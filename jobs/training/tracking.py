"""The MLflow run of a training run: one parent for the whole chain, one nested run per finished trial.

In: settings, the name of the run. Out: ids of MLflow runs.
Everything goes through a client in single requests; a server that does not answer is one clear SluiceError
within seconds (see jobs.promotion.state.registry_client).
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag

from jobs.conf.settings import Settings
from jobs.promotion.state import TAG_DAY, TAG_DRILL, TAG_RUN, registry_client, registry_errors
from jobs.training.run_folder import RunFolder

PARAM_LENGTH = 500
PARENT_FILE = "mlflow.json"
PARENT_TAG = "mlflow.parentRunId"


def tracking_client(settings: Settings) -> MlflowClient:
    """A client of the tracking server that fails fast.

    Raises:
        SluiceError: the server does not answer.
    """
    return registry_client(settings)


def experiment_id(client: MlflowClient, name: str) -> str:
    """The id of the experiment, made where it is not there yet."""
    with registry_errors():
        found = client.get_experiment_by_name(name)
        return str(found.experiment_id if found else client.create_experiment(name))


def parent_run(client: MlflowClient, settings: Settings, folder: RunFolder, day: str, drill: str) -> str:
    """The MLflow run of this training run, made once whoever asks first."""
    with folder.lock("mlflow"):
        if (folder.path / PARENT_FILE).exists():
            return str(folder.read_facts(PARENT_FILE)["run_id"])
        experiment = experiment_id(client, settings.experiment)
        tags = {TAG_RUN: folder.run, TAG_DAY: day, TAG_DRILL: drill}
        with registry_errors():
            created = client.create_run(experiment, run_name=folder.run, tags=tags)
        run_id = str(created.info.run_id)
        folder.write_facts(PARENT_FILE, {"run_id": run_id, "experiment_id": experiment})
        return run_id


def log_trial(
    client: MlflowClient,
    folder: RunFolder,
    name: str,
    *,
    params: Mapping[str, object],
    curve: Sequence[float],
    rounds_per_unit: int,
    stopped: str,
    warm_start: str,
) -> None:
    """One finished trial as a nested run: its parameters, learning curve, and why it began and ended."""
    parent = folder.read_facts(PARENT_FILE)
    now = int(time.time() * 1000)
    metrics = [
        Metric("validation_pr_auc", value, now, (unit + 1) * rounds_per_unit)
        for unit, value in enumerate(curve)
    ]
    metrics.append(Metric("best_validation_pr_auc", max(curve), now, 0))
    with registry_errors():
        run = client.create_run(
            parent["experiment_id"],
            run_name=name,
            tags={
                PARENT_TAG: parent["run_id"],
                "sluice.stopped": stopped,
                "sluice.warm_start": warm_start,
                TAG_RUN: folder.run,
            },
        )
        client.log_batch(run.info.run_id, metrics=metrics, params=as_params(params))
        client.set_terminated(run.info.run_id)


def logged_trials(client: MlflowClient, folder: RunFolder, prefix: str) -> set[str]:
    """Names of the nested runs that begin so; one that its worker could not finish is removed."""
    parent = folder.read_facts(PARENT_FILE)
    with registry_errors():
        nested = client.search_runs(
            [parent["experiment_id"]], f"tags.`{PARENT_TAG}` = '{parent['run_id']}'", max_results=10_000
        )
        mine = [run for run in nested if run.info.run_name.startswith(prefix)]
        for run in mine:
            if run.info.status != "FINISHED":
                client.delete_run(run.info.run_id)
    return {run.info.run_name for run in mine if run.info.status == "FINISHED"}


def log_curves(client: MlflowClient, folder: RunFolder, curves: Mapping[str, Sequence[float]]) -> None:
    """Metrics of the training run by epoch, from 1."""
    now = int(time.time() * 1000)
    metrics = [
        Metric(name, value, now, epoch)
        for name, values in curves.items()
        for epoch, value in enumerate(values, start=1)
    ]
    with registry_errors():
        client.log_batch(str(folder.read_facts(PARENT_FILE)["run_id"]), metrics=metrics)


def as_params(params: Mapping[str, object]) -> list[Param]:
    """Parameters as MLflow takes them: text of limited length."""
    return [Param(key, str(value)[:PARAM_LENGTH]) for key, value in params.items()]


def as_metrics(metrics: Mapping[str, float | None]) -> list[Metric]:
    """The finite ones among the figures."""
    now = int(time.time() * 1000)
    return [
        Metric(key, float(value), now, 0)
        for key, value in metrics.items()
        if value is not None and math.isfinite(value)
    ]


def as_tags(tags: Mapping[str, str]) -> list[RunTag]:
    return [RunTag(key, value) for key, value in tags.items()]
