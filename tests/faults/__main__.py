"""`make faults`: stages and services killed, files damaged, disks filled, canaries spoiled, at length.

Writes `.bench/faults.json`.

Exit code 1 where anything was lost, invented, half written, or ended in a traceback; each problem is printed.
"""

from __future__ import annotations

import math
import os
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from jobs.conf.settings import load_settings
from jobs.core import SluiceError
from tests.benchmarks.__main__ import Case, publish
from tests.data_support import run_named
from tests.faults import serving
from tests.faults.cases import none
from tests.faults.children import DONE, start
from tests.faults.disks import can_mount, on_full_disk, on_limited_files, small_disk
from tests.faults.fuzz import Tally, fuzz, fuzz_rows, parquet_file, read_tally
from tests.faults.kills import STAGES, Kill, kill, prepare

TRUNCATED = 2_000
OPEN_KILLS = 20  # so many, or all where there are fewer, must fall while a write is open
BYTES_LEFT = (0, 4_096, 16_384, 65_536)
FILE_LIMITS = (0, 600, 20_000)
CHAIN_SHARE = 50  # of the damaged files one in so many goes through the whole chain
PER_CALL = {fuzz: 50, fuzz_rows: 500}  # files
console = Console()


def killed(folder: Path, count: int) -> list[Kill]:
    """So many kills, as many of every stage."""
    found = []
    each = math.ceil(count / len(STAGES))
    with Progress(console=console) as progress:
        task = progress.add_task("killing", total=each * len(STAGES))
        for stage, ready in prepare(folder):
            chance = random.Random(stage)
            for _ in range(each):
                found.append(kill(stage, ready, chance))
                progress.update(task, advance=1, description=f"killing {stage}")
    return found


def fuzzed(folder: Path, work: Callable[..., str], first: int, count: int) -> Tally:
    """The tally of so many damaged CSV files, on all cores."""
    settings = load_settings({"SLUICE_HOME": str(folder / "home")})
    tally, cores, size = Tally(), os.cpu_count() or 1, PER_CALL[work]
    starts = range(first, first + count, size)
    place = (str(folder),) if work is fuzz else ()
    with Progress(console=console) as progress:
        task = progress.add_task("damaging files", total=count)
        for number in range(0, len(starts), cores):
            calls = [
                start(work, *place, begin, min(size, first + count - begin), settings=settings)
                for begin in starts[number : number + cores]
            ]
            for call in calls:
                answer = call.wait()
                if answer.outcome == DONE:
                    tally += read_tally(answer.text)
                else:
                    tally += Tally(problems=(answer.text,))
                progress.update(task, completed=tally.files)
    return tally


def truncated(folder: Path) -> list[str]:
    """What went wrong with Parquet files that were cut off."""
    places = {"SLUICE_HOME": str(folder / "home"), "SLUICE_SOURCE_URI": str(folder / "source")}
    settings = load_settings(places | {"SLUICE_CONTRACT": "handbook"})
    (folder / "source").mkdir(parents=True)
    problems = []
    for number in range(TRUNCATED):
        (folder / "source" / "2018-04-01.parquet").write_bytes(parquet_file(number))
        try:
            run_named("land_transactions", settings, date(2018, 4, 1))
            problems.append(f"file {number} was landed")
        except SluiceError:
            continue
        except BaseException as error:  # also a panic of a native library
            problems.append(f"file {number}: {error!r}")
    return problems


def filled(folder: Path) -> tuple[int, list[str]]:
    """How often a stage met a full disk, and what went wrong."""
    tries, problems = 0, []
    for stage, ready in prepare(folder):
        for limit in FILE_LIMITS:
            problems += [f"{stage}: {problem}" for problem in on_limited_files(stage, ready, limit)]
            tries += 1
        if can_mount():
            with small_disk(folder / "disk") as disk:
                for left in BYTES_LEFT:
                    problems += [f"{stage}: {problem}" for problem in on_full_disk(stage, ready, disk, left)]
                    tries += 1
    return tries, problems


def kill_cases(kills: list[Kill]) -> list[Case]:
    """One case for each stage, and the share of kills that met an open write."""
    cases = []
    for stage in STAGES:
        mine = [each for each in kills if each.stage == stage]
        bad, hit = sum(bool(each.problems) for each in mine), sum(each.was_open for each in mine)
        cases.append(
            none(f"{stage}: of {len(mine)} kills, {hit} in an open write, left something wrong", bad)
        )
    hit, late = (sum(getattr(each, name) for each in kills) for name in ("was_open", "too_late"))
    goal = min(OPEN_KILLS, len(kills))
    return [
        *cases,
        Case("kills", len(kills), None, "kills", "", bool(kills)),
        Case("kills while a write was open", hit, None, "kills", f">= {goal}", hit >= goal),
        Case("kills that came after the stage had ended", late, None, "kills", "", True),
    ]


def fuzz_cases(tally: Tally, way: str, good: str, bad: str) -> list[Case]:
    """The account of the damaged files that went this way."""
    lost = tally.rows - tally.published - tally.quarantined
    counted = Counter("traceback" if "Traceback" in text else "account" for text in tally.problems)
    return [
        Case(f"damaged CSV files {way}", tally.files, None, "files", "", True),
        Case("refused with a sentence", tally.rejected, None, "files", "", True),
        Case("rows of the others", tally.rows, None, "rows", "", True),
        Case(f"of these {good}", tally.published, None, "rows", "", True),
        Case(f"of these {bad}", tally.quarantined, None, "rows", "", True),
        none("rows lost or invented", abs(lost)),
        none("files whose rows do not add up", counted["account"]),
        none("tracebacks", counted["traceback"]),
    ]


def main(kills: int, files: int) -> int:
    through = math.ceil(files / CHAIN_SHARE)
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        done = killed(home / "kills", kills)
        chain = fuzzed(home / "fuzz", fuzz, 0, through)
        rows = fuzzed(home / "fuzz", fuzz_rows, through, files - through)
        cut = truncated(home / "truncated")
        tries, full = filled(home / "full")
        served, wrong = serving.run(home / "serving")
    cases: list[Case] = [
        *kill_cases(done),
        *fuzz_cases(chain, "through the whole chain", "published", "quarantined"),
        *fuzz_cases(rows, "read and judged row by row", "good", "bad"),
        none(f"truncated Parquet files of {TRUNCATED} that were not refused with a sentence", len(cut)),
        none(f"of {tries} runs on a full disk, those that left something wrong", len(full)),
        *served,
    ]
    publish("faults", cases)
    problems: list[Any] = [
        *(f"{each.stage}: {problem}" for each in done for problem in each.problems),
        *chain.problems, *rows.problems, *cut, *full, *wrong,
    ]  # fmt: skip
    for problem in problems:
        console.print(problem, style="red", highlight=False)
    return 0 if all(case.met for case in cases) else 1


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2])))
