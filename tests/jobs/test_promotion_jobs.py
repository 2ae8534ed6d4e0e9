"""A promotion from its check to champion or rollback, on a real registry and a real prediction log."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from jobs.conf.policy import policy_of
from jobs.conf.settings import Settings
from jobs.core import GateClosed, SluiceError
from jobs.lake.store import lake_of
from jobs.lake.tables import PROMOTIONS
from jobs.promotion import approve, check, judge_step, promote, roll_back, start_step
from jobs.promotion import state as registry_state
from jobs.promotion.state import Routing, read_version, registry_client
from tests import promotion_support
from tests.promotion_support import (
    STEPS,
    begin,
    checked,
    crown,
    in_shadow,
    look,
    offer,
    routing,
    tag,
    traffic,
)

pytest_plugins = ("tests.promotion_support",)


@pytest.fixture
def no_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the step's minutes have passed: the clock of the verdict is ten minutes ahead."""
    monkeypatch.setattr(judge_step, "utc_now", lambda: datetime.now(UTC) + timedelta(minutes=10))


def in_mode(settings: Settings, mode: str, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The installation with another mode of its canary, and a model of its own."""
    policy = policy_of(settings)
    policy = policy.model_copy(update={"canary": policy.canary.model_copy(update={"mode": mode})})
    for module in (check, judge_step, promote, start_step, promotion_support):
        monkeypatch.setattr(module, "policy_of", lambda _: policy)
    return settings.model_copy(update={"model_name": f"walk-{mode}"})


def story(settings: Settings, version: str, folder: Path) -> list[str]:
    """The steps that the version's run in MLflow tells of."""
    client = registry_client(settings)
    state = read_version(client, settings.model_name, version)
    assert state is not None
    kept = sorted(item.path for item in client.list_artifacts(state.run_id, "promotion"))
    assert [path.rpartition(".")[2] for path in kept] == ["json", "png"]
    return [
        row["step"]
        for row in json.loads(Path(client.download_artifacts(state.run_id, kept[0], str(folder))).read_text())
    ]


@pytest.mark.usefixtures("no_wait")
def test_a_story_that_mlflow_does_not_take_ends_no_step_and_comes_with_the_next(
    place: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = in_shadow(place, tmp_path)
    traffic(place, "shadow", old, new)
    with monkeypatch.context() as broken:
        broken.setattr("mlflow.MlflowClient.log_artifact", lambda *_: 1 / 0)
        assert look(place, new, "shadow").facts["outcome"] == "pass"
    begin(place, new, "canary_5")
    traffic(place, "canary_5", old, new)
    look(place, new, "canary_5")
    assert story(place, new, tmp_path) == ["check", "shadow", "canary_5"]


@pytest.mark.usefixtures("no_wait")
@pytest.mark.parametrize(("mode", "steps"), [("steps", STEPS), ("blue_green", ("shadow", "canary_100"))])
def test_a_good_version_walks_through_every_step_to_champion(
    place: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str, steps: tuple[str, ...]
) -> None:
    place = in_mode(place, mode, monkeypatch)
    old = offer(place, tmp_path)
    crown(place, old)
    new = offer(place, tmp_path)
    assert checked(place, new).facts["needs_person"] is False
    for step in steps:
        begin(place, new, step)
        assert routing(place) == Routing(
            champion=old, challenger=new, step=step, percent=registry_state.percent_of(step)
        )
        assert look(place, new, step).facts["outcome"] == "inconclusive"
        traffic(place, step, old, new)
        receipt = look(place, new, step)
        assert receipt.facts["outcome"] == "pass", receipt.facts
        assert receipt.facts["challenger_requests"] >= 60
        assert look(place, new, step).facts["outcome"] == "pass"
        assert story(place, new, tmp_path) == ["check", *steps[: steps.index(step) + 1]]
    promote.run(promote.Params(version=new), place)
    assert promote.run(promote.Params(version=new), place).facts["previous"] == old
    assert routing(place) == Routing(champion=new, previous=old)
    client = registry_client(place)
    aliases = registry_state.read_aliases(client, place.model_name)
    assert aliases == {"champion": new, "previous": old}
    table = lake_of(place).read(PROMOTIONS).to_pylist()
    assert [row["step"] for row in table] == ["check", *steps, "promote"]
    assert "promote" in story(place, new, tmp_path)

    roll_back.run(roll_back.Params(version=new, reason="disputes"), place)
    again = roll_back.run(roll_back.Params(version=new, reason="another reason"), place)
    assert routing(place) == Routing(champion=old)
    assert again.facts["changed"] is False
    assert tag(place, new, "promotion_reason") == "disputes"


@pytest.mark.usefixtures("no_wait")
@pytest.mark.parametrize(
    ("fault", "word"),
    [({"delay_ms": 30.0}, "latency"), ({"bias": 0.5}, "PSI"), ({"error": "boom"}, "error rate")],
)
def test_a_version_that_misbehaves_in_its_canary_is_out_before_the_verdict_is_told(
    place: Settings, tmp_path: Path, fault: dict[str, float], word: str
) -> None:
    place = place.model_copy(update={"model_name": f"bad-{word.replace(' ', '-')}"})
    old, new = in_shadow(place, tmp_path)
    traffic(place, "shadow", old, new)
    look(place, new, "shadow")
    begin(place, new, "canary_5")
    traffic(place, "canary_5", old, new, requests=800, **fault)  # type: ignore[arg-type]
    with pytest.raises(GateClosed, match=word):
        look(place, new, "canary_5")
    assert routing(place) == Routing(champion=old)
    receipt = roll_back.run(roll_back.Params(version=new, reason="the DAG says so too"), place)
    assert receipt.facts["outcome"] == "rolled_back"
    assert receipt.facts["changed"] is False
    assert word in receipt.facts["reason"]
    assert tag(place, new, "promotion") == "rolled_back"


@pytest.mark.usefixtures("no_wait")
def test_the_first_version_needs_a_person_and_goes_live_after_its_shadow(
    place: Settings, tmp_path: Path
) -> None:
    version = offer(place, tmp_path, author="ada")
    assert checked(place, version).facts["needs_person"] is True
    with pytest.raises(GateClosed, match="person"):
        begin(place, version, "shadow")
    with pytest.raises(GateClosed, match="author"):
        approve.run(approve.Params(version=version, person="ada"), place)
    approve.run(approve.Params(version=version, person="grace"), place)
    begin(place, version, "shadow")
    traffic(place, "shadow", "", version, requests=400)
    assert look(place, version, "shadow").facts["outcome"] == "pass"
    for step in STEPS[1:]:
        assert begin(place, version, step).facts["skipped"]
        assert look(place, version, step).facts["outcome"] == "pass"
    promote.run(promote.Params(version=version), place)
    assert routing(place) == Routing(champion=version)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"gate": "blocked", "gate_reason": "shuffled labels"}, "shuffled labels"),
        ({"gate": ""}, "no evidence"),
        ({"feature_version": "another"}, "train again"),
    ],
)
def test_a_version_that_may_not_be_offered_is_refused_and_loses_its_alias(
    place: Settings, tmp_path: Path, changes: dict[str, str], word: str
) -> None:
    place = place.model_copy(update={"model_name": f"refused-{word.replace(' ', '-')}"})
    version = offer(place, tmp_path, **changes)
    with pytest.raises(GateClosed, match=word):
        checked(place, version)
    assert registry_state.read_aliases(registry_client(place), place.model_name) == {}
    assert tag(place, version, "promotion") == "refused"


