"""Draws Evidently's page of a day: a process of its own, which report.py starts.

In: the page's path, and on the standard input the rows that `report.sampled` gives. Out: one self-contained
HTML page, in place only when it is whole.
It ends with the process that started it, however that ends.
Errors: SystemExit with what went wrong in its last line.
"""

from __future__ import annotations

import os
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import pandas as pd
from evidently import Report
from evidently.core.container import MetricOrContainer
from evidently.core.report import Context
from evidently.presets import DataDriftPreset

from jobs.core import first_line
from jobs.files import replacing
from jobs.monitoring.report import SIDE

LOOK_SECONDS = 0.5


class DriftTable(DataDriftPreset):  # type: ignore[misc] # Evidently comes without types
    """The preset without a metric for each column, which would draw it once more than its table does."""

    def generate_metrics(self, context: Context) -> Sequence[MetricOrContainer]:
        found: Sequence[MetricOrContainer] = super().generate_metrics(context)[:1]
        return found


def draw(sample: bytes, path: Path) -> None:
    """Write the page of both sides."""
    rows = pd.read_parquet(BytesIO(sample))
    first = rows.pop(SIDE) == 0
    sides = rows[first], rows[~first]
    # Evidently has no answer for a column without values, and a sample may miss all of a rare one's
    usable = [name for name in rows if all(side[name].notna().any() for side in sides)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        preset = DriftTable(num_method="psi", num_threshold=0.25)
        snapshot = Report([preset]).run(sides[1][usable], sides[0][usable])
    with replacing(path) as temporary:
        snapshot.save_html(os.fspath(temporary))


def end_with(parent: int) -> None:
    """End this process once it is no child of that one any more: a job that was killed draws no page."""
    while os.getppid() == parent:
        time.sleep(LOOK_SECONDS)
    os._exit(1)


def main(parent: int, path: Path) -> None:
    threading.Thread(target=end_with, args=(parent,), daemon=True).start()
    given = sys.stdin.buffer.read()
    if not given:
        sys.exit("no rows to draw")
    try:
        draw(given, path)
    except Exception as error:
        traceback.print_exc()
        sys.exit(f"{type(error).__name__}: {first_line(error)}")


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
