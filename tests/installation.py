"""A whole installation of its own: every server on a free port, the simulated source delivered."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from demo import upstream
from demo.plan import Plan
from jobs.conf.settings import Settings, load_settings, settings
from jobs.spark import close_session
from stack.command import down, start_services, up
from stack.environment import secret
from stack.services import ACCESS_KEY, OBJECT_STORAGE


def free_port() -> int:
    """A port of the loopback interface that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def variables(home: Path, plan: Plan, overlay: str) -> dict[str, str]:
    """The environment of an installation on free ports."""
    early, chargebacks = upstream.folders(home)
    storage = f"http://127.0.0.1:{free_port()}"
    return {
        "SLUICE_HOME": str(home),
        "SLUICE_CONTRACT": plan.contract,
        "SLUICE_POLICY_OVERLAY": overlay,
        "SLUICE_FIRST_DAY": str(plan.first),
        "SLUICE_LAST_DAY": str(plan.last),
        "SLUICE_SOURCE_URI": upstream.S3_SOURCE,
        "SLUICE_EXTRA_SOURCE_URIS": str(early),
        "SLUICE_LABELS_URI": str(chargebacks),
        "SLUICE_OBJECT_STORAGE_URI": storage,
        "SLUICE_MLFLOW_URI": f"http://127.0.0.1:{free_port()}",
        "SLUICE_SPARK_REMOTE": f"sc://127.0.0.1:{free_port()}",
        "SLUICE_SCORING_URI": f"http://127.0.0.1:{free_port()}",
        "SLUICE_AIRFLOW_URI": f"http://127.0.0.1:{free_port()}",
        "AWS_ENDPOINT_URL": storage,
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_DEFAULT_REGION": "us-east-1",
    }


@contextmanager
def installed(home: Path, plan: Plan, overlay: str) -> Iterator[Settings]:
    """Start everything, give its settings, and leave neither processes nor variables behind."""
    before = dict(os.environ)
    for name in [name for name in os.environ if name.startswith(("AIRFLOW", "SLUICE_"))]:
        del os.environ[name]
    os.environ.update(variables(home, plan, overlay))
    ours = load_settings(os.environ)
    os.environ["AWS_SECRET_ACCESS_KEY"] = secret(ours, "s3_secret")
    settings.cache_clear()
    try:
        start_services(ours, os.environ, OBJECT_STORAGE)
        upstream.deliver(plan, home)
        up(ours, os.environ)
        yield ours
    finally:
        # MLflow asks a session of this process, also one of a dead server, and for minutes
        close_session(ours.spark_remote)
        down(ours)
        os.environ.clear()
        os.environ.update(before)
        settings.cache_clear()