def test_a_version_that_does_not_exist_is_refused(place: Settings, tmp_path: Path) -> None:
    offer(place, tmp_path)
    with pytest.raises(GateClosed, match="no such version"):
        checked(place, "77")


def test_a_restart_in_the_middle_keeps_the_step_and_its_time(place: Settings, tmp_path: Path) -> None:
    crown(place, offer(place, tmp_path))
    new = offer(place, tmp_path)
    first = checked(place, new).facts["promotion_id"]
    started = begin(place, new, "shadow").facts["started_at"]
    time.sleep(0.01)
    assert checked(place, new).facts["promotion_id"] == first
    assert begin(place, new, "shadow").facts["started_at"] == started
    assert routing(place).step == "shadow"


def test_no_step_is_skipped_and_none_is_judged_before_it_starts(place: Settings, tmp_path: Path) -> None:
    crown(place, offer(place, tmp_path))
    new = offer(place, tmp_path)
    checked(place, new)
    with pytest.raises(GateClosed, match="shadow has not passed"):
        begin(place, new, "canary_5")
    with pytest.raises(GateClosed, match="running step is none"):
        look(place, new, "shadow")
    with pytest.raises(GateClosed, match="no step 'canary_7'"):
        begin(place, new, "canary_7")
    with pytest.raises(GateClosed, match="no passed verdict"):
        promote.run(promote.Params(version=new), place)


