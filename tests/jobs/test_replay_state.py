"""What a replay stands on: the clock, the order of jobs, tables as of a day, a day that is done or not."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest

from jobs import clock
from jobs.conf.policy import load_policy
from jobs.conf.settings import Settings
from jobs.core import SluiceError
from jobs.lake.store import Lake, lake_of
from jobs.lake.tables import LABELS, REACTIONS
from jobs.replay import checkpoint
from jobs.replay.agenda import Agenda, Due
from jobs.replay.command import require_same
from jobs.replay.data import unbroken
from jobs.replay.graph import ordered
from jobs.replay.plan import (
    data_key,
    data_settings,
    data_sources,
    make_plan,
    named_policies,
    policy_settings,
    read_scenario,
)
from jobs.replay.view import show

DAY = date(2026, 3, 1)
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def test_the_clock_stands_where_it_is_set_and_runs_again_afterwards() -> None:
    with clock.standing_at(NOON):
        assert clock.now() == NOON
        with clock.standing_at(NOON + timedelta(hours=1)):
            assert clock.now() == NOON + timedelta(hours=1)
        assert clock.now() == NOON
    assert abs(clock.now() - datetime.now(UTC)) < timedelta(seconds=5)


def test_an_instant_without_a_zone_is_no_instant() -> None:
    with pytest.raises(ValueError, match="zone"), clock.standing_at(NOON.replace(tzinfo=None)):
        pass


def test_jobs_are_ordered_by_what_they_read_and_write_however_they_are_named() -> None:
    named = ("gate_model", "evaluate_model", "build_frame", "snapshot_labels", "calibrate_model",
             "train_torch", "train_xgboost", "tune_model", "register_model")  # fmt: skip
    found = ordered(named)
    for before, after in (
        ("snapshot_labels", "build_frame"),
        ("build_frame", "tune_model"),
        ("tune_model", "train_xgboost"),
        ("train_torch", "calibrate_model"),
        ("evaluate_model", "gate_model"),
        ("gate_model", "register_model"),
    ):
        assert found.index(before) < found.index(after)


def test_jobs_that_wait_for_each_other_are_refused() -> None:
    with pytest.raises(SluiceError, match="wait for each other"):
        ordered(("compact_tables", "land_labels", "plan_backfill", "run_backfill", "validate_backfill"))


def labels(day: date, *transactions: int) -> pa.Table:
    rows = [
        {"day": day, "transaction_id": each, "available_at": datetime(2026, 3, 1, tzinfo=UTC), "is_fraud": 1}
        for each in transactions
    ]
    return pa.Table.from_pylist(rows, LABELS.schema)


def test_a_view_ends_with_its_version_however_long_the_table_has_become(tmp_path: Path) -> None:
    source = Lake(tmp_path / "source")
    days = [DAY + timedelta(days=number) for number in range(45)]  # past two summaries of the log
    versions = [source.replace(LABELS, labels(day, number), day) for number, day in enumerate(days)]
    seen = Lake(tmp_path / "view")
    for number in (3, 21, 44):
        show(tmp_path / "source", tmp_path / "view", {"labels": versions[number]})
        assert sorted(seen.read(LABELS)["transaction_id"].to_pylist()) == list(range(number + 1))
        assert seen.version(LABELS) == versions[number]


def test_a_view_goes_back_to_an_earlier_day(tmp_path: Path) -> None:
    source = Lake(tmp_path / "source")
    days = [DAY + timedelta(days=number) for number in range(4)]
    versions = [source.replace(LABELS, labels(day, number), day) for number, day in enumerate(days)]
    for number in (3, 1):
        show(tmp_path / "source", tmp_path / "view", {"labels": versions[number]})
    assert sorted(Lake(tmp_path / "view").read(LABELS)["transaction_id"].to_pylist()) == [0, 1]
    show(tmp_path / "source", tmp_path / "view", {})
    assert Lake(tmp_path / "view").read(LABELS).num_rows == 0


def test_a_view_shows_a_day_that_was_written_again_as_it_was(tmp_path: Path) -> None:
    source = Lake(tmp_path / "source")
    early = source.replace(LABELS, labels(DAY, 1), DAY)
    source.replace(LABELS, labels(DAY, 1, 2), DAY)
    show(tmp_path / "source", tmp_path / "view", {"labels": early})
    assert Lake(tmp_path / "view").read(LABELS)["transaction_id"].to_pylist() == [1]


def reaction(day: date) -> pa.Table:
    row = {"day": day, "decision": "nothing", "reason": "", "model_version": "1", "evidence": "{}"}
    return pa.Table.from_pylist([row], REACTIONS.schema)


def write_registry(settings: Settings, *versions: int) -> None:
    checkpoint.registry_file(settings).parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(checkpoint.registry_file(settings))) as file, file:
        file.execute("CREATE TABLE IF NOT EXISTS versions (number INTEGER)")
        file.executemany("INSERT INTO versions VALUES (?)", [(each,) for each in versions])


def registered(settings: Settings) -> list[int]:
    with closing(sqlite3.connect(checkpoint.registry_file(settings))) as file:
        return [row[0] for row in file.execute("SELECT number FROM versions ORDER BY number")]


def test_a_day_that_was_cut_off_leaves_nothing_behind(home: Settings) -> None:
    write_registry(home, 1)
    lake_of(home).replace(REACTIONS, reaction(DAY), DAY)
    (home.home / "alerts.jsonl").write_text("first\n")
    (home.work / "training" / "one").mkdir(parents=True)
    checkpoint.keep(home, DAY, {"agenda": []})

    following = DAY + timedelta(days=1)
    write_registry(home, 2)
    lake_of(home).replace(REACTIONS, reaction(following), following)
    (home.home / "alerts.jsonl").write_text("first\nsecond\n")
    (home.work / "training" / "two").mkdir()
    assert checkpoint.restore(home) == DAY
    assert registered(home) == [1]
    assert lake_of(home).read(REACTIONS)["day"].to_pylist() == [DAY]
    assert (home.home / "alerts.jsonl").read_text() == "first\n"
    assert [each.name for each in (home.work / "training").iterdir()] == ["one"]


def test_before_the_first_whole_day_there_is_nothing_to_go_back_to(home: Settings) -> None:
    write_registry(home, 1)
    lake_of(home).replace(REACTIONS, reaction(DAY), DAY)
    assert checkpoint.restore(home) is None
    assert not checkpoint.registry_file(home).exists()
    assert lake_of(home).read(REACTIONS).num_rows == 0


def play_days(settings: Settings, count: int) -> list[date]:
    """Days that each leave a version behind, as far as it matters here."""
    days = [DAY + timedelta(days=number) for number in range(count)]
    for number, day in enumerate(days, start=1):
        write_registry(settings, number)
        checkpoint.keep(settings, day, {})
    return days


def test_the_way_back_is_kept_to_each_day_to_which_rows_may_still_come_late(home: Settings) -> None:
    days = play_days(home, 6)
    checkpoint.forget_from(home, days[3])  # a file of the day after the last brings rows of three days
    assert checkpoint.restore(home) == days[2]
    assert registered(home) == [1, 2, 3]
    write_registry(home, 7)
    checkpoint.keep(home, days[3], {})
    checkpoint.forget_from(home, days[4])
    assert checkpoint.restore(home) == days[3]
    assert registered(home) == [1, 2, 3, 7]


def test_where_the_way_back_is_not_kept_all_days_are_played_again(home: Settings) -> None:
    days = play_days(home, 6)
    checkpoint.forget_from(home, days[1])
    assert checkpoint.restore(home) is None
    assert not checkpoint.registry_file(home).exists()


@pytest.mark.parametrize(
    ("changed", "other"),
    [
        ("labels_uri", "elsewhere"),
        ("source_uri", "elsewhere"),
        ("first_day", DAY - timedelta(days=9)),
        ("contract", "handbook"),
    ],
)
def test_a_folder_that_holds_a_replay_of_other_data_is_refused(
    home: Settings, changed: str, other: object
) -> None:
    config = home.model_copy(update={"first_day": DAY - timedelta(days=20)})
    plan = make_plan(config, DAY, DAY + timedelta(days=9), [], "", "")
    plan.home.mkdir(parents=True)
    require_same(config, plan)
    require_same(config, plan._replace(last=DAY + timedelta(days=12)))
    with pytest.raises(SluiceError, match="holds another replay"):
        require_same(config.model_copy(update={changed: other}), plan)


def test_features_of_another_version_are_other_data(home: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    before = data_sources(home), data_key(home, load_policy())
    monkeypatch.setattr("jobs.replay.plan.FEATURE_VERSION", "other")
    assert data_sources(home) != before[0]
    assert data_key(home, load_policy()) != before[1]


def test_what_is_due_comes_in_order_of_time_and_a_look_before_a_training() -> None:
    agenda = Agenda(
        [
            Due(at=NOON, kind="train"),
            Due(at=NOON, kind="look", version="2"),
            Due(at=NOON - timedelta(hours=1), kind="offer", version="3"),
            Due(at=NOON + timedelta(days=1), kind="approve", version="3"),
        ]
    )
    kinds = [item.kind for item in iter(lambda: agenda.next_before(NOON + timedelta(hours=1)), None)]
    assert kinds == ["offer", "look", "train"]
    agenda.drop("3")
    assert agenda.items == []


def test_days_are_built_in_ranges_without_a_gap() -> None:
    days = [DAY + timedelta(days=number) for number in (0, 1, 2, 5, 7, 8)]
    assert unbroken(days) == [(days[0], days[2]), (days[3], days[3]), (days[4], days[5])]
    assert unbroken([]) == []


def test_policies_are_named_by_their_files_and_wrong_ones_are_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "strict.yaml").write_text("gate: {automatic_gain: 0.05}\n")
    found = named_policies([str(tmp_path / "strict.yaml"), "demo"])
    assert [each.name for each in found] == ["strict", "demo"]
    assert found[0].policy.gate.automatic_gain == 0.05
    (tmp_path / "wrong.yaml").write_text("gate: {automatic_gian: 0.05}\n")
    with pytest.raises(SluiceError, match="automatic_gian"):
        named_policies([str(tmp_path / "wrong.yaml")])
    with pytest.raises(SluiceError, match="two policies are called demo"):
        named_policies(["demo", "demo"])


def test_a_scenario_says_where_it_is_wrong(tmp_path: Path) -> None:
    good = tmp_path / "scenario.yaml"
    good.write_text("drift_days: [2026-03-05]\ndrills: {2026-03-09: slow}\n")
    assert read_scenario(str(good)).drills == {date(2026, 3, 9): "slow"}
    good.write_text("drills: {2026-03-09: fire}\n")
    with pytest.raises(SluiceError, match="drills"):
        read_scenario(str(good))


def test_nobody_is_told_of_an_alert_of_a_day_that_is_long_gone(home: Settings, tmp_path: Path) -> None:
    told = {"alert_webhook": "http://127.0.0.1:9/alerts", "alert_mail_to": "somebody@example.org"}
    real = home.model_copy(update={**told, "lake_uri": "s3://bucket/lake"})
    plan = make_plan(real, DAY, DAY + timedelta(days=9), [], "", str(tmp_path))
    for found in (data_settings(real, plan, plan.policies[0]), policy_settings(real, plan, plan.policies[0])):
        assert (found.alert_webhook, found.alert_mail_to, found.lake_uri) == ("", "", "")
        assert found.home.is_relative_to(tmp_path)


def test_a_period_outside_the_source_is_refused(home: Settings) -> None:
    with pytest.raises(SluiceError, match="before --from"):
        make_plan(home, DAY, DAY - timedelta(days=1), [], "", "")
    with pytest.raises(SluiceError, match="mature in 3 days"):
        make_plan(home, DAY, DAY, [], "", "")
    with pytest.raises(SluiceError, match="days to learn from"):
        make_plan(home, home.first_day, DAY, [], "", "")
