"""Which servers an installation has, and what they are started with."""

from __future__ import annotations

import json
import ssl

import pytest
from celery import Celery

from jobs.conf.settings import Settings, load_settings
from jobs.core import SluiceError
from plugins.heavy_modules import HEAVY_MODULES
from stack.environment import server_environment
from stack.services import WORKER, services

BROKER = "redis://:secret@127.0.0.1:6379/1"


def airflow(ours: Settings, name: str) -> str | None:
    return server_environment(ours, {}).get(f"AIRFLOW__{name}")


def test_tasks_run_beside_the_scheduler_where_no_broker_is_named(home: Settings) -> None:
    assert airflow(home, "CORE__EXECUTOR") == "plugins.warm_executor.WarmLocalExecutor"
    assert WORKER not in {service.name for service in services(home)}


def test_with_a_broker_there_is_a_celery_worker_that_has_the_libraries_in_memory(home: Settings) -> None:
    ours = home.model_copy(update={"celery_broker_url": BROKER})
    assert airflow(ours, "CORE__EXECUTOR") == "CeleryExecutor"
    assert airflow(ours, "CELERY__BROKER_URL") == BROKER
    imported = json.loads(airflow(ours, "CELERY__EXTRA_CELERY_CONFIG") or "")["imports"]
    assert imported == list(HEAVY_MODULES)
    (worker,) = (service for service in services(ours) if service.name == WORKER)
    launch = worker.launch(ours)
    assert "secret" not in " ".join(launch.command)  # every user can read a command line
    assert launch.environment["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"] == "sqlite://"  # none of the scheduler's


def test_a_broker_behind_tls_is_looked_at_by_whoever_speaks_with_it(home: Settings) -> None:
    ours = home.model_copy(update={"celery_broker_url": "rediss://:secret@broker.example:6379/1"})
    for name in ("BROKER_URL", "RESULT_BACKEND"):
        address = airflow(ours, f"CELERY__{name}")
        assert Celery(backend=address).backend.connparams["ssl_cert_reqs"] is ssl.CERT_REQUIRED


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1:6379", "amqp://:secret@127.0.0.1", "redis://:two words@here", "redis://127.0.0.1:6379/1"],
)
def test_a_broker_that_is_no_redis_or_lets_in_everybody_is_refused(address: str) -> None:
    with pytest.raises(SluiceError, match="SLUICE_CELERY_BROKER_URL"):
        load_settings({"SLUICE_CELERY_BROKER_URL": address})
