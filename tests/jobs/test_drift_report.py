"""The picture of a day's drift: drawn whatever the sample holds, and never worth more than the figures."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from jobs.conf.settings import Settings
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
    report.save_report(day_of(0, RARE[0]), day_of(1, RARE[1]), path, rows=DRAWN)
    page = path.read_text()
    assert "customer_count_1d" in page
    assert [name for name in RARE if name in page] == []


def test_a_picture_that_cannot_be_drawn_costs_no_figure_and_no_alert(
    place: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ValueError("the library has no answer\nfor this day")

    version = champion(place, tmp_path)
    moved = rows_of(DAY)
    serve(place, version, *map(rows_of, days(DAY, 14)[1:]), moved.assign(amount=moved["amount"] * 9))
    monkeypatch.setattr(report, "save_report", broken)
    receipt = drift.run(drift.Params(day=DAY), place)
    figures = {f"{each.metric} {each.subject}": each for each in read_figures(lake_of(place), DAY)}
    assert len(figures) > len(MODEL_FEATURES)
    assert figures["psi amount"].status == "retrain"
    assert (place.home / "alerts.jsonl").exists()
    page = figures["drift_report all"]
    assert (page.status, page.detail) == ("investigate", "not drawn: the library has no answer")
    assert receipt.facts["report"] == ""
