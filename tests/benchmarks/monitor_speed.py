"""A day of 1M rows and 60 features, in a process of its own: ours, or Evidently alone on all rows."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd

from jobs.conf.policy import load_policy
from jobs.features.declarations import MODEL_FEATURES

ROOT = Path(__file__).parents[2]
ROWS, FEATURES, REFERENCE, DAY = 1_000_000, 60, 20_000, date(2026, 3, 10)
SLICE_COLUMNS = ("hour", "is_night", "customer_missing", "customer_count_30d", "terminal_missing",
                 "terminal_count_30d", "pair_is_new_30d")  # fmt: skip
NAMES = tuple(dict.fromkeys([*SLICE_COLUMNS, *MODEL_FEATURES]))[:FEATURES]
SLICES = ("amount_small", "amount_large", "night", "morning", "afternoon", "evening", "new_terminal",
          "quiet_terminal", "new_customer", "quiet_customer", "new_pair")  # fmt: skip


def rows_of(count: int, days: int, seed: int) -> pd.DataFrame:
    """Independent columns, spread over so many days before DAY."""
    generator = np.random.default_rng(seed)
    columns = {name: generator.gamma(2.0, 10.0, count) for name in NAMES}
    for name in NAMES:
        if name.startswith("is_") or name.endswith("_missing") or "is_new" in name:
            columns[name] = (generator.random(count) < 0.1).astype(np.float64)
    columns["hour"] = generator.integers(0, 24, count).astype(np.float64)
    start = pd.Timestamp(DAY, tz="UTC") - pd.Timedelta(days=days - 1)
    return pd.DataFrame(columns).assign(
        score=generator.beta(1, 30, count), amount_minor=generator.integers(100, 90_000, count),
        event_time=start + pd.to_timedelta(np.sort(generator.integers(0, days, count)), unit="D"),
    )  # fmt: skip


def ours(reference: pd.DataFrame, current: pd.DataFrame) -> int:
    from jobs.monitoring.comparison import measure_columns

    since = dict.fromkeys(NAMES, date(2026, 1, 1))
    return len(measure_columns(reference, current, DAY, since, load_policy().drift, SLICES))


def evidently(reference: pd.DataFrame, current: pd.DataFrame) -> int:
    from evidently import Report
    from evidently.presets import DataDriftPreset

    columns = [*NAMES, "score"]
    found = Report([DataDriftPreset()], include_tests=True).run(current[columns], reference[columns])
    return len(found.dict()["metrics"])


def measured(who: str) -> dict[str, float]:
    """Seconds of wall and processor, and the peak of memory in GB, data included."""
    command = [sys.executable, "-W", "ignore", "-m", "tests.benchmarks.monitor_speed", who]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def main(who: str) -> None:
    reference, current = rows_of(REFERENCE, 28, 1), rows_of(ROWS, 1, 2)
    work = {"ours": ours, "evidently": evidently}[who]
    wall, processor = time.perf_counter(), time.process_time()
    figures = work(reference, current)
    facts = {
        "seconds": time.perf_counter() - wall, "processor_seconds": time.process_time() - processor,
        "gigabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, "figures": figures,
    }  # fmt: skip
    print(json.dumps(facts))


if __name__ == "__main__":
    main(sys.argv[1])
