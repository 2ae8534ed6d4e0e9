"""The pictures of drift for people: Evidently's page of each day, and the page that leads to them.

In: reference and current rows. Out: HTML, in place only when it is whole. What decides is in drift.py.
To import Evidently and to draw takes as long as to measure a day of a million rows, so that has a process of
its own (draw_report.py), which works beside what measures.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from types import TracebackType

import pandas as pd

from jobs.conf.settings import PROJECT_ROOT
from jobs.core import first_line
from jobs.features.declarations import MODEL_FEATURES
from jobs.files import write_whole

LOGGER = logging.getLogger(__name__)
DRAWS = "jobs.monitoring.draw_report"
SIDE = "_side"  # the column that tells whose a row is


def require_evidently() -> None:
    """Fail where the library is missing, which another process imports, and not on some days only."""
    if find_spec("evidently") is None:
        raise ModuleNotFoundError("No module named 'evidently'", name="evidently")


class Drawing:
    """A page that is being drawn; leaving the block ends what draws, whatever has become of it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._process = subprocess.Popen(
            [sys.executable, "-m", DRAWS, str(os.getpid()), os.fspath(path.absolute())],
            cwd=PROJECT_ROOT, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )  # fmt: skip
        self._thread = ThreadPoolExecutor(1)

    def __enter__(self) -> Drawing:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._thread.shutdown()
        self._process.__exit__(kind, error, trace)

    def begin(self, reference: pd.DataFrame, current: pd.DataFrame, *, rows: int) -> None:
        """Draw at most `rows` rows of each side."""
        self._said = self._thread.submit(
            lambda: self._process.communicate(sampled(reference, current, rows))[1].decode(errors="replace")
        )

    def problem(self) -> str:
        """What stood against the page, of any kind; empty once it is in place."""
        try:
            said = self._said.result().strip()
        except Exception as error:  # a side without a feature, say: figures are worth more than their picture
            return f"{type(error).__name__}: {first_line(error)}"
        if self._process.returncode == 0:
            return ""
        LOGGER.warning("the page %s is not drawn:\n%s", self.path, said)
        return said.splitlines()[-1] if said else f"{DRAWS} ended with {self._process.returncode}"


def sampled(reference: pd.DataFrame, current: pd.DataFrame, rows: int) -> bytes:
    """At most `rows` rows of each side, as draw_report.py reads them: one table, as Parquet."""
    sides = [
        side.sample(min(rows, len(side)), random_state=7)[[*MODEL_FEATURES, "score"]].astype("float64")
        for side in (reference, current)
    ]
    sink = BytesIO()
    pd.concat(sides, keys=[0, 1], names=[SIDE]).reset_index(SIDE).to_parquet(sink, index=False)
    return sink.getvalue()


def save_index(folder: Path) -> None:
    """The page that leads to the report of each day, the newest first."""
    days = sorted((file.stem for file in folder.glob("????-??-??.html")), reverse=True)
    items = "\n".join(f'<li><a href="{day}.html">{day}</a></li>' for day in days)
    page = (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Drift reports</title>'
        '<body style="font-family: sans-serif; margin: 2rem"><h1>Drift reports</h1>'
        "<p>One for each monitored day: what the champion met, against its own test rows.</p>"
        f"<ul>\n{items}\n</ul></body></html>\n"
    )
    write_whole(folder / "index.html", page)
