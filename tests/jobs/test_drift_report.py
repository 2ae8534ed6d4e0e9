"""The picture of a day's drift: drawn whatever the sample holds, and never worth more than the figures."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from datetime import date, timedelta
from io import BytesIO, TextIOWrapper
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from jobs.conf.settings import PROJECT_ROOT, Settings
from jobs.features.declarations import MODEL_FEATURES
from jobs.lake.store import lake_of
from jobs.monitoring import drift, report
from jobs.monitoring.figures import read_champion, read_figures
from jobs.monitoring.reference import load_reference, reference_path
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


def test_of_an_error_with_several_lines_the_first_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from jobs.monitoring import draw_report  # heavy

    def broken(*_: object) -> None:
        raise ValueError("the library has no answer\nfor this day")

    monkeypatch.setattr(draw_report, "draw", broken)
    monkeypatch.setattr(sys, "stdin", TextIOWrapper(BytesIO(b"rows")))
    with pytest.raises(SystemExit) as ended:
        draw_report.main(os.getppid(), tmp_path / "day.html")
    assert ended.value.code == "ValueError: the library has no answer"


def test_a_reference_without_a_feature_of_today_costs_the_picture_alone(
    place: Settings, tmp_path: Path
) -> None:
    version = champion(place, tmp_path)
    serve(place, version, *map(rows_of, days(DAY, 14)))
    known = read_champion(place)
    assert known is not None
    reference = load_reference(place, known.run_id)
    assert reference is not None
    reference.drop(columns=[RARE[0]]).to_parquet(reference_path(place, known.run_id))
    drift.run(drift.Params(day=DAY), place)
    figures = {f"{each.metric} {each.subject}": each for each in read_figures(lake_of(place), DAY)}
    assert len(figures) > len(MODEL_FEATURES)
    assert figures[f"psi {RARE[0]}"].status == "unknown"
    page = figures["drift_report all"]
    assert page.detail.startswith("not drawn: KeyError:")
    assert RARE[0] in page.detail


def test_a_day_without_rows_has_no_picture_and_no_figure_of_one(place: Settings, tmp_path: Path) -> None:
    champion(place, tmp_path)
    receipt = drift.run(drift.Params(day=DAY), place)
    assert receipt.facts["report"] == ""
    assert [each.metric for each in read_figures(lake_of(place), DAY)] == ["psi"]
    assert not (place.reports / "drift").exists()


def test_what_draws_ends_with_the_block_that_asked_for_it(tmp_path: Path) -> None:
    began = time.monotonic()
    with report.Drawing(tmp_path / "day.html") as drawing:
        process = drawing._process
        assert process.poll() is None
    assert process.returncode == -signal.SIGKILL
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("begun", [False, True])
def test_what_draws_ends_with_the_process_that_asked_for_it(tmp_path: Path, begun: bool) -> None:
    asks = (
        "import sys, time; from datetime import date; from pathlib import Path\n"
        "from jobs.monitoring.report import Drawing; from tests.jobs.test_drift_report import rows_of\n"
        "drawing = Drawing(Path(sys.argv[1])); rows = rows_of(date(2026, 2, 2), 900)\n"
        "if len(sys.argv) > 2: drawing.begin(rows, rows, rows=300); time.sleep(1)\n"
        "print(drawing._process.pid, flush=True); time.sleep(600)"
    )
    command = [sys.executable, "-c", asks, str(tmp_path / "day.html"), *(["begin"] if begun else [])]
    with subprocess.Popen(command, cwd=PROJECT_ROOT, stdout=subprocess.PIPE) as job:
        assert job.stdout is not None
        draws = Path(f"/proc/{int(job.stdout.readline())}")
        assert draws.exists()
        job.kill()
    deadline = time.monotonic() + 60
    while draws.exists():
        assert time.monotonic() < deadline, "it still waits for rows, or draws"
        time.sleep(0.1)
    assert not (tmp_path / "day.html").exists()
