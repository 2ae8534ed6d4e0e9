"""The picture of a day's drift for people: an Evidently report. What decides is in drift.py.

In: reference and current rows. Out: one self-contained HTML page, in place only when it is whole.
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import pandas as pd
from evidently import Report
from evidently.presets import DataDriftPreset

from jobs.features.declarations import MODEL_FEATURES
from jobs.files import replacing, write_whole


def save_report(reference: pd.DataFrame, current: pd.DataFrame, path: Path, *, rows: int) -> None:
    """Write the report over at most `rows` rows of each side."""
    sides = [
        side.sample(min(rows, len(side)), random_state=7)[[*MODEL_FEATURES, "score"]].astype("float64")
        for side in (reference, current)
    ]
    # Evidently has no answer for a column without values, and a sample may miss all of a rare one's
    usable = [name for name in sides[0] if all(side[name].notna().any() for side in sides)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        preset = DataDriftPreset(num_method="psi", num_threshold=0.25)
        snapshot = Report([preset], include_tests=True).run(sides[1][usable], sides[0][usable])
    with replacing(path) as temporary:
        snapshot.save_html(os.fspath(temporary))


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
