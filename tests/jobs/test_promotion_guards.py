"""What a promotion refuses: other champions' evidence, moved aliases, old approvals, spoilt bundles."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pydantic import ValidationError

from jobs.conf.settings import Settings
from jobs.core import GateClosed, Receipt, SluiceError
from jobs.promotion import approve, judge_step, promote, roll_back
from jobs.promotion import state as registry_state
from jobs.promotion.state import Routing, registry_client
from tests.promotion_support import begin, checked, crown, in_shadow, look, offer, routing, tag, traffic

pytest_plugins = ("tests.promotion_support",)


@pytest.fixture
def no_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the step's minutes have passed: the clock of the verdict is ten minutes ahead."""
    monkeypatch.setattr(judge_step, "utc_now", lambda: datetime.now(UTC) + timedelta(minutes=10))


def take_back(settings: Settings, version: str, promotion: str = "") -> Receipt:
    params = roll_back.Params(version=version, reason="a step failed", promotion_id=promotion)
    return roll_back.run(params, settings)


def point(settings: Settings, alias: str, version: str) -> None:
    """Move an alias as a person does in MLflow."""
    registry_client(settings).set_registered_model_alias(settings.model_name, alias, version)


def aliases_of(settings: Settings) -> dict[str, str]:
    return registry_state.read_aliases(registry_client(settings), settings.model_name)


def test_an_approval_expires_and_belongs_to_one_version(place: Settings, tmp_path: Path) -> None:
    version = offer(place, tmp_path, gate="person decides")
    long_ago = (datetime.now(UTC) - timedelta(days=8)).isoformat()
    with pytest.raises(GateClosed, match="expired"):
        approve.run(approve.Params(version=version, person="grace", at=long_ago), place)
    checked(place, version)
    given = {"sluice.approved_by": "grace", "sluice.approved_version": version}
    tags = {**given, "sluice.approved_at": long_ago}
    client = registry_client(place)
    registry_state.write_tags(client, place.model_name, version, tags)
    with pytest.raises(GateClosed, match="expired"):
        begin(place, version, "shadow")
    fresh = {"sluice.approved_at": registry_state.now_text(), "sluice.approved_version": "999"}
    registry_state.write_tags(client, place.model_name, version, fresh)
    with pytest.raises(GateClosed, match="given to version 999"):
        begin(place, version, "shadow")


def by_hand(settings: Settings, version: str, **tags: str) -> None:
    """Tags of an approval as somebody could set them in MLflow, good but for `tags`."""
    good = {"approved_by": "grace", "approved_at": registry_state.now_text(), "approved_version": version}
    promotion = {"approved_promotion": tag(settings, version, "promotion_id")}
    written = {f"sluice.{key}": value for key, value in (good | promotion | tags).items()}
    registry_state.write_tags(registry_client(settings), settings.model_name, version, written)


@pytest.mark.parametrize(
    ("tags", "reason"),
    [
        ({"approved_version": ""}, "names no version"),
        ({"approved_at": "2999-01-01T00:00:00+00:00"}, "lies in the future"),
        ({"approved_at": "yesterday"}, "no ISO instant"),
        ({"approved_by": "Ada "}, "is the author"),
        ({"approved_by": " "}, "must approve this version first"),
        ({"author": ""}, "author is not known"),
        ({"approved_promotion": "another"}, "earlier promotion"),
    ],
)
def test_an_approval_by_hand_does_not_hold_with(
    place: Settings, tmp_path: Path, tags: dict[str, str], reason: str
) -> None:
    version = offer(place, tmp_path, gate="person decides", author="ada")
    checked(place, version)
    by_hand(place, version, **tags)
    with pytest.raises(GateClosed, match=reason):
        begin(place, version, "shadow")
    by_hand(place, version, author="ada")
    assert begin(place, version, "shadow").facts["outcome"] == "running"


@pytest.mark.parametrize("person", ["ada", "Ada", " ada "])
def test_an_author_approves_under_no_name(place: Settings, tmp_path: Path, person: str) -> None:
    version = offer(place, tmp_path, gate="person decides", author="ada")
    with pytest.raises(GateClosed, match="is the author"):
        approve.run(approve.Params(version=version, person=person), place)
    assert tag(place, version, "approved_by") == ""


