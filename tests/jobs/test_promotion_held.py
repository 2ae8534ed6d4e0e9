"""A promotion that takes long: its approval, what a person hears of it, what is taken back of it."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from jobs.alerts import FILE
from jobs.conf.settings import Settings
from jobs.core import GateClosed
from jobs.promotion import approve, judge_step, promote, roll_back
from jobs.promotion import state as registry_state
from tests.promotion_support import begin, checked, crown, in_shadow, look, offer, tag, traffic

pytest_plugins = ("tests.promotion_support",)


def test_an_approval_that_grows_old_on_the_way_ends_no_promotion(
    place: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = offer(place, tmp_path)
    crown(place, old)
    new = offer(place, tmp_path, gate="person decides")
    checked(place, new)
    approve.run(approve.Params(version=new, person="grace"), place)
    begin(place, new, "shadow")
    traffic(place, "shadow", old, new)
    monkeypatch.setattr(judge_step, "utc_now", lambda: datetime.now(UTC) + timedelta(minutes=10))
    look(place, new, "shadow")
    long_ago = (datetime.now(UTC) - timedelta(days=8)).isoformat()
    client = registry_state.registry_client(place)
    registry_state.write_tags(client, place.model_name, new, {"sluice.approved_at": long_ago})
    assert checked(place, new).facts["approved"] is True
    assert begin(place, new, "canary_5").facts["outcome"] == "running"
    monkeypatch.setattr(promote, "required_steps", lambda *_: ())
    registry_state.write_tags(client, place.model_name, new, {"sluice.approved_promotion": "another"})
    with pytest.raises(GateClosed, match="earlier promotion"):
        promote.run(promote.Params(version=new), place)
    own = {"sluice.approved_promotion": tag(place, new, "promotion_id")}
    registry_state.write_tags(client, place.model_name, new, own)
    assert promote.run(promote.Params(version=new), place).facts["outcome"] == "pass"


def told(settings: Settings) -> list[str]:
    """Kinds of the alerts about a promotion."""
    lines = (settings.home / FILE).read_text().splitlines() if (settings.home / FILE).exists() else []
    keys = [str(json.loads(line)["key"]) for line in lines]
    return [key.partition("/")[0] for key in keys if key.startswith("promotion-")]


def test_a_step_that_is_held_for_long_is_told_once(
    place: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, new = in_shadow(place, tmp_path)
    for minutes in (59, 61, 62):
        now = datetime.now(UTC) + timedelta(minutes=minutes)
        monkeypatch.setattr(judge_step, "utc_now", lambda now=now: now)
        assert look(place, new, "shadow").facts["outcome"] == "inconclusive"
        assert told(place) == (["promotion-held"] if minutes > 60 else []), minutes


@pytest.mark.parametrize(("minutes", "kinds"), [(9, []), (12, ["promotion-unseen"])])
def test_a_canary_that_nobody_can_see_is_told_once(
    place: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, minutes: int, kinds: list[str]
) -> None:
    place = place.model_copy(update={"model_name": f"unseen-{minutes}"})
    old, new = in_shadow(place, tmp_path)
    traffic(place, "shadow", old, new)
    now = datetime.now(UTC) + timedelta(minutes=9)
    monkeypatch.setattr(judge_step, "utc_now", lambda: now)
    look(place, new, "shadow")
    begin(place, new, "canary_5")
    traffic(place, "canary_5", old, new, requests=100)
    later = datetime.now(UTC) + timedelta(minutes=minutes)
    monkeypatch.setattr(judge_step, "utc_now", lambda: later)
    for _ in range(2):
        assert look(place, new, "canary_5").facts["outcome"] == "inconclusive"
        assert told(place) == kinds


def test_the_running_promotion_is_that_of_a_challenger_that_was_checked(
    place: Settings, tmp_path: Path
) -> None:
    crown(place, offer(place, tmp_path))
    assert roll_back.running_promotion(place) == {}
    new = offer(place, tmp_path)
    assert roll_back.running_promotion(place) == {}, "its own run has not begun"
    own = checked(place, new).partition
    assert roll_back.running_promotion(place) == {"version": new, "promotion_id": own}
    roll_back.run(roll_back.Params(version=new, reason="cut off", promotion_id=own), place)
    assert roll_back.running_promotion(place) == {}
