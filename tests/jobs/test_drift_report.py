"""The picture of a day's drift: drawn whatever the sample holds, and never worth more than the figures."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pandas as pd

from jobs.conf.settings import PROJECT_ROOT, Settings
from jobs.features.declarations import MODEL_FEATURES
from jobs.lake.store import lake_of
from jobs.monitoring import drift, report
from jobs.monitoring.figures import read_figures
from tests.jobs.test_monitoring_jobs import DAY, champion, days, rows_of, serve

pytest_plugins = ("tests.promotion_support",)
RARE = ("customer_amount_deviation_5m", "terminal_amount_deviation_5m")
ROWS, DRAWN = 900, 300


def day_of(number: int, rare: str) -> pd.DataFrame:
    """Rows of a day, of which those that are drawn for the picture hold no value of the rare feature."""
    rows = rows_of(date(2026, 2, 2) + timedelta(days=number), ROWS)
    drawn = rows.sample(DRAWN, random_state=7).index
    return rows.assign(**{rare: np.where(rows.index.isin(drawn), np.nan, 1.0)})


def test_a_column_that_the_sample_holds_no_value_of_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "day.html"
    with report.Drawing(path) as drawing:
        drawing.begin(day_of(0, RARE[0]), day_of(1, RARE[1]), rows=DRAWN)
        assert drawing.problem() == ""
    page = path.read_text()
    assert "customer_count_1d" in page
    assert [name for name in RARE if name in page] == []


def test_a_picture_that_cannot_be_drawn_costs_no_figure_and_no_alert(place: Settings, tmp_path: Path) -> None:
    version = champion(place, tmp_path)
    moved = rows_of(DAY)
    serve(place, version, *map(rows_of, days(DAY, 14)[1:]), moved.assign(amount=moved["amount"] * 9))
    place.reports.mkdir(parents=True, exist_ok=True)
    (place.reports / "drift").write_text("a file, where the folder of the pages would be")
    receipt = drift.run(drift.Params(day=DAY), place)
    figures = {f"{each.metric} {each.subject}": each for each in read_figures(lake_of(place), DAY)}
    assert len(figures) > len(MODEL_FEATURES)
    assert figures["psi amount"].status == "retrain"
    assert (place.home / "alerts.jsonl").exists()
    page = figures["drift_report all"]
    assert (page.status, page.detail.partition(" [")[0]) == ("investigate", "not drawn: FileExistsError:")
    assert receipt.facts["report"] == ""


def test_a_side_without_rows_gives_no_page(tmp_path: Path) -> None:
    rows = rows_of(DAY, ROWS)
    with report.Drawing(tmp_path / "day.html") as drawing:
        drawing.begin(rows, rows.head(0), rows=DRAWN)
        assert drawing.problem() == "no rows to draw"
    assert list(tmp_path.iterdir()) == []


def test_what_draws_ends_with_the_block_that_asked_for_it(tmp_path: Path) -> None:
    began = time.monotonic()
    with report.Drawing(tmp_path / "day.html") as drawing:
        process = drawing._process
        assert process.poll() is None
    assert process.returncode == -signal.SIGKILL
    assert time.monotonic() - began < 5


def test_what_draws_ends_with_the_process_that_asked_for_it(tmp_path: Path) -> None:
    asks = (
        "import sys, time; from pathlib import Path; from jobs.monitoring.report import Drawing; "
        "print(Drawing(Path(sys.argv[1]))._process.pid, flush=True); time.sleep(600)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", asks, str(tmp_path / "day.html")], cwd=PROJECT_ROOT, stdout=subprocess.PIPE
    ) as job:
        assert job.stdout is not None
        draws = Path(f"/proc/{int(job.stdout.readline())}")
        assert draws.exists()
        job.kill()
    deadline = time.monotonic() + 60
    while draws.exists():
        assert time.monotonic() < deadline, "it still waits for rows"
        time.sleep(0.1)
    assert list(tmp_path.iterdir()) == []
