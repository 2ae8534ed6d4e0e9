"""A process that has done its work says so by its exit code, whatever threads of libraries still do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

READS_ON = """
import io, runpy, sys, time
import jobs.cli
import pyarrow.csv as csv

class Slow(io.BytesIO):
    def read(self, size=-1):
        time.sleep(0.2)
        return super().read(size)

def main():
    rows = csv.open_csv(Slow(b"a\\n" + b"1\\n" * 100_000), read_options=csv.ReadOptions(block_size=1000))
    rows.read_next_batch()  # Arrow reads on in a thread of its own, and asks Python for the next bytes
    print("done", end="")
    return {status}

jobs.cli.main = main
sys.argv = ["{module}", "any"]
runpy.run_module("{module}", run_name="__main__")
"""


@pytest.mark.parametrize("module", ["jobs", "stack"])
@pytest.mark.parametrize("status", [0, 1])
def test_a_command_ends_with_its_own_exit_code_while_arrow_reads_on(module: str, status: int) -> None:
    code = READS_ON.format(module=module, status=status)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (status, "done", "")


def test_what_was_to_be_done_at_the_end_is_done() -> None:
    code = "import atexit; from jobs.ending import leave; atexit.register(print, 'tidied'); leave(3)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (3, "tidied\n")


def test_a_closed_output_is_no_failure() -> None:
    code = "from jobs.ending import leave; leave(0)"
    done = subprocess.run(f"exec {sys.executable} -c '{code}' >&- 2>&-", shell=True, cwd=ROOT, check=False)  # noqa: S602
    assert done.returncode == 0
