"""What people do to a promotion: offer a version, roll back without naming one, move an alias, read pages."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from jobs import cli
from jobs.alerts import FILE
from jobs.clock import standing_at
from jobs.conf import settings as process
from jobs.conf.settings import Settings
from jobs.core import GateClosed, NothingToDo, Receipt, SluiceError
from jobs.lake.store import lake_of
from jobs.lake.tables import LABELS, PREDICTIONS
from jobs.promotion import check_champion, judge_step, promote, roll_back
from jobs.promotion import offer as offer_version
from jobs.promotion import state as registry_state
from jobs.promotion.evidence import gather
from jobs.promotion.offer import offer as offered
from jobs.promotion.record import PROMOTE_ROW, StepRow, write_row
from jobs.promotion.state import Routing, read_version, registry_client
from jobs.promotion.timeline import promotion_page, save_page
from tests.promotion_support import begin, checked, crown, in_shadow, look, offer, routing, tag, traffic

pytest_plugins = ("tests.promotion_support",)


def aliases_of(settings: Settings) -> dict[str, str]:
    return registry_state.read_aliases(registry_client(settings), settings.model_name)


def take_alias(settings: Settings, alias: str) -> None:
    registry_client(settings).delete_registered_model_alias(settings.model_name, alias)


def press(settings: Settings, **params: Any) -> Receipt:
    return roll_back.run(roll_back.Params(reason="the button", **params), settings)


def test_an_offered_version_becomes_challenger_and_the_command_says_what_follows(
    place: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    crown(place, offer(place, tmp_path))
    version = offer(place, tmp_path, gate="person decides")
    take_alias(place, "challenger")
    monkeypatch.setattr(process, "settings", lambda: place)
    monkeypatch.setattr("jobs.training.model_cli.settings", lambda: place)
    assert cli.main(["model", "offer", version]) == 0
    assert "a person must approve" in capsys.readouterr().out
    assert aliases_of(place)["challenger"] == version
    assert routing(place).challenger is None  # no traffic before its check and its shadow
    assert "already, at its check" in offered(registry_client(place), place, version)
    checked(place, version)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"gate": "blocked", "gate_reason": "worse by 3 %"}, "worse by 3 %"),
        ({"gate": ""}, "no evidence"),
        ({"judged_against": "77"}, "training again"),
        ({"archived": "2026-01-01"}, "archived"),
    ],
)
def test_a_version_that_may_not_be_offered_is_refused_and_gets_no_alias(
    place: Settings, tmp_path: Path, changes: dict[str, str], word: str
) -> None:
    crown(place, offer(place, tmp_path))
    version = offer(place, tmp_path, **changes)  # type: ignore[arg-type]
    take_alias(place, "challenger")
    with pytest.raises(GateClosed, match=word):
        offered(registry_client(place), place, version)
    assert "challenger" not in aliases_of(place)


@pytest.mark.parametrize(
    ("gate", "allowed"), [("automatic", True), ("person decides", True), ("blocked", False)]
)
def test_a_training_offers_its_version_where_the_gate_lets_it(
    place: Settings, tmp_path: Path, gate: str, allowed: bool
) -> None:
    crown(place, offer(place, tmp_path))
    version = offer(place, tmp_path, gate=gate, gate_reason="worse by 3 %")
    take_alias(place, "challenger")
    params = offer_version.Params(version=version)
    if allowed:
        offer_version.run(params, place)
        assert "already" in str(
            offer_version.run(params, place).facts["told"]
        )  # it was killed, and runs again
    else:
        with pytest.raises(NothingToDo, match="not offered: .*worse by 3 %"):
            offer_version.run(params, place)
    assert aliases_of(place).get("challenger") == (version if allowed else None)


def test_nothing_is_offered_over_a_running_challenger_or_out_of_nowhere(
    place: Settings, tmp_path: Path
) -> None:
    old = offer(place, tmp_path)
    crown(place, old)
    running = offer(place, tmp_path)
    client = registry_client(place)
    for version, word in ((old, f"version {running} is the challenger"), ("77", "no such version")):
        with pytest.raises(GateClosed, match=word):
            offered(client, place, version)
    take_alias(place, "challenger")
    with pytest.raises(GateClosed, match="champion already"):
        offered(client, place, old)


def test_the_button_takes_back_the_challenger_and_pressed_again_nothing_more(
    place: Settings, tmp_path: Path
) -> None:
    old, new = in_shadow(place, tmp_path)
    said = press(place, dry_run=True).facts
    assert said["reason"] == f"dry run: challenger {new} would lose its traffic"
    assert routing(place).challenger == new
    assert press(place).facts["outcome"] == "rolled_back"
    again = press(place).facts
    assert (again["changed"], again["champion"]) == (False, old)
    assert "taken back already" in again["reason"]
    assert routing(place) == Routing(champion=old)
    assert tag(place, old, "promotion") == "completed"


@pytest.mark.parametrize("cut", ["write_tags", "write_row"])
def test_a_button_that_was_cut_off_ends_that_rollback_and_takes_back_no_champion(
    place: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut: str
) -> None:
    old, new = in_shadow(place, tmp_path)

    def killed(*_: object) -> None:
        raise SluiceError("killed")

    with monkeypatch.context() as broken:
        broken.setattr(registry_state if cut == "write_tags" else roll_back, cut, killed)
        with pytest.raises(SluiceError, match="killed"):
            press(place)
    assert "challenger" not in aliases_of(place)
    receipt = press(place).facts
    assert (receipt["model_version"], receipt["outcome"]) == (new, "rolled_back")
    assert press(place).facts["changed"] is False
    assert routing(place) == Routing(champion=old)


def test_without_a_challenger_the_button_takes_back_the_champion_once(
    place: Settings, tmp_path: Path
) -> None:
    old = offer(place, tmp_path)
    crown(place, old)
    new = offer(place, tmp_path)
    checked(place, new)
    crown(place, new)
    registry_state.move_alias(registry_client(place), place.model_name, "previous", old)
    assert f"give way to version {old}" in press(place, dry_run=True).facts["reason"]
    assert press(place).facts["champion"] == old
    assert press(place).facts["changed"] is False
    assert routing(place) == Routing(champion=old)


def test_a_version_that_lost_its_alias_before_the_last_promotion_does_not_shield_the_champion(
    place: Settings, tmp_path: Path
) -> None:
    old = offer(place, tmp_path)
    crown(place, old)
    given_up = offer(place, tmp_path)
    checked(place, given_up)
    begin(place, given_up, "shadow")
    take_alias(place, "challenger")  # by a hand in MLflow, which leaves its record under way
    new = offer(place, tmp_path)
    checked(place, new)
    crown(place, new)
    registry_state.move_alias(registry_client(place), place.model_name, "previous", old)
    now = datetime.now(UTC)
    row = StepRow(
        promotion=tag(place, new, "promotion_id"), model_version=new, step=PROMOTE_ROW, outcome="pass",
        reason="champion", started_at=now, decided_at=now,
    )  # fmt: skip
    write_row(lake_of(place), row)
    receipt = press(place).facts
    assert (receipt["model_version"], receipt["champion"]) == (new, old)
    assert routing(place).champion == old


def test_a_button_without_anything_to_take_back_says_so(place: Settings) -> None:
    with pytest.raises(SluiceError, match="neither challenger nor champion"):
        press(place)
    with pytest.raises(SluiceError, match="say which version"):
        press(place, promotion_id="manual")


def test_a_champion_moved_by_hand_is_alerted_once_for_each_move(place: Settings, tmp_path: Path) -> None:
    old = offer(place, tmp_path)
    crown(place, old)
    new = offer(place, tmp_path)
    for alias in ("previous", "champion"):
        registry_state.move_alias(registry_client(place), place.model_name, alias, new)

    def judged(run: str) -> int:
        params = check_champion.Params(version=new, run=run)
        return check_champion.run(params, place).rows

    assert [judged("first"), judged("first"), judged("second")] == [1, 0, 1]
    alert = json.loads((place.home / FILE).read_text().splitlines()[0])
    assert f"version {new}" in alert["cause"]
    assert alert["action"].startswith(
        "set alias champion back;"
    )  # not to what was put under previous with it
    registry_state.move_alias(registry_client(place), place.model_name, "champion", old)
    assert judged("third") == 0


def test_holdouts_belong_to_who_scored_them_labels_count_as_corrected_and_shadows_are_no_answers(
    place: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs.promotion.sequential.FIRST_LOOK", 1)  # before it nobody asks for the shadow
    old = offer(place, tmp_path)
    crown(place, old)
    new = offer(place, tmp_path)
    checked(place, new)
    start = datetime.now(UTC)
    rows = [
        ("z", 9, "shadow", new, "approve", "shadow"),
        ("a", 1, "canary", new, "approve", "canary_50"),
        ("b", 2, "holdout", new, "approve", "canary_50"),
        ("c", 3, "holdout", old, "approve", "canary_50"),
        ("d", 4, "champion", old, "block", "canary_50"),
        ("e", 5, "champion", old, "approve", "canary_50"),
        ("d", 4, "shadow", new, "approve", "canary_50"),
        ("e", 5, "shadow", new, "block", "canary_50"),
    ]
    fixed = {
        "day": start.date(), "event_time": start, "customer_id": 1, "terminal_id": 1, "amount_minor": 100,
        "score": 0.95, "rule": "", "error": "", "latency_ms": 1.0,
        "served_at": start + timedelta(seconds=1),
    }  # fmt: skip
    names = ("request_id", "transaction_id", "variant", "model_version", "decision", "step")
    table = [fixed | dict(zip(names, row, strict=True)) for row in rows]
    lake_of(place).append(PREDICTIONS, pa.Table.from_pylist(table, PREDICTIONS.schema))
    labels = [(1, 0, 1), (2, 0, 1), (3, 0, 1), (3, 1, 0), (99, 0, 1)]
    known = [
        {"day": start.date(), "transaction_id": number, "available_at": start + timedelta(hours=hours),
         "is_fraud": fraud}
        for number, hours, fraud in labels
    ]  # fmt: skip
    lake_of(place).append(LABELS, pa.Table.from_pylist(known, LABELS.schema))
    client = registry_client(place)
    states = [read_version(client, place.model_name, version) for version in (new, old)]
    assert states[0]
    found = gather(
        place, state=states[0], champion=states[1], step="canary_50", step_started=start,
        promotion_started=start, now=start + timedelta(minutes=1),
    )  # fmt: skip
    mine, others = (rows.sort_values("request_id") for rows in (found.challenger, found.champion))
    assert mine["request_id"].tolist() == ["a", "b"]
    assert mine["decision"].tolist() == ["approve", "block"]
    assert mine["passed"].tolist() == [1.0, 1.0]
    assert mine["disputed"].tolist() == [1.0, 1.0]
    assert others["request_id"].tolist() == ["c", "d", "e"]
    assert found.shadow["request_id"].tolist() == ["z"], "not what is shadowed beside the canary"
    assert others["decision"].tolist() == ["block", "block", "approve"]
    assert others["passed"].tolist() == [1.0, 0.0, 1.0]
    assert others["disputed"].tolist() == [0.0, 0.0, 0.0]


def test_a_failed_step_leaves_a_page_with_its_reason_and_figures(
    place: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judge_step, "utc_now", lambda: datetime.now(UTC) + timedelta(minutes=10))
    crown(place, offer(place, tmp_path))
    new = offer(place, tmp_path)
    checked(place, new)
    begin(place, new, "shadow")
    traffic(place, "shadow", aliases_of(place)["champion"], new, bias=0.5)
    with pytest.raises(GateClosed) as closed:
        look(place, new, "shadow")
    page = (place.reports / closed.value.report).read_text()
    assert "Figures of shadow" in page
    assert "score PSI against own offline scores" in page
    assert "data:image/png" in page
    assert "<script" not in page


def steps_in_mlflow(settings: Settings, version: str, folder: Path) -> list[tuple[str, str]]:
    """Step and outcome of each row of the table that lies beside the picture with the version's run."""
    client, promotion = registry_client(settings), tag(settings, version, "promotion_id")
    state = read_version(client, settings.model_name, version)
    assert state is not None
    kept = Path(client.download_artifacts(state.run_id, "promotion", str(folder)))
    assert {file.name for file in kept.iterdir()} == {f"{promotion}.png", f"{promotion}.json"}
    assert (kept / f"{promotion}.png").read_bytes().startswith(b"\x89PNG")
    rows = [
        StepRow.model_validate_json(json.dumps(row))
        for row in json.loads((kept / f"{promotion}.json").read_text())
    ]
    assert {(row.promotion, row.model_version) for row in rows} == {(promotion, version)}
    return [(row.step, row.outcome) for row in rows]


