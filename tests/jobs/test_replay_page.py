"""The page of a replay: whole, self-contained, and nothing from outside becomes markup."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta
from typing import Any
from xml.etree import ElementTree

import pytest

from jobs.replay.agenda import Happening
from jobs.replay.page import page
from jobs.replay.report import counts_of, drift_found
from jobs.replay.score import RATIOS

FIRST = date(2026, 3, 2)
EVIL = "<script>alert(1)</script>"


def happening(number: int, what: str, version: str = "1", detail: str = "", **facts: Any) -> Happening:
    at = datetime(2026, 3, number, 6, tzinfo=UTC)
    return Happening(at=at, what=what, version=version, detail=detail, facts=facts)


def trained(day: int, version: str, reason: str, gate: str) -> Happening:
    return happening(
        day, "trained", version, reason, day=f"2026-03-{day:02d}", reason=reason, drill="none", gate=gate,
        gate_reasons=[EVIL], rows=100,
    )  # fmt: skip


HAPPENED = [
    trained(2, "1", "the first model", "person decides"),
    happening(2, "offered"),
    happening(3, "champion", detail="in place of none"),
    happening(4, "monitor", detail="pr_auc of all unknown: no sample", day="2026-03-03", decision="alert"),
    happening(5, "monitor", detail=f"psi of {EVIL} alert: 0.3", day="2026-03-04", decision="alert"),
    happening(6, "monitor", detail="psi of amount retrain: 0.5", day="2026-03-05", decision="retrain"),
    trained(6, "2", f"monitor: {EVIL}", "automatic"),
    happening(6, "offered", "2"),
    happening(7, "rolled back", "2", EVIL, step="canary_5", hours_in_step=1.0),
]


def document() -> dict[str, Any]:
    estimate = {"value": 1.0, "low": 0.5, "high": 1.5}
    score = dict.fromkeys(RATIOS, estimate)
    versions = [
        {"version": "1", "day": "2026-03-02", "reason": EVIL, "gate": "person decides", "end": "champion",
         "why": "", "instead": {"days": 0}},
    ]  # fmt: skip
    days = [
        {"day": str(FIRST + timedelta(days=number)), "champion": "1", "saved": 100.0 * (number - 2),
         "alerts": float(number)}
        for number in range(6)
    ]  # fmt: skip
    policy = {
        "score": score, "counts": counts_of(HAPPENED, versions), "drift": [drift_found(HAPPENED, FIRST)],
        "rollbacks_hours": [1.0], "alarms_a_month": None, "versions": versions, "days": days,
        "happened": [each.model_dump(mode="json") for each in HAPPENED],
    }  # fmt: skip
    return {
        "from": str(FIRST), "to": "2026-03-07", "scored_to": "2026-03-06", "contract": "simulated",
        "currency": "EUR", "drift_days": ["2026-03-04"], "policies": {"strict": policy},
        "differences": {"strict less other": score},
    }  # fmt: skip


@pytest.fixture(scope="module")
def text() -> str:
    seconds = {"days": 6, "seconds_a_day_without_training": 1.0, "by_part": {"traffic": 2.0},
               "seconds_of_trainings_a_day_with_one": None}  # fmt: skip
    return page(document(), {"strict": seconds})


def test_what_comes_from_outside_is_text_and_nothing_is_fetched(text: str) -> None:
    assert "<script" not in text
    assert "&lt;script&gt;" in text
    assert not re.search(r"(src|href)=|url\(|@import", text)


def test_the_timeline_is_a_well_formed_picture_within_its_frame(text: str) -> None:
    picture = re.search(r"<svg.*?</svg>", text, re.DOTALL)
    assert picture is not None
    root = ElementTree.fromstring(picture.group())  # noqa: S314 - made above
    width, height = (float(part) for part in root.attrib["viewBox"].split()[2:])
    boxes = [each.attrib for each in root.iter("rect")]
    assert len(boxes) >= 6 + 2 + 1  # money, promotions, a champion
    for box in boxes:
        assert 0 <= float(box["x"]) <= float(box["x"]) + float(box["width"]) <= width
        assert 0 <= float(box["y"]) <= float(box["y"]) + float(box["height"]) <= height
    assert any("version 2: rolled back" in (title.text or "") for title in root.iter("title"))


def test_a_change_is_found_by_an_alert_of_a_figure_and_not_by_a_missing_one() -> None:
    assert drift_found(HAPPENED, FIRST) == {
        "day": "2026-03-02", "days_to_alert": 2, "days_to_retraining": 3,
    }  # fmt: skip
    assert drift_found(HAPPENED, date(2026, 3, 6))["days_to_alert"] is None


def test_trainings_are_counted_by_what_they_were_for() -> None:
    found = counts_of(HAPPENED, [])
    assert found["trainings_by_cause"] == {"monitor": 1, "the first model": 1}
    assert found["gates"] == {"automatic": 1, "person decides": 1}
