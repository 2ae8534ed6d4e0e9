"""The page of a replay: whole, self-contained, and nothing from outside becomes markup."""

from __future__ import annotations

import json
import re
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pandas as pd
import pytest

from jobs.conf.policy import load_policy
from jobs.conf.settings import Settings
from jobs.replay.agenda import Happening
from jobs.replay.data import write_json
from jobs.replay.page import page
from jobs.replay.report import (
    MEASURED,
    alarms_of,
    counts_of,
    drift_found,
    largest_psi,
    rollbacks,
    seconds_of,
)
from jobs.replay.score import RATIOS
from jobs.replay.timeline import COLOURS
from jobs.training.gate import judge
from tests.browser import WIDTH, browse
from tests.jobs.test_training_gate import GOOD

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

ALARMS = {"2026-03-04": {("psi", EVIL)}, "2026-03-05": {("psi", "amount")}}


def document() -> dict[str, Any]:
    estimate = {"value": 1.0, "low": 0.5, "high": 1.5}
    score = dict.fromkeys(RATIOS, estimate)
    versions = [
        {"version": "1", "day": "2026-03-02", "reason": EVIL, "gate": "person decides", "end": "champion",
         "why": "", "instead": {"days": 0}},
    ]  # fmt: skip
    days = [
        {"day": str(day), "champion": "1", "saved": 100.0 * (number - 2), "alerts": float(number),
         "alarms": len(ALARMS.get(str(day), ())), "largest_psi": 0.1 * number if number else None}
        for number, day in enumerate(FIRST + timedelta(days=number) for number in range(6))
    ]  # fmt: skip
    policy = {
        "score": score, "counts": counts_of(HAPPENED, versions),
        "drift": [drift_found(HAPPENED, ALARMS, FIRST)], "rollbacks": rollbacks(HAPPENED),
        "alarms_a_month": None, "versions": versions, "days": days,
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
    return page(document(), {"policies": {"strict": seconds}, "data": {"data-1": {"join": 3.0}}})


def test_what_comes_from_outside_is_text_and_nothing_is_fetched(text: str) -> None:
    assert "<script" not in text
    assert "&lt;script&gt;" in text
    assert not re.search(r"(src|href)=|url\(|@import", text)


def test_in_a_browser_the_page_is_no_wider_than_its_window_however_long_a_reason_is(tmp_path: Path) -> None:
    said = document()
    said["policies"]["strict"]["versions"][0]["why"] = "the gate blocked it: " + "money saved a day; " * 20
    file = tmp_path / "replay.html"
    file.write_text(page(said, {"policies": {}, "data": {}}))
    with browse(tmp_path / "profile") as tab:
        tab.open(file.as_uri())
        tab.wait("document.readyState === 'complete' && document.querySelectorAll('table').length > 3")
        assert tab.value("document.documentElement.scrollWidth") <= WIDTH
        assert tab.value("document.querySelector('svg').getBoundingClientRect().width") > WIDTH / 2


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


def test_a_change_is_found_by_an_alarm_and_not_by_a_missing_figure_on_the_morning_when_it_is_known() -> None:
    # the figures of the 4th are known at six on the 5th
    assert drift_found(HAPPENED, ALARMS, FIRST) == {
        "day": "2026-03-02", "days_to_alert": 3.25, "days_to_retraining": 4.25,
    }  # fmt: skip
    assert drift_found(HAPPENED, ALARMS, date(2026, 3, 6))["days_to_alert"] is None


def test_an_alarm_that_stood_before_a_change_tells_of_it_only_where_it_went_and_came_again() -> None:
    looks = [happening(day + 1, "monitor", day=f"2026-03-{day:02d}", decision="alert") for day in range(2, 7)]
    change, psi, fall = date(2026, 3, 4), ("psi", "amount"), ("pr_auc", "all")

    def days_to_alert(*alarms: set[tuple[str, str]]) -> float | None:
        named = {f"2026-03-{day:02d}": each for day, each in enumerate(alarms, start=2)}
        found: float | None = drift_found(looks, named, change)["days_to_alert"]
        return found

    assert days_to_alert({psi}, {psi}, {psi}, {psi}, {psi}) is None
    assert days_to_alert({psi}, {psi}, {psi}, {psi, fall}, {psi}) == 2.25
    assert days_to_alert({psi}, {psi}, set(), set(), {psi}) == 3.25
    assert days_to_alert({psi}, set(), {psi}, {psi}, {psi}) == 1.25


def test_the_alarms_and_the_largest_psi_of_a_day_come_from_its_figures() -> None:
    day = date(2026, 3, 5)
    rows = [
        (day, "psi", "amount", 0.3, "alert"),
        (day, "psi", "hour", 0.4, "investigate"),
        (day, "psi", "gone", None, "unknown"),
        (day, "error_share", "all", 0.9, "page"),
    ]
    figures = pd.DataFrame(rows, columns=["day", "metric", "subject", "value", "status"])
    assert alarms_of(figures) == {str(day): {("psi", "amount"), ("error_share", "all")}}
    assert largest_psi(figures) == {str(day): 0.4}


def test_a_rollback_is_timed_from_its_step_its_offer_and_its_first_customer() -> None:
    def at(hour: int, what: str, detail: str = "", **facts: Any) -> Happening:
        return Happening(
            at=datetime(2026, 3, 5, hour, tzinfo=UTC), what=what, version="2", detail=detail, facts=facts
        )

    end = at(9, "rolled back", step="canary_25", hours_in_step=1.0)
    before = [
        at(3, "offered"),
        at(4, "step", "shadow"),
        at(6, "step", "canary_5"),
        at(8, "step", "canary_25"),
    ]
    assert rollbacks([*before, end]) == [
        {
            "version": "2",
            "step": "canary_25",
            "hours_in_step": 1.0,
            "hours_since_offered": 6.0,
            "hours_since_first_customer": 3.0,
        }
    ]
    assert rollbacks([*before[:2], end])[0]["hours_since_first_customer"] is None


def test_how_long_the_gate_saw_a_score_take_is_in_no_reason_of_the_result() -> None:
    evidence = GOOD.model_copy(update={"latency_p99_ms": 57.31})
    result = judge(evidence, load_policy())
    assert result.classification == "blocked"
    assert [MEASURED.sub("too long", reason) for reason in result.reasons] == [
        "p99 of one score, ms of a processor: too long, allowed up to 50"
    ]


def test_only_a_day_with_a_training_counts_into_the_seconds_of_one(home: Settings) -> None:
    attempts = {"2026-03-02": "trained", "2026-03-03": "training failed", "2026-03-04": "no training due"}
    for day, what in attempts.items():
        write_json(home.home / "days" / f"{day}.json", {"happened": [{"what": what}]})
    lines = [{"day": day, "train": 40.0 if what == "trained" else 1.0, "traffic": 2.0}
             for day, what in attempts.items()]  # fmt: skip
    (home.home / "seconds.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = seconds_of(home)
    assert found["seconds_of_trainings_a_day_with_one"] == 40.0
    assert found["seconds_a_day_without_training"] == 2.0


def test_a_day_on_which_nothing_is_known_looks_unlike_one_that_alarms(text: str) -> None:
    circles = re.findall(r'<circle [^>]*fill="(#\w+)"><title>(2026-03-\d\d)', text)
    colours = {day: colour for colour, day in circles}
    assert colours["2026-03-03"] == COLOURS["a figure is not known"]
    assert colours["2026-03-04"] == COLOURS["alert"]
    assert colours["2026-03-05"] == COLOURS["retraining asked for"]


def test_trainings_are_counted_by_what_they_were_for() -> None:
    found = counts_of(HAPPENED, [])
    assert found["trainings_by_cause"] == {"monitor": 1, "the first model": 1}
    assert found["gates"] == {"automatic": 1, "person decides": 1}
