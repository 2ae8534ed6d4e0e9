"""docker/ says what the project itself starts, and nothing in it is open or secret. Nothing is built."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from jobs.conf.policy import load_policy
from jobs.conf.settings import Settings
from jobs.serving import follower, prediction_log, scoring
from jobs.serving.__main__ import GRACE_SECONDS
from plugins.pools import POOLS
from stack.environment import server_environment
from stack.services import Launch, services

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
IMAGE = "sluice:0.1.0"
EXPECTED_IMAGES = {IMAGE, "postgres:17-bookworm", "redis:7-bookworm"}
ONE_SHOT = {"init"}
SERVICES = {
    "postgres", "redis", "object-storage", "init", "mlflow", "scoring", "spark", "airflow-api",
    "airflow-scheduler", "airflow-dag-processor", "airflow-triggerer",
}  # fmt: skip
TOP_KEYS = {"name", "services", "configs", "volumes"}
SERVICE_KEYS = {
    "image", "build", "init", "restart", "cap_drop", "security_opt", "volumes", "command", "environment",
    "configs", "ports", "depends_on", "healthcheck", "network_mode", "stop_grace_period",
}  # fmt: skip
HEALTH_KEYS = {"test", "interval", "timeout", "retries", "start_period"}
CONDITIONS = {"service_healthy", "service_completed_successfully", "service_started"}
REQUIRED_VARIABLE = re.compile(r"\$\{[A-Z0-9_]+:\?[^}]+\}")
SECRET_NAME = re.compile(r"PASSWORD$|SECRET|TOKEN$|FERNET|AUTH|ACCESS_KEY")
SQLITE_ARGUMENTS = "stack.database."  # how SQLite is opened: in containers it is Postgres
# what says where things are, which differs between one machine and containers, or is made at the start
PLACES = {
    "AIRFLOW__CORE__DAGS_FOLDER", "AIRFLOW__CORE__PLUGINS_FOLDER", "AIRFLOW__API__HOST", "AIRFLOW__API__PORT",
    "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE", "AIRFLOW__CORE__EXECUTION_API_SERVER_URL",
    "AIRFLOW__API__BASE_URL", "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", "AIRFLOW__CORE__FERNET_KEY",
    "AIRFLOW__API__SECRET_KEY", "AIRFLOW__API_AUTH__JWT_SECRET",
}  # fmt: skip


class StrictLoader(yaml.SafeLoader):
    """Refuses a key that stands twice in one mapping."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        keys = [key.value for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        # merged keys come first once merges are resolved, and are overridden on purpose
        if not getattr(node, "flattened", False):
            assert len(keys) == len(set(keys)), f"line {node.start_mark.line + 1}: a key stands twice"
            node.flattened = True
        return super().construct_mapping(node, deep)


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    document: dict[str, Any] = yaml.load((DOCKER / "compose.yaml").read_text(), StrictLoader)  # noqa: S506
    return document


@pytest.fixture
def settings(home: Settings) -> Settings:
    return home.model_copy(update={"object_storage_uri": "http://127.0.0.1:9000"})


