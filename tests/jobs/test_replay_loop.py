"""A promotion and a rollback through days of replayed traffic: deterministic, and resumed after a cut."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from datetime import date, timedelta
from functools import partial
from multiprocessing import active_children
from pathlib import Path
from threading import Barrier, Event, Lock
from typing import Any

import numpy as np
import pandas as pd
import pytest

from jobs import clock
from jobs.conf.settings import Settings, load_settings
from jobs.core import GateClosed, NotEnoughData, NothingToDo, Outcome, Receipt, SluiceError, Verdict, midnight
from jobs.features.declarations import FEATURE_VERSION, MODEL_FEATURES
from jobs.lake.store import content_digest, lake_of
from jobs.lake.tables import PREDICTIONS, PROMOTIONS
from jobs.promotion.state import read_aliases, registry_client
from jobs.replay import checkpoint
from jobs.replay.agenda import Due
from jobs.replay.data import write_json
from jobs.replay.graph import order_of, run_graph
from jobs.replay.loop import Loop, read_record
from jobs.replay.plan import (
    Plan,
    PolicyUnderTest,
    Scenario,
    data_settings,
    named_policies,
    policy_settings,
)
from jobs.replay.play import play
from jobs.serving.bundles import BundleRefused
from tests.promotion_support import offer

ROOT = Path(__file__).parents[2]
FIRST = date(2026, 3, 3)  # a Tuesday: no weekly training among these days
DAYS = [FIRST + timedelta(days=number) for number in range(3)]
ROWS = 1500
RULES = """
shadow: {minutes: 60.0, requests: 40}
canary:
  steps: [{percent: 5, minutes: 60.0}, {percent: 25, minutes: 60.0}, {percent: 50, minutes: 60.0},
          {percent: 100, minutes: 60.0}]
  requests: 20
replay: {monitoring: false, approval_hours: 2.0}
"""


def write_days(data_home: Path) -> None:
    """Traffic without a source: people who pay evenly through each day."""
    for number, day in enumerate(DAYS):
        generator = np.random.default_rng(number)
        seconds = np.sort(generator.uniform(0, 86_400, ROWS))
        events = pd.DataFrame(
            {
                "transaction_id": np.arange(ROWS) + 1 + number * ROWS,
                "event_time": pd.Timestamp(midnight(day)) + pd.to_timedelta(seconds, unit="s").round("ms"),
                "customer_id": generator.integers(1, 400, ROWS),
                "terminal_id": generator.integers(1, 50, ROWS),
                "amount_minor": generator.integers(100, 20_000, ROWS),
            }
        )
        values = {name: generator.gamma(2.0, 1.0, ROWS) for name in MODEL_FEATURES}
        file = data_home / "vectors" / f"{day}.parquet"
        file.parent.mkdir(parents=True, exist_ok=True)
        pd.concat([events, pd.DataFrame(values)], axis=1).to_parquet(file)


def plan_in(folder: Path, last: date) -> Plan:
    (folder / "quick.yaml").write_text(RULES)
    policies = named_policies([str(folder / "quick.yaml")])
    return Plan(FIRST, last, policies, Scenario(drift_days=(), drills={}), folder / "replay")


def opened(folder: Path, last: date = DAYS[-1]) -> Loop:
    plan = plan_in(folder, last)
    settings = policy_settings(load_settings({"SLUICE_HOME": str(folder)}), plan, plan.policies[0])
    return Loop(settings, plan, folder / "data", lambda _day: {})


def prepared(folder: Path) -> Settings:
    """An installation whose first version is registered, and offered at one o'clock of the first day."""
    folder.mkdir(parents=True, exist_ok=True)
    write_days(folder / "data")
    loop = opened(folder)
    version = offer(loop.settings, folder, gate="person decides", feature_version=FEATURE_VERSION)
    registry_client(loop.settings).delete_registered_model_alias("fraud", "challenger")
    loop.agenda.add(Due(at=midnight(FIRST) + timedelta(hours=1), kind="offer", version=version))
    loop.play_to(FIRST)
    return loop.settings


def offer_second(loop: Loop, folder: Path, bias: float = -3.0, at: date = DAYS[1]) -> None:
    """A version judged against the champion, offered at one o'clock of a day."""
    version = offer(loop.settings, folder, bias=bias, feature_version=FEATURE_VERSION)
    registry_client(loop.settings).delete_registered_model_alias("fraud", "challenger")
    loop.agenda.add(Due(at=midnight(at) + timedelta(hours=1), kind="offer", version=version))