def test_taking_the_alias_away_stops_a_promotion(place: Settings, tmp_path: Path) -> None:
    crown(place, offer(place, tmp_path))
    new = offer(place, tmp_path)
    checked(place, new)
    begin(place, new, "shadow")
    registry_client(place).delete_registered_model_alias(place.model_name, "challenger")
    assert routing(place).challenger is None
    with pytest.raises(GateClosed, match="taken away"):
        look(place, new, "shadow")


@pytest.mark.parametrize("calls", [1, 2, 3])
def test_a_failure_in_the_middle_of_a_promotion_keeps_the_old_champion(
    place: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calls: int
) -> None:
    """Every write to the registry that comes before the champion's move is cut off in turn."""
    place = place.model_copy(update={"model_name": f"cut-{calls}"})
    old = offer(place, tmp_path)
    crown(place, old)
    new = offer(place, tmp_path)
    checked(place, new)
    last = {"promotion": "canary", "percent": "100", "step": "canary_100"}
    tags = {f"sluice.{name}": value for name, value in last.items()}
    registry_state.write_tags(registry_client(place), place.model_name, new, tags)
    monkeypatch.setattr(promote, "required_steps", lambda *_: ())
    left = [calls]

    def cut(write: Callable[..., None]) -> Callable[..., None]:
        def wrapper(*arguments: object) -> None:
            left[0] -= 1
            if left[0] <= 0:
                raise SluiceError("the registry went away")
            write(*arguments)

        return wrapper

    with monkeypatch.context() as broken:
        broken.setattr(registry_state, "write_tags", cut(registry_state.write_tags))
        broken.setattr(registry_state, "move_alias", cut(registry_state.move_alias))
        with pytest.raises(SluiceError, match="went away"):
            promote.run(promote.Params(version=new), place)
    serving = Routing(champion=old, challenger=new, step="canary_100", percent=100)
    found = routing(place).model_copy(update={"previous": None})
    assert found == serving, "the version keeps the traffic that it has"
    promote.run(promote.Params(version=new), place)
    assert routing(place) == Routing(champion=new, previous=old)


def test_an_unreachable_registry_is_told_within_seconds(home: Settings) -> None:
    nowhere = home.model_copy(update={"mlflow_uri": "http://127.0.0.1:9"})
    started = time.perf_counter()
    with pytest.raises(SluiceError, match="make up"):
        registry_client(nowhere)
    assert time.perf_counter() - started < 5


def test_the_evidence_of_a_step_names_its_figures(place: Settings, tmp_path: Path) -> None:
    old, new = in_shadow(place, tmp_path)
    traffic(place, "shadow", old, new, error="")
    with pytest.MonkeyPatch.context() as clock:
        clock.setattr(judge_step, "utc_now", lambda: datetime.now(UTC) + timedelta(minutes=10))
        look(place, new, "shadow")
    row = next(row for row in lake_of(place).read(PROMOTIONS).to_pylist() if row["step"] == "shadow")
    names = {each["name"] for each in json.loads(row["evidence"])["checks"]}
    assert {"time", "requests", "error rate", "score PSI against own offline scores"} <= names
