"""The environment of the servers: secrets made once, Airflow's configuration, and what was set at the start.

Everything lies under the installation's home, in files that only their owner can read.
"""

from __future__ import annotations

import base64
import json
import os
import secrets
import sys
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from jobs.conf.settings import PREFIX, PROJECT_ROOT, TOKEN, Settings, load_settings
from plugins.heavy_modules import HEAVY_MODULES

ADMIN = "admin"
APPROVER = "approver"  # somebody else than who trains: nobody approves a model of their own
USERS = {ADMIN: "admin", APPROVER: "user"}  # with their roles
TASKS_AT_ONCE = 4  # of one worker; pools say how many of a kind
KEPT_PREFIXES = (PREFIX, "AWS_")
BIN = Path(sys.executable).parent


def current_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The given environment over what the servers were started with, so that `make down`, `make status` and
    a later `make up` find the same installation."""
    home = load_settings({key: value for key, value in environment.items() if key == "SLUICE_HOME"}).home
    return {**_read(_saved_file(home)), **environment}


def save_environment(settings: Settings, environment: Mapping[str, str]) -> None:
    """Remember the settings that the servers are started with."""
    kept = {
        key: value for key, value in environment.items() if key.startswith(KEPT_PREFIXES) and key != TOKEN
    }
    _write_private(_saved_file(settings.home), json.dumps(kept, indent=2))


def secret(settings: Settings, name: str) -> str:
    """A secret of this installation, made when it is first asked for."""
    file = settings.home / "secrets" / name
    if not file.exists():
        value = secrets.token_urlsafe(48)
        if name == "fernet_key":
            value = base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()
        _write_private(file, value)
    return file.read_text()


def server_environment(settings: Settings, environment: Mapping[str, str]) -> dict[str, str]:
    """What every server of the installation runs with."""
    return {
        **environment,
        **without_proxy(environment),
        "PATH": f"{BIN}{os.pathsep}{environment.get('PATH', '')}",
        "PYTHONPATH": str(PROJECT_ROOT),
        "PYTHONUNBUFFERED": "1",
        "SLUICE_HOME": str(settings.home),
        "TZ": "UTC",
        # libraries that would report home, and thread pools that would fight over two cores
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_TRACKING_URI": settings.mlflow_uri,
        "GX_ANALYTICS_ENABLED": "false",
        "FEAST_USAGE": "false",
        "DO_NOT_TRACK": "1",
        "OMP_NUM_THREADS": "2",
        "MPLBACKEND": "Agg",
        "GIT_PYTHON_REFRESH": "quiet",
        **_airflow(settings),
    }


def without_proxy(environment: Mapping[str, str]) -> dict[str, str]:
    """Variables that keep calls to this machine away from a proxy, in both spellings that libraries read."""
    given = environment.get("no_proxy") or environment.get("NO_PROXY", "")
    hosts = ",".join(dict.fromkeys([*filter(None, given.split(",")), "127.0.0.1", "localhost"]))
    return {"NO_PROXY": hosts, "no_proxy": hosts}


def password_file(settings: Settings, user: str) -> Path:
    """File with the password of an Airflow user, and nothing else."""
    name = f"airflow_{user}"
    secret(settings, name)
    return settings.home / "secrets" / name


def _airflow(settings: Settings) -> dict[str, str]:
    home = settings.home / "airflow"
    passwords = home / "passwords.json"
    if not passwords.exists():
        _write_private(passwords, json.dumps({user: secret(settings, f"airflow_{user}") for user in USERS}))
    address = settings.airflow_uri.rstrip("/")
    host, port = host_and_port(address)
    configuration = {
        "CORE__DAGS_FOLDER": str(PROJECT_ROOT / "dags"),
        "CORE__PLUGINS_FOLDER": str(PROJECT_ROOT / "plugins"),
        "CORE__LOAD_EXAMPLES": "False",
        **_executor(settings),
        "CORE__MP_START_METHOD": "fork",
        "CORE__AUTH_MANAGER": (
            "airflow.api_fastapi.auth.managers.simple.simple_auth_manager.SimpleAuthManager"
        ),
        "CORE__SIMPLE_AUTH_MANAGER_USERS": ",".join(f"{user}:{role}" for user, role in USERS.items()),
        "CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(passwords),
        "CORE__EXECUTION_API_SERVER_URL": f"{address}/execution/",
        "CORE__FERNET_KEY": secret(settings, "fernet_key"),
        "API__HOST": host,
        "API__PORT": str(port),
        "API__WORKERS": "1",
        "API__BASE_URL": address,
        "API__SECRET_KEY": secret(settings, "api_key"),
        "API_AUTH__JWT_SECRET": secret(settings, "jwt_key"),
        "DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home / 'airflow.db'}",
        "DATABASE__SQL_ALCHEMY_CONNECT_ARGS": "stack.database.CONNECT_ARGUMENTS",
        "DATABASE__SQL_ALCHEMY_CONNECT_ARGS_ASYNC": "stack.database.CONNECT_ARGUMENTS",
        # a finished task leaves its place at once, and the next one starts within a fifth of a second
        "WORKERS__MIN_HEARTBEAT_INTERVAL": "1",
        # longer than any process waits for SQLite: who gives up sooner fails a task that has worked
        "WORKERS__EXECUTION_API_TIMEOUT": "75",
        "SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.2",
        "SCHEDULER__ENABLE_HEALTH_CHECK": "False",
        # what a killed scheduler was at is begun again a minute after its next start, not five
        "SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "30",
        "DAG_PROCESSOR__PARSING_PROCESSES": "1",
        "DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "60",
        "DAG_PROCESSOR__REFRESH_INTERVAL": "30",
        "USAGE_DATA_COLLECTION__ENABLED": "False",
    }
    return {
        "AIRFLOW_HOME": str(home),
        # Airflow warns against SQLite in production; docker/ has the same services on Postgres
        "_AIRFLOW__SKIP_DATABASE_EXECUTOR_COMPATIBILITY_CHECK": "1",
        **{f"AIRFLOW__{name}": value for name, value in configuration.items()},
    }


def _executor(settings: Settings) -> dict[str, str]:
    """Who runs the tasks: the scheduler's own children, or Celery's workers, wherever they are."""
    if not settings.celery_broker_url:
        return {
            "CORE__EXECUTOR": "plugins.warm_executor.WarmLocalExecutor",
            "CORE__PARALLELISM": str(TASKS_AT_ONCE),
        }
    broker = settings.celery_broker_url
    if broker.startswith("rediss://") and "ssl_cert_reqs=" not in broker:
        broker += f"{'&' if '?' in broker else '?'}ssl_cert_reqs=CERT_REQUIRED"  # else nobody looks at it
    return {
        "CORE__EXECUTOR": "CeleryExecutor",
        "CELERY__BROKER_URL": broker,
        "CELERY__RESULT_BACKEND": broker,
        "CELERY__WORKER_CONCURRENCY": str(TASKS_AT_ONCE),
        "CELERY__EXTRA_CELERY_CONFIG": json.dumps({"imports": HEAVY_MODULES}),
        # as it is anyway, said so that no process warns of it; Airflow sees a dead worker sooner
        "CELERY_BROKER_TRANSPORT_OPTIONS__VISIBILITY_TIMEOUT": "86400",
    }


def host_and_port(address: str) -> tuple[str, int]:
    """Host and port of a URL."""
    parts = urlsplit(address)
    return parts.hostname or "127.0.0.1", parts.port or 80


def _saved_file(home: Path) -> Path:
    return home / "run" / "environment.json"


def _read(file: Path) -> dict[str, str]:
    return dict(json.loads(file.read_text())) if file.exists() else {}


def _write_private(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f"{file.name}.{os.getpid()}")
    with os.fdopen(os.open(temporary, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "w") as handle:
        handle.write(text)
    temporary.replace(file)
