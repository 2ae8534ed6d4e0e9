"""`sluice up | down | status | airflow … | worker`: an installation's servers, Airflow's own command line."""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

import httpx
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from jobs.conf.policy import policy_of
from jobs.conf.settings import PROJECT_ROOT, Settings, load_settings
from jobs.core import SluiceError
from stack.environment import (
    BIN,
    USERS,
    current_environment,
    host_and_port,
    password_file,
    save_environment,
    server_environment,
    without_proxy,
)
from stack.processes import (
    ProcessFolder,
    require_free_port,
    resident_bytes,
    running_pid,
    start,
    stop,
)
from stack.services import Service, celery_worker, services

READY_SECONDS = 180.0
COMMANDS = ("up", "down", "status", "airflow", "worker")
console = Console()


def run_command(command: str, rest: list[str]) -> int:
    """Run one of COMMANDS; gives the exit code."""
    os.environ.update(without_proxy(os.environ))
    environment = current_environment(os.environ)
    settings = load_settings(environment)
    if command == "airflow":
        return subprocess.call(
            [str(BIN / "airflow"), *rest], env=server_environment(settings, environment), cwd=PROJECT_ROOT
        )
    if command == "worker":
        return _work(settings, environment, rest)
    argparse.ArgumentParser(f"sluice {command}").parse_args(rest)
    if command == "up":
        up(settings, environment)
    elif command == "down":
        down(settings)
    return status(settings)


def _work(settings: Settings, environment: Mapping[str, str], rest: list[str]) -> int:
    """A Celery worker in the foreground, for another machine than the one of `make up`."""
    if not settings.celery_broker_url:
        raise SluiceError("no worker without SLUICE_CELERY_BROKER_URL: see docs/operations.md")
    launch = celery_worker(settings)
    shared = server_environment(settings, environment)
    return subprocess.call([*launch.command, *rest], env={**shared, **launch.environment}, cwd=PROJECT_ROOT)


def up(settings: Settings, environment: Mapping[str, str]) -> None:
    """Start what does not run yet and wait until everything is ready.

    Raises:
        SluiceError: a port is busy, there is no Java, or a server does not become ready.
    """
    policy_of(settings)  # a wrong policy is said here, in one sentence, and not by nine servers
    _start(settings, environment, services(settings))


def start_services(settings: Settings, environment: Mapping[str, str], *names: str) -> None:
    """Start servers by their names and wait until they are ready."""
    _start(settings, environment, [service for service in services(settings) if service.name in names])


def _start(settings: Settings, environment: Mapping[str, str], wanted: list[Service]) -> None:
    folder = ProcessFolder(settings.home)
    missing = [service for service in wanted if running_pid(folder, service.name) is None]
    for service in missing:
        if service.address:
            require_free_port(*host_and_port(service.address), needed_by=service.name)
    settings.home.mkdir(parents=True, exist_ok=True)
    settings.home.chmod(0o700)  # card transactions: for nobody else on this machine
    save_environment(settings, environment)
    shared = server_environment(settings, environment)
    if any(service.name.startswith("airflow") for service in missing):
        _prepare_airflow(settings, shared)
    for service in missing:
        launch = service.launch(settings)
        start(folder, service.name, launch.command, {**shared, **launch.environment})
    _wait_until_ready(folder, wanted)


def down(settings: Settings) -> None:
    """Stop every server that we started, the last one first."""
    folder = ProcessFolder(settings.home)
    names = [file.stem for file in (settings.home / "run").glob("*.pid")]
    order = [service.name for service in services(settings)]
    for name in sorted(names, key=lambda name: -order.index(name) if name in order else 1):
        stop(folder, name)


def status(settings: Settings) -> int:
    """Print what runs; exit code 0 when everything or nothing does, 3 when only a part does."""
    folder = ProcessFolder(settings.home)
    table = Table("server", "state", "pid", "memory", "address", "log", title=f"Sluice in {settings.home}")
    alive, total = 0, 0
    names = services(settings)
    for service in names:
        pid = running_pid(folder, service.name)
        memory = resident_bytes(pid) if pid else 0
        alive, total = alive + bool(pid), total + memory
        state = "[green]running[/]" if pid else "stopped"
        log = str(folder.log_file(service.name).relative_to(settings.home))
        table.add_row(
            service.name,
            state,
            str(pid or ""),
            f"{memory / 2**20:.0f} MB" if pid else "",
            service.address,
            log,
        )
    console.print(table)
    if alive:
        console.print(f"memory in all: {total / 2**30:.1f} GB")
        for user in USERS:
            console.print(f"Airflow user {user}, password in {password_file(settings, user)}")
    return 0 if alive in (0, len(names)) else 3


def _prepare_airflow(settings: Settings, environment: Mapping[str, str]) -> None:
    """Bring Airflow's database and pools up to date."""
    from plugins.pools import POOLS

    pools = settings.home / "airflow" / "pools.json"
    pools.write_text(json.dumps(POOLS))
    for arguments in (["db", "migrate"], ["pools", "import", str(pools)]):
        done = subprocess.run(
            [str(BIN / "airflow"), *arguments], env=dict(environment), capture_output=True, text=True
        )
        if done.returncode != 0:
            last = (done.stderr or done.stdout).strip().splitlines()[-1:]
            raise SluiceError(f"airflow {' '.join(arguments)} failed: {' '.join(last)}")


def _wait_until_ready(folder: ProcessFolder, wanted: list[Service]) -> None:
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        for service in wanted:
            task = progress.add_task(f"{service.name} starts", total=1)
            _wait_for(folder, service)
            progress.update(task, description=f"{service.name} is ready", completed=1)


def _wait_for(folder: ProcessFolder, service: Service) -> None:
    deadline = time.monotonic() + READY_SECONDS
    log = folder.log_file(service.name)
    while not is_ready(service):
        if running_pid(folder, service.name) is None:
            raise SluiceError(f"{service.name} ended while it started: {_last_line(log)}; see {log}")
        if time.monotonic() > deadline:
            raise SluiceError(f"{service.name} is not ready after {READY_SECONDS:.0f} s; see {log}")
        time.sleep(0.2)


def is_ready(service: Service) -> bool:
    """Whether a server answers: over HTTP where it has a path for that, else by its open port."""
    if not service.address:
        return True
    if not service.ready_path:
        return _port_open(*host_and_port(service.address))
    try:
        return httpx.get(f"{service.address.rstrip('/')}{service.ready_path}", timeout=2.0).status_code == 200
    except httpx.HTTPError:
        return False


def _port_open(host: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex((host, port)) == 0


def _last_line(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1][:300] if lines else "it wrote nothing"