def test_the_timeline_of_a_refused_version_is_kept_with_its_run(place: Settings, tmp_path: Path) -> None:
    crown(place, offer(place, tmp_path))
    new = offer(place, tmp_path, gate="blocked", gate_reason="worse by 3 %")
    with pytest.raises(GateClosed, match="worse by 3 %"):
        checked(place, new)
    assert steps_in_mlflow(place, new, tmp_path) == [("check", "fail")]


def test_the_timeline_of_a_promotion_that_was_taken_back_ends_with_the_rollback(
    place: Settings, tmp_path: Path
) -> None:
    old, new = in_shadow(place, tmp_path)
    traffic(place, "shadow", old, new)
    with standing_at(datetime.now(UTC) + timedelta(minutes=10)):
        look(place, new, "shadow")
        begin(place, new, "canary_5")
        assert press(place).facts["outcome"] == "rolled_back"
    found = steps_in_mlflow(place, new, tmp_path)
    assert found == [("check", "pass"), ("shadow", "pass"), ("roll_back", "fail")]


def test_the_timeline_of_a_champion_that_was_taken_back_goes_on_from_its_promotion(
    place: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(promote, "required_steps", lambda *_: ())
    old = offer(place, tmp_path)
    crown(place, old)
    new = offer(place, tmp_path)
    checked(place, new)
    promote.run(promote.Params(version=new), place)
    assert steps_in_mlflow(place, new, tmp_path)[-1] == ("promote", "pass")
    assert press(place).facts["champion"] == old
    found = steps_in_mlflow(place, new, tmp_path)
    assert found == [("check", "pass"), ("promote", "pass"), ("roll_back", "fail")]


def test_a_page_escapes_what_people_wrote_and_its_failure_stops_nothing(place: Settings) -> None:
    now = datetime.now(UTC)
    row = StepRow(
        promotion="p1", model_version="3", step="roll_back", outcome="fail", reason="<b>not</b> & good",
        started_at=now, decided_at=now,
    )  # fmt: skip
    assert "&lt;b&gt;not&lt;/b&gt; &amp; good" in promotion_page([row])
    place.home.mkdir(parents=True, exist_ok=True)
    place.reports.write_text("a file where the folder should be")
    assert save_page(place, "p1", [row]) == ""
