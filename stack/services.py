"""Which servers an installation has, how each is started, and how one knows that it is ready."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field

from jobs.conf.settings import Settings
from stack.environment import BIN, host_and_port, secret

OBJECT_STORAGE = "object-storage"
WORKER = "airflow-worker"
ACCESS_KEY = "sluice"  # the one account of the bundled S3-compatible server


@dataclass(frozen=True)
class Launch:
    """How a server is started."""

    command: tuple[str, ...]
    environment: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Service:
    """A server on this machine."""

    name: str
    launch: Callable[[Settings], Launch]  # called at the start alone: it may need Java, and makes secrets
    address: str = ""  # what people and other servers call
    ready_path: str = ""  # answers 200 when it is ready; empty: an open port is enough


def services(settings: Settings) -> list[Service]:
    """All servers, in the order in which they are started."""
    return [
        *(
            [Service(OBJECT_STORAGE, _object_storage, settings.object_storage_uri)]
            if settings.object_storage_uri
            else []
        ),
        Service("mlflow", _mlflow, settings.mlflow_uri, "/health"),
        Service("spark", _spark, settings.spark_remote),
        Service("scoring", _scoring, settings.scoring_uri, "/ready"),
        Service("airflow-api", _airflow_api, settings.airflow_uri, "/api/v2/version"),
        Service("airflow-scheduler", _airflow("scheduler", "--skip-serve-logs")),
        *([Service(WORKER, celery_worker)] if settings.celery_broker_url else []),
        Service("airflow-dag-processor", _airflow("dag-processor")),
        Service("airflow-triggerer", _airflow("triggerer", "--skip-serve-logs")),
    ]


def _mlflow(settings: Settings) -> Launch:
    host, port = host_and_port(settings.mlflow_uri)
    folder = settings.home / "mlflow"
    folder.mkdir(parents=True, exist_ok=True)
    command = (
        str(BIN / "mlflow"), "server", "--host", host, "--port", str(port), "--workers", "1",
        "--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}",
        "--artifacts-destination", str(folder / "artifacts"),
    )  # fmt: skip
    return Launch(command, {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"})


def _spark(settings: Settings) -> Launch:
    from jobs.spark_server import server_command, server_environment

    _, port = host_and_port(settings.spark_remote)
    return Launch(tuple(server_command(settings, port)), server_environment(settings))


def _scoring(settings: Settings) -> Launch:
    return Launch((sys.executable, "-m", "jobs.serving"), {"OMP_NUM_THREADS": "1"})


def _airflow(*arguments: str) -> Callable[[Settings], Launch]:
    return lambda settings: Launch((str(BIN / "airflow"), *arguments))


def _airflow_api(settings: Settings) -> Launch:
    arguments = "stack.database.API_CONNECT_ARGUMENTS"
    names = ("SQL_ALCHEMY_CONNECT_ARGS", "SQL_ALCHEMY_CONNECT_ARGS_ASYNC")
    return Launch(
        _airflow("api-server")(settings).command, {f"AIRFLOW__DATABASE__{name}": arguments for name in names}
    )


def celery_worker(settings: Settings) -> Launch:
    """A worker needs Airflow's API and no database, least of all a file of SQLite on another machine."""
    command = _airflow("celery", "worker", "--skip-serve-logs")(settings).command
    return Launch(command, {"AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": "sqlite://"})


def _object_storage(settings: Settings) -> Launch:
    host, port = host_and_port(settings.object_storage_uri)
    folder = settings.home / OBJECT_STORAGE
    folder.mkdir(parents=True, exist_ok=True)
    # keys by the environment: a command line can be read by every user of the machine
    # (and quoted: the variable is a list, the pair one element of it)
    keys = {"RCLONE_AUTH_KEY": f'"{ACCESS_KEY},{secret(settings, "s3_secret")}"', "RCLONE_CONFIG": ""}
    return Launch((str(BIN / "rclone"), "serve", "s3", "--addr", f"{host}:{port}", str(folder)), keys)