def happened(settings: Settings, days: list[date]) -> list[tuple[str, str, str, str]]:
    found: list[dict[str, Any]] = [each for day in days for each in read_record(settings, day)["happened"]]
    return [(each["at"][:16], each["what"], each["version"], each["detail"]) for each in found]


def digests(settings: Settings) -> dict[str, str]:
    """What the loop left, without when the machine did it."""
    log = lake_of(settings).read(PREDICTIONS)
    return {
        "log": content_digest(log),
        "promotions": content_digest(lake_of(settings).read(PROMOTIONS)),
    }


@pytest.fixture(scope="module")
def first_day(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("replay") / "one"
    prepared(folder)
    return folder


def test_the_first_version_is_approved_shadowed_and_serves_at_the_simulated_times(first_day: Path) -> None:
    settings = opened(first_day).settings
    assert happened(settings, [FIRST]) == [
        ("2026-03-03T01:00", "offered", "1", "person decides"),
        ("2026-03-03T03:00", "approved", "1", "replay"),
        ("2026-03-03T03:00", "step", "1", "shadow"),
        ("2026-03-03T04:00", "passed", "1", "shadow"),
        ("2026-03-03T04:00", "champion", "1", "in place of none"),
    ]
    log = lake_of(settings).read(PREDICTIONS).to_pandas()
    answers = log[log["variant"] != "shadow"]
    assert len(answers) == ROWS
    assert answers["transaction_id"].is_unique
    hours = log.assign(hour=log["served_at"].dt.hour).groupby("hour")["variant"].agg(set)
    assert hours[0] == {"rules"}
    assert hours[3] == {"rules", "shadow"}
    assert hours[5] == {"champion"}


def test_a_like_version_earns_all_traffic_and_a_bad_one_is_rolled_back_within_a_look(
    first_day: Path, tmp_path: Path
) -> None:
    folder = moved(first_day, tmp_path)
    loop = opened(folder)
    offer_second(loop, tmp_path)
    loop.play_to(DAYS[1])
    told = [each[1:3] for each in happened(loop.settings, [DAYS[1]])]
    assert told[0] == ("offered", "2")
    assert told[-1] == ("champion", "2")
    steps = [each[3] for each in happened(loop.settings, [DAYS[1]]) if each[1] == "passed"]
    assert steps == ["shadow", "canary_5", "canary_25", "canary_50", "canary_100"]

    broken = opened(folder)
    offer_second(broken, tmp_path, bias=2.0, at=DAYS[2])
    spoil_reference(broken)
    broken.play_to(DAYS[2])
    told = [each[1:3] for each in happened(broken.settings, [DAYS[2]])]
    assert ("rolled back", "3") in told
    assert read_aliases(broken.promotions.client, "fraud")["champion"] == "2"


def spoil_reference(loop: Loop) -> None:
    """A live drill, which its check lets pass: offline its scores were those of another model."""
    client = registry_client(loop.settings)
    client.set_model_version_tag("fraud", "3", "sluice.drill", "shifted_scores")
    run = client.get_model_version("fraud", "3").run_id
    file = Path(client.download_artifacts(run, "reference/reference.parquet"))
    rows = pd.read_parquet(file)
    rows.assign(score=rows["score"] / 50).to_parquet(file)
    client.log_artifact(run, str(file), "reference")


def moved(source: Path, target: Path) -> Path:
    """A copy of an installation; its registry names files by their place, so these are shared."""
    folder = target / "copy"
    shutil.copytree(source, folder, symlinks=True)
    return folder


def test_the_same_days_give_the_same_rows_and_a_cut_in_the_middle_changes_nothing(
    first_day: Path, tmp_path: Path
) -> None:
    folders = [moved(first_day, tmp_path / name) for name in ("whole", "cut")]
    for folder, name in zip(folders, ("whole", "cut"), strict=True):
        loop = opened(folder)
        offer_second(loop, tmp_path / name)
        loop.play_to(DAYS[1])
    opened(folders[0]).play_to(DAYS[2])
    cut = opened(folders[1])
    offered = Due(at=midnight(DAYS[2]) + timedelta(hours=2), kind="offer", version="1")
    cut.agenda.add(offered)
    cut.play_day(DAYS[2])  # killed before the day was noted as done
    assert lake_of(cut.settings).read(PREDICTIONS, first=DAYS[2]).num_rows == ROWS
    again = opened(folders[1])
    assert lake_of(again.settings).read(PREDICTIONS, first=DAYS[2]).num_rows == 0
    again.play_to(DAYS[2])
    whole = opened(folders[0]).settings
    assert digests(whole) == digests(again.settings)
    assert happened(whole, DAYS) == happened(again.settings, DAYS)
    assert checkpoint.done_days(whole) == DAYS


def several(folder: Path, *names: str) -> tuple[Settings, Plan]:
    """A replay of policies with one and the same rules, its data taken in."""
    for name in names:
        (folder / f"{name}.yaml").write_text(RULES)
    policies = named_policies([str(folder / f"{name}.yaml") for name in names])
    plan = Plan(FIRST, DAYS[-1], policies, Scenario(drift_days=(), drills={}), folder / "replay")
    config = load_settings({"SLUICE_HOME": str(folder)})
    data_home = data_settings(config, plan, policies[0]).home
    write_days(data_home)
    for day in (FIRST - timedelta(days=1), *DAYS):
        (data_home / "days").mkdir(exist_ok=True)
        write_json(data_home / "days" / f"{day}.json", {"versions": {}})
    return config, plan


def has_open(pid: int | None, folder: Path) -> bool:
    """Whether a process holds a file below a folder."""
    with suppress(OSError):  # it has ended, or closed one meanwhile
        files = [each.readlink() for each in Path(f"/proc/{pid}/fd").iterdir()]
        return any(each.is_relative_to(folder) for each in files)
    return False


def test_policies_play_beside_each_other_as_each_plays_alone_and_those_that_fail_stop_no_other(
    tmp_path: Path,
) -> None:
    config, plan = several(tmp_path, "first", "stuck", "killed", "second")
    (plan.home / "policies").mkdir()
    (plan.home / "policies" / "stuck").write_text("no folder")
    told: dict[str, tuple[int, str]] = {}

    def tell(policy: PolicyUnderTest, days: int, error: str) -> None:
        told[policy.name] = days, error
        for child in active_children():
            if has_open(child.pid, plan.home / "policies" / "killed"):
                child.kill()

    with pytest.raises(SluiceError, match="policy stuck: NotADirectoryError.*policy killed: its process was"):
        play(config, plan, tell)
    assert told.pop("stuck")[1]
    assert told.pop("killed")[0] < 3
    assert told == {"first": (3, ""), "second": (3, "")}

    data_home = data_settings(config, plan, plan.policies[0]).home
    elsewhere = plan._replace(home=tmp_path / "alone")
    alone = policy_settings(config, elsewhere, plan.policies[0])
    Loop(alone, elsewhere, data_home, lambda _day: {}).play()
    beside = [policy_settings(config, plan, plan.policies[number]) for number in (0, 3)]
    rows = [content_digest(lake_of(each).read(PREDICTIONS)) for each in (alone, *beside)]
    assert rows == rows[:1] * 3
    assert happened(alone, DAYS) == happened(beside[0], DAYS) == happened(beside[1], DAYS) != []


def training(monkeypatch: pytest.MonkeyPatch, loop: Loop, error: Exception) -> None:
    """Let a training of the second day end with an error."""

    def fails(*_: object) -> None:
        raise error

    monkeypatch.setattr("jobs.replay.loop.run_job", fails)
    loop.agenda.add(Due(at=midnight(DAYS[1]) + timedelta(hours=3), kind="train", day=DAYS[0], reason="asked"))


@pytest.mark.parametrize(
    ("error", "what"),
    [
        (NothingToDo("not due"), "no training due"),
        (NotEnoughData("no frauds yet"), "training failed"),
        (GateClosed(Verdict(outcome=Outcome.FAIL, reason="a leak"), "build_frame"), "training failed"),
    ],
)
def test_a_training_that_the_data_do_not_allow_is_an_answer(
    first_day: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, what: str
) -> None:
    loop = opened(moved(first_day, tmp_path))
    training(monkeypatch, loop, error)
    loop.play_to(DAYS[1])
    told = [each for each in happened(loop.settings, [DAYS[1]]) if "training" in each[1]]
    assert told == [("2026-03-04T03:00", what, "", str(error))]


def test_a_training_that_fails_of_its_machine_stops_the_replay_and_its_day_is_not_done(
    first_day: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = opened(moved(first_day, tmp_path))
    training(monkeypatch, loop, SluiceError("Spark does not answer"))
    with pytest.raises(SluiceError, match="Spark does not answer"):
        loop.play_to(DAYS[1])
    assert checkpoint.done_days(loop.settings) == [FIRST]


def test_jobs_of_a_training_that_do_not_wait_for_each_other_run_beside_each_other_at_its_time(
    first_day: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = opened(moved(first_day, tmp_path))
    training(monkeypatch, loop, NotEnoughData("never raised"))
    trees_begun, seen = Event(), []

    def run(_settings: Settings, job: str, _arguments: dict[str, Any]) -> Receipt:
        seen.append((job, clock.now()))
        if job == "train_torch":
            assert trees_begun.wait(30), "the trees wait for the search and not for the network"
        if job == "train_xgboost":
            trees_begun.set()
            raise NotEnoughData("as far as this")
        return Receipt(job=job)

    monkeypatch.setattr("jobs.replay.loop.run_job", run)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: {0, 1})
    loop.play_to(DAYS[1])
    begun = ["snapshot_labels", "build_frame", "train_torch", "tune_model", "tune_model", "train_xgboost"]
    assert sorted(job for job, _ in seen) == sorted(begun)
    assert {moment for _, moment in seen} == {midnight(DAYS[1]) + timedelta(hours=3)}


@pytest.mark.parametrize("at_once", [1, 2, 8])
def test_what_waits_for_a_failed_job_does_not_run_and_the_first_failure_in_the_order_is_told(
    at_once: int,
) -> None:
    seen, lock = list[str](), Lock()

    def call(job: str, error: str = "") -> Receipt:
        with lock:
            seen.append(job)
        if error:
            raise SluiceError(error)
        return Receipt(job=job)

    calls = {job: [partial(call, job)] for job in order_of("fraud_train")}
    calls["tune_model"] = [partial(call, "tune_model"), partial(call, "tune_model", "its second worker")]
    calls["train_torch"] = [partial(call, "train_torch", "the network")]
    with pytest.raises(SluiceError, match="the network"):
        run_graph(calls, at_once)
    assert sorted(seen) == ["build_frame", "snapshot_labels", "train_torch", "tune_model", "tune_model"]


def test_the_calls_of_one_job_run_beside_each_other() -> None:
    both = Barrier(2, timeout=30)  # alone neither would come past it

    def worker() -> Receipt:
        both.wait()
        return Receipt(job="tune_model")

    assert run_graph({"tune_model": [worker, worker]}, 2) == {"tune_model": Receipt(job="tune_model")}


def test_a_version_that_cannot_be_fetched_stops_the_replay_and_one_that_is_refused_serves_nobody(
    first_day: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = opened(moved(first_day, tmp_path))

    def fetch(error: SluiceError) -> None:
        def fails(*_: object) -> Path:
            raise error

        monkeypatch.setattr("jobs.replay.loop.fetch_bundle", fails)

    fetch(SluiceError("the disk is full"))
    with pytest.raises(SluiceError, match="the disk is full"):
        loop.play_to(DAYS[1])
    again = opened(tmp_path / "copy")
    fetch(BundleRefused("its graph raises"))
    again.play_to(DAYS[1])
    log = lake_of(again.settings).read(PREDICTIONS, first=DAYS[1]).to_pandas()
    assert set(log["variant"]) == {"rules"}


def test_a_day_whose_traffic_has_grown_is_played_again_with_all_days_after_it(
    first_day: Path, tmp_path: Path
) -> None:
    folder = moved(first_day, tmp_path)
    opened(folder).play_to(DAYS[2])
    vectors = folder / "data" / "vectors" / f"{DAYS[1]}.parquet"
    rows = pd.read_parquet(vectors)
    late = rows.tail(1).assign(transaction_id=0)
    pd.concat([rows, late]).to_parquet(vectors)

    loop = opened(folder)
    assert loop.done == FIRST
    assert lake_of(loop.settings).partitions(PREDICTIONS) == [str(FIRST)]
    loop.play_to(DAYS[2])
    counts = [lake_of(loop.settings).read(PREDICTIONS, first=day, last=day).num_rows for day in DAYS[1:]]
    assert counts == [ROWS + 1, ROWS]


def test_a_replay_that_is_killed_takes_its_policies_with_it(tmp_path: Path) -> None:
    program = (
        "import sys; from multiprocessing import active_children; from pathlib import Path\n"
        "from jobs.replay.play import play; from tests.jobs.test_replay_loop import several\n"
        "def tell(*_): print(*[child.pid for child in active_children()], flush=True)\n"
        "play(*several(Path(sys.argv[1]), 'first', 'second'), tell)\n"
    )
    replaying = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert replaying.stdout is not None
    policies = [int(pid) for pid in replaying.stdout.readline().split()]
    replaying.kill()
    replaying.wait()
    deadline = time.monotonic() + 60
    while any(Path(f"/proc/{pid}").exists() for pid in policies):
        assert time.monotonic() < deadline, "a policy plays on"
        time.sleep(0.1)
    assert len(policies) == min(2, len(os.sched_getaffinity(0)))