def ours(compose: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {name: service for name, service in compose["services"].items() if service["image"] == IMAGE}


def launches(settings: Settings) -> dict[str, Launch]:
    """What the project starts on one machine; without Java there is no command for Spark."""
    return {
        service.name: service.launch(settings) for service in services(settings) if service.name != "spark"
    }


def normal(command: list[str]) -> list[str]:
    """A command line without the parts that say where things are."""
    parts = []
    for part in command:
        part = Path(part).name if part.startswith("/") and "://" not in part else part
        part = "PYTHON" if part in {"python", Path(sys.executable).name} else part
        part = "URI" if re.match(r"[a-z0-9+]+://", part) else part
        part = "HOST" if part in {"127.0.0.1", "0.0.0.0"} else part  # noqa: S104
        part = re.sub(r"^(127\.0\.0\.1|0\.0\.0\.0):\d+$", "HOST:PORT", part)
        parts.append(part)
    return parts


def test_the_file_uses_only_keys_that_we_know(compose: dict[str, Any]) -> None:
    assert {key for key in compose if not key.startswith("x-")} == TOP_KEYS
    for name, service in compose["services"].items():
        assert set(service) <= SERVICE_KEYS, name


def test_the_services_and_images_are_exactly_the_expected_ones(compose: dict[str, Any]) -> None:
    assert set(compose["services"]) == SERVICES
    assert {service["image"] for service in compose["services"].values()} == EXPECTED_IMAGES


def test_every_local_server_has_its_service(compose: dict[str, Any], settings: Settings) -> None:
    assert {service.name for service in services(settings)} == set(ours(compose)) - ONE_SHOT


def test_every_service_has_a_healthcheck_unless_it_runs_once(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        if name in ONE_SHOT:
            assert service["restart"] == "no"
            assert "healthcheck" not in service
        else:
            assert set(service["healthcheck"]) == HEALTH_KEYS, name
            assert service["restart"] == "unless-stopped"


def test_whoever_is_waited_for_exists_and_can_become_what_is_awaited(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        for other, wanted in service.get("depends_on", {}).items():
            assert other in SERVICES, name
            assert wanted["condition"] in CONDITIONS
            assert (wanted["condition"] == "service_completed_successfully") == (other in ONE_SHOT), name


def test_nothing_is_published_beyond_loopback(compose: dict[str, Any]) -> None:
    published = [port for service in compose["services"].values() for port in service.get("ports", [])]
    assert published
    for port in published:
        assert re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port), port
    networks = {service.get("network_mode", "") for service in compose["services"].values()}
    assert networks == {"", "service:airflow-scheduler"}


def test_no_secret_is_written_down_or_has_a_default(compose: dict[str, Any]) -> None:
    found = set()
    for service in compose["services"].values():
        for key, value in service.get("environment", {}).items():
            if SECRET_NAME.search(key) and "FILE" not in key and key != "AIRFLOW__CORE__AUTH_MANAGER" \
                    and key != "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS":  # fmt: skip
                assert REQUIRED_VARIABLE.sub("", value).strip('",') == "", key
                found.add(key)
    assert {
        "POSTGRES_PASSWORD",
        "PGPASSWORD",
        "SLUICE_TOKEN",
        "RCLONE_AUTH_KEY",
        "AWS_SECRET_ACCESS_KEY",
    } <= found
    text = (DOCKER / "compose.yaml").read_text()
    for name in re.findall(r"\$\{([A-Z0-9_]+):?-", text):
        assert not SECRET_NAME.search(name), f"{name} has a default"
    assert not re.search(r"://[^/\s\"]+:[^/@\s\"]+@", text), "a password in an address"


def test_each_command_is_one_that_the_project_starts_itself(
    compose: dict[str, Any], settings: Settings
) -> None:
    known = launches(settings)
    for name, service in ours(compose).items():
        command = service["command"]
        if name in ONE_SHOT:
            assert command == ["python", "docker/prepare.py"]
        elif name == "spark":  # started through the project's own launcher: one source for a long command
            assert command == ["python", "docker/launch.py", "spark"]
        else:
            assert normal(command) == normal(list(known[name].command)), name


def test_each_service_has_what_the_project_adds_to_its_environment(
    compose: dict[str, Any], settings: Settings
) -> None:
    for name, launch in launches(settings).items():
        given = compose["services"][name]["environment"]
        for key, value in launch.environment.items():
            if value.startswith(SQLITE_ARGUMENTS):
                continue
            assert key in given, name
            if not SECRET_NAME.search(key):
                assert given[key] == value, f"{name}: {key}"


def test_airflow_is_configured_as_on_one_machine(compose: dict[str, Any], settings: Settings) -> None:
    local = {
        name: value
        for name, value in server_environment(settings, {}).items()
        if name.startswith("AIRFLOW__") and not value.startswith(SQLITE_ARGUMENTS)
    }
    for name in ("init", "airflow-api", "airflow-scheduler", "airflow-dag-processor", "airflow-triggerer"):
        given = compose["services"][name]["environment"]
        assert set(local) == {key for key in given if key.startswith("AIRFLOW__")}
        assert {k: given[k] for k in local if k not in PLACES} == {
            k: v for k, v in local.items() if k not in PLACES
        }


def test_every_setting_is_one_that_the_settings_know(compose: dict[str, Any]) -> None:
    for name, service in ours(compose).items():
        given = {key for key in service["environment"] if key.startswith("SLUICE_")}
        fields = {f"SLUICE_{field.upper()}" for field in Settings.model_fields}
        asks = name in ("scoring", "init") or name.startswith("airflow")
        assert given - fields == ({"SLUICE_TOKEN"} if asks else set()), name


def test_scoring_asks_for_a_token_because_it_listens_beyond_loopback(compose: dict[str, Any]) -> None:
    environment = compose["services"]["scoring"]["environment"]
    assert environment["SLUICE_SCORING_URI"] == "http://0.0.0.0:8000"
    assert REQUIRED_VARIABLE.fullmatch(environment["SLUICE_TOKEN"])


def test_scoring_is_given_the_time_that_its_stop_may_take(compose: dict[str, Any]) -> None:
    waits = (
        load_policy().serving.drain_seconds, GRACE_SECONDS, follower.STOP_SECONDS, scoring.ROOM_SECONDS,
        scoring.SHADOW_SECONDS, prediction_log.STOP_SECONDS,
    )  # fmt: skip
    given = compose["services"]["scoring"]["stop_grace_period"]
    assert float(given.removesuffix("s")) > sum(waits)


def test_promotions_reach_the_scoring_service_with_its_token(compose: dict[str, Any]) -> None:
    scheduler = compose["services"]["airflow-scheduler"]["environment"]
    assert scheduler["SLUICE_SCORING_URI"] == "http://scoring:8000"
    assert scheduler["SLUICE_TOKEN"] == compose["services"]["scoring"]["environment"]["SLUICE_TOKEN"]


def test_every_named_volume_and_config_is_declared_and_used(compose: dict[str, Any]) -> None:
    mounts = [mount for service in compose["services"].values() for mount in service.get("volumes", [])]
    named = {mount.partition(":")[0] for mount in mounts}
    files = {mount for mount in named if mount.startswith(".")}
    assert named - files == set(compose["volumes"])
    assert all((DOCKER / file).exists() for file in files)
    used = {c["source"] for service in compose["services"].values() for c in service.get("configs", [])}
    assert used == set(compose["configs"])


def test_the_image_copies_only_what_exists_and_runs_as_nobody_special() -> None:
    text = (DOCKER / "Dockerfile").read_text()
    for line in re.findall(r"^COPY (?!--from)(.+)$", text, re.MULTILINE):
        *sources, _target = [part for part in line.split() if not part.startswith("--")]
        for source in sources:
            assert (ROOT / source).exists(), source
    for script in re.findall(r"docker/\w+\.py", text + (DOCKER / "compose.yaml").read_text()):
        assert (ROOT / script).exists()
    ignored = (DOCKER / "Dockerfile.dockerignore").read_text().splitlines()
    for kept in (line[1:] for line in ignored if line.startswith("!")):
        assert list(ROOT.glob(kept)), kept
    assert re.findall(r"^USER (\w+)$", text, re.MULTILINE) == ["sluice"]
    assert "--require-hashes" in text


def test_no_image_names_a_registry(compose: dict[str, Any]) -> None:
    bases = re.findall(r"^FROM (\S+)", (DOCKER / "Dockerfile").read_text(), re.MULTILINE)
    images = {service["image"] for service in compose["services"].values()}
    assert all("/" not in image for image in [*bases, *images])
    assert set(bases) == {"python:3.11-slim-bookworm"}


def test_every_required_variable_is_named_in_the_instructions() -> None:
    required = set(re.findall(r"\$\{([A-Z0-9_]+):\?", (DOCKER / "compose.yaml").read_text()))
    instructions = (DOCKER / "README.md").read_text()
    assert [name for name in sorted(required) if name not in instructions] == []


def test_preparing_writes_a_private_password_file_and_the_pools(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a stand-in for the `airflow` command that records its calls: the real one takes seconds a call."""
    calls = tmp_path / "calls"
    airflow = tmp_path / "bin" / "airflow"
    airflow.parent.mkdir()
    airflow.write_text(f'#!/bin/sh\necho "$@" >> {calls}\n')
    airflow.chmod(0o755)
    monkeypatch.setenv("PATH", f"{airflow.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("SLUICE_HOME", str(tmp_path))
    monkeypatch.setenv("AIRFLOW_HOME", str(tmp_path / "airflow"))
    passwords = tmp_path / "airflow" / "passwords.json"
    monkeypatch.setenv("AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE", str(passwords))
    monkeypatch.setenv("AIRFLOW_ADMIN_PASSWORD", "test-only")
    monkeypatch.setenv("AIRFLOW_APPROVER_PASSWORD", "test-too")
    monkeypatch.syspath_prepend(str(DOCKER))
    import prepare

    assert prepare.main() == 0
    pools = tmp_path / "airflow" / "pools.json"
    assert calls.read_text() == f"db migrate\npools import {pools}\n"
    assert yaml.safe_load(passwords.read_text()) == {"admin": "test-only", "approver": "test-too"}
    assert passwords.stat().st_mode & 0o777 == 0o600
    assert yaml.safe_load(pools.read_text()) == POOLS