def test_nobody_approves_a_version_whose_author_is_not_known(place: Settings, tmp_path: Path) -> None:
    version = offer(place, tmp_path, gate="person decides", author="")
    with pytest.raises(GateClosed, match="author is not known"):
        approve.run(approve.Params(version=version, person="grace"), place)
    with pytest.raises(ValidationError, match="person"):
        approve.Params(version="1", person=" ")


def test_an_approval_opens_no_blocked_gate(place: Settings, tmp_path: Path) -> None:
    version = offer(place, tmp_path, gate="blocked", gate_reason="worse by 3 %")
    with pytest.raises(GateClosed, match="cannot open"):
        approve.run(approve.Params(version=version, person="grace"), place)


def test_the_champion_offered_again_stays_champion(place: Settings, tmp_path: Path) -> None:
    version = offer(place, tmp_path)
    crown(place, version)
    registry_client(place).set_registered_model_alias(place.model_name, "challenger", version)
    with pytest.raises(GateClosed, match="champion already"):
        checked(place, version)
    assert routing(place) == Routing(champion=version)


def test_a_champion_moved_by_hand_is_not_followed_and_is_told(place: Settings, tmp_path: Path) -> None:
    old = offer(place, tmp_path)
    crown(place, old)
    new = offer(place, tmp_path)
    client = registry_client(place)
    client.set_registered_model_alias(place.model_name, "champion", new)
    found = routing(place)
    assert found.champion is None
    assert f"version {new}" in found.alerts[0]


def test_a_failed_promotion_of_the_champion_offered_again_does_not_demote_it(
    place: Settings, tmp_path: Path
) -> None:
    old = offer(place, tmp_path)
    crown(place, old)
    new = offer(place, tmp_path)
    crown_over(place, old, new)
    point(place, "challenger", new)
    with pytest.raises(GateClosed, match="champion already"):
        checked(place, new)
    receipt = take_back(place, new, "none")
    assert receipt.facts["outcome"] == "nothing to do"
    assert "nothing to take back" in receipt.facts["reason"]
    assert routing(place) == Routing(champion=new, previous=old)
    assert aliases_of(place) == {"champion": new, "previous": old}
    assert tag(place, new, "promotion") == "completed"


def crown_over(settings: Settings, old: str, new: str) -> None:
    """A completed promotion of `new` in the place of `old`."""
    tags = {"sluice.promotion_id": "its-own", "sluice.previous": old}
    registry_state.write_tags(registry_client(settings), settings.model_name, new, tags)
    crown(settings, new)
    point(settings, "previous", old)


@pytest.mark.parametrize("promotion", ["its-own", "another", "none"])
def test_a_completed_promotion_is_taken_back_by_hand_only(
    place: Settings, tmp_path: Path, promotion: str
) -> None:
    old = offer(place, tmp_path)
    crown(place, old)
    new = offer(place, tmp_path)
    crown_over(place, old, new)
    assert take_back(place, new, promotion).facts["changed"] is False
    assert routing(place) == Routing(champion=new, previous=old)
    assert take_back(place, new).facts["outcome"] == "rolled_back"
    assert routing(place) == Routing(champion=old)


def test_a_promotion_under_way_is_taken_back_by_its_own_id_only(place: Settings, tmp_path: Path) -> None:
    old = offer(place, tmp_path)
    crown(place, old)
    new = offer(place, tmp_path)
    own = checked(place, new).partition
    begin(place, new, "shadow")
    assert take_back(place, new, "another").facts["changed"] is False
    assert routing(place).challenger == new
    assert take_back(place, new, own).facts["outcome"] == "rolled_back"
    again = take_back(place, new, own).facts
    assert (again["outcome"], again["changed"]) == ("rolled_back", False)
    assert aliases_of(place) == {"champion": old}


def test_a_version_that_does_not_exist_is_nothing_to_take_back_for_a_promotion(
    place: Settings, tmp_path: Path
) -> None:
    offer(place, tmp_path)
    assert take_back(place, "77", "none").facts["changed"] is False
    with pytest.raises(SluiceError, match="no such version"):
        take_back(place, "77")


