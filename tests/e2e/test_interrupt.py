"""Ctrl-C in the demo leaves nothing running."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from demo.plan import simulated_plan
from tests.installation import variables

ROOT = Path(__file__).parents[2]


def processes_of(home: Path) -> list[str]:
    """Command lines of all living processes that were started for an installation."""
    mark = f"SLUICE_HOME={home}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and mark in (entry / "environ").read_bytes().split(b"\0"):
                found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()[:100])
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
    return [line for line in found if line]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("moment", ["object-storage", "airflow-triggerer"])
def test_an_interrupted_demo_leaves_no_process(tmp_path: Path, moment: str) -> None:
    home = tmp_path / "home"
    environment = {**os.environ, **variables(home, simulated_plan(drift=True), "demo")}
    demo = subprocess.Popen(
        [sys.executable, "-m", "demo"],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    started = home / "run" / f"{moment}.pid"
    deadline = time.monotonic() + 180
    while not started.exists() and demo.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    assert started.exists()
    assert len(processes_of(home)) >= 2
    os.killpg(demo.pid, signal.SIGINT)
    demo.communicate(timeout=120)
    assert demo.returncode == 130
    assert processes_of(home) == []