@pytest.mark.parametrize("against", ["", "77"])
def test_evidence_against_another_champion_is_refused(place: Settings, tmp_path: Path, against: str) -> None:
    crown(place, offer(place, tmp_path))
    new = offer(place, tmp_path, judged_against=against)
    with pytest.raises(GateClosed, match="by training again"):
        checked(place, new)
    assert tag(place, new, "promotion") == "refused"


def test_evidence_against_a_champion_is_no_evidence_for_a_first_version(
    place: Settings, tmp_path: Path
) -> None:
    with pytest.raises(GateClosed, match="against version 3, the champion now is none"):
        checked(place, offer(place, tmp_path, judged_against="3"))


def test_a_champion_that_changes_in_the_middle_ends_the_promotion(place: Settings, tmp_path: Path) -> None:
    first = offer(place, tmp_path)
    crown(place, first)
    second = offer(place, tmp_path)
    crown_over(place, first, second)
    new = offer(place, tmp_path)
    checked(place, new)
    take_back(place, second)
    with pytest.raises(GateClosed, match=f"against version {second}, the champion now is version {first}"):
        begin(place, new, "shadow")


def test_a_champion_moved_by_hand_stops_check_start_and_promotion(
    place: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = offer(place, tmp_path)
    crown(place, old)
    blocked = offer(place, tmp_path, gate="blocked")
    new = offer(place, tmp_path)
    checked(place, new)
    point(place, "champion", blocked)
    with pytest.raises(GateClosed, match="set alias champion back"):
        begin(place, new, "shadow")
    monkeypatch.setattr(promote, "required_steps", lambda *_: ())
    with pytest.raises(GateClosed, match="set alias champion back"):
        promote.run(promote.Params(version=new), place)
    assert "previous" not in aliases_of(place)
    later = offer(place, tmp_path, judged_against=old)
    with pytest.raises(GateClosed, match="set alias champion back"):
        checked(place, later)
    point(place, "challenger", old)  # offering what serves still must not cost it its record
    with pytest.raises(GateClosed, match="set alias champion back"):
        checked(place, old)
    point(place, "champion", old)
    assert routing(place) == Routing(champion=old)


@pytest.mark.usefixtures("no_wait")
def test_a_champion_moved_by_hand_holds_a_good_step_and_lets_a_bad_one_fail(
    place: Settings, tmp_path: Path
) -> None:
    old = offer(place, tmp_path)
    crown(place, old)
    blocked = offer(place, tmp_path, gate="blocked")
    new = offer(place, tmp_path)
    checked(place, new)
    begin(place, new, "shadow")
    traffic(place, "shadow", old, new)
    point(place, "champion", blocked)
    held = look(place, new, "shadow").facts
    assert held["outcome"] == "inconclusive"
    assert "set alias champion back" in held["reason"]
    point(place, "champion", old)
    assert look(place, new, "shadow").facts["outcome"] == "pass"
    begin(place, new, "canary_5")
    point(place, "champion", blocked)
    traffic(place, "canary_5", old, new, requests=800, error="boom")
    with pytest.raises(GateClosed, match="error rate"):
        look(place, new, "canary_5")
    assert "challenger" not in aliases_of(place)


def test_taking_back_a_champion_moved_by_hand_asks_for_the_alias(place: Settings, tmp_path: Path) -> None:
    old = offer(place, tmp_path)
    crown(place, old)
    new = offer(place, tmp_path)
    own = checked(place, new).partition
    begin(place, new, "shadow")
    point(place, "champion", new)
    with pytest.raises(SluiceError, match="set alias champion back"):
        take_back(place, new, own)
    assert aliases_of(place) == {"champion": new}
    assert routing(place).champion is None
    assert tag(place, new, "promotion") == "rolled_back"


@pytest.mark.parametrize("record", ["", "rolled_back", "refused"])
def test_previous_set_by_hand_gives_no_traffic_to_a_version_that_never_served(
    place: Settings, tmp_path: Path, record: str
) -> None:
    old = offer(place, tmp_path)
    crown(place, old)
    unproven = offer(place, tmp_path, promotion=record)
    point(place, "previous", unproven)
    point(place, "champion", unproven)
    assert routing(place).champion is None
    assert f"version {unproven}" in routing(place).alerts[0]
    point(place, "champion", old)
    with pytest.raises(SluiceError, match="never served"):
        take_back(place, old)
    assert routing(place).champion == old


@pytest.mark.usefixtures("no_wait")
def test_a_first_champion_that_is_offered_again_can_be_gone_back_to_all_the_while(
    place: Settings, tmp_path: Path
) -> None:
    first = offer(place, tmp_path)
    approve.run(approve.Params(version=first, person="grace"), place)
    checked(place, first)
    begin(place, first, "shadow")
    traffic(place, "shadow", "", first)
    look(place, first, "shadow")
    promote.run(promote.Params(version=first), place)
    second = offer(place, tmp_path)
    crown_over(place, first, second)
    judged = {"sluice.judged_against": second}
    registry_state.write_tags(registry_client(place), place.model_name, first, judged)
    point(place, "challenger", first)
    checked(place, first)
    assert tag(place, first, "promotion") == "offered"
    take_back(place, second)
    assert routing(place).champion == first
    assert routing(place).alerts == ()
    assert tag(place, first, "promotion") == "offered"  # going back completes nothing


def test_a_champion_alias_that_is_gone_makes_nothing_a_first_version(place: Settings, tmp_path: Path) -> None:
    old = offer(place, tmp_path)
    crown(place, old)
    registry_client(place).delete_registered_model_alias(place.model_name, "champion")
    new = offer(place, tmp_path)
    with pytest.raises(GateClosed, match=rf"completed before \(version {old}\): set alias champion back"):
        checked(place, new)
    point(place, "challenger", new)
    with pytest.raises(GateClosed, match="set alias champion back"):
        begin(place, new, "shadow")
    with pytest.raises(GateClosed, match="set alias champion back"):
        promote.run(promote.Params(version=new), place)


@pytest.mark.usefixtures("no_wait")
def test_a_failed_step_loses_its_traffic_even_where_its_record_cannot_be_written(
    place: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = in_shadow(place, tmp_path)
    traffic(place, "shadow", old, new, bias=0.5)

    def full(*_: object) -> int:
        raise OSError("the disk is full")

    monkeypatch.setattr(judge_step, "write_row", full)
    with pytest.raises(OSError, match="full"):
        look(place, new, "shadow")
    assert routing(place) == Routing(champion=old)
    assert tag(place, new, "promotion") == "rolled_back"


@pytest.mark.parametrize("early", [True, False])
def test_an_approval_does_not_outlive_its_promotion(place: Settings, tmp_path: Path, early: bool) -> None:
    crown(place, offer(place, tmp_path))
    new = offer(place, tmp_path, gate="person decides")
    approval = approve.Params(version=new, person="grace")
    if early:
        approve.run(approval, place)
    first = checked(place, new)
    if not early:
        approve.run(approval, place)
    begin(place, new, "shadow")
    take_back(place, new, first.partition)
    point(place, "challenger", new)
    again = checked(place, new)  # asks for the same id: a promotion that ended keeps its own
    assert again.partition != first.partition
    assert again.facts["approved"] is False
    with pytest.raises(GateClosed, match="earlier promotion"):
        begin(place, new, "shadow")
    approve.run(approval, place)
    assert begin(place, new, "shadow").facts["outcome"] == "running"


def test_an_approval_does_not_outlive_a_refusal(place: Settings, tmp_path: Path) -> None:
    crown(place, offer(place, tmp_path))
    new = offer(place, tmp_path, gate="person decides", judged_against="77")
    approve.run(approve.Params(version=new, person="grace"), place)
    with pytest.raises(GateClosed, match="training again"):
        checked(place, new)
    judged = {"sluice.judged_against": aliases_of(place)["champion"]}
    registry_state.write_tags(registry_client(place), place.model_name, new, judged)
    point(place, "challenger", new)
    assert checked(place, new).facts["approved"] is False
