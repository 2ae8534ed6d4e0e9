"""The search: budget, halving, learning curves, warm start, and the same result whatever was killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import numpy as np
import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.trial import FrozenTrial, TrialState
from sklearn.metrics import average_precision_score

from jobs.conf.policy import Policy, load_policy
from jobs.conf.settings import Settings
from jobs.core import SluiceError
from jobs.features.declarations import MODEL_FEATURES
from jobs.training import tune
from jobs.training.frame import FrameFacts
from jobs.training.run_folder import RunFolder
from jobs.training.tracking import experiment_id, tracking_client
from tests.training_support import DAY, made_rows, made_run, sqlite_settings

POLICY = load_policy("demo")
ROWS = made_rows(250)
BEST = {
    "max_depth": 4,
    "eta": 0.2,
    "min_child_weight": 2.0,
    "subsample": 0.9,
    "colsample_bytree": 0.9,
    "lambda": 1.0,
    "gamma": 0.0,
    "weight_power": 0.25,
}


def policy_with(**tuning: int) -> Policy:
    return POLICY.model_copy(update={"tuning": POLICY.tuning.model_copy(update=tuning)})


SMALL = policy_with(trials=8, workers=2, grace_units=2, max_units=8)


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return made_run(sqlite_settings(tmp_path), "r", ROWS)


def rows_of(folder: RunFolder) -> tune.Rows:
    return tune.Rows(folder.read_frame("frame.parquet"), MODEL_FEATURES)


def search(
    folder: RunFolder, rows: tune.Rows, trials: int = 8, start: tune.WarmStart | None = None
) -> list[tuple[float | None, dict[str, object]]]:
    """Run each worker until it has its share of `trials`; gives all finished trials."""
    policy = policy_with(**SMALL.tuning.model_dump() | {"trials": trials})
    found = []
    for worker in range(policy.tuning.workers):
        study = tune.open_study(folder, worker, policy.tuning)
        tune.start_warm(study, start or tune.WarmStart())
        found += [
            (trial.value, trial.params)
            for trial in tune.search(study, rows, policy, worker, threads=1)
        ]  # fmt: skip
    return found


def trials_of(folder: RunFolder) -> list[FrozenTrial]:
    return [
        trial
        for worker in range(SMALL.tuning.workers)
        for trial in tune.finished_trials(tune.open_study(folder, worker, SMALL.tuning))
    ]


def earlier(
    settings: Settings, run: str, days: int, parameters: dict[str, float | int], drill: str = "none"
) -> None:
    """What the training of an earlier day has left."""
    now = RunFolder(settings, "r").read_model("frame.json", FrameFacts)
    folder = RunFolder(settings, run)
    facts = now.model_copy(update={"run": run, "day": DAY - timedelta(days=days), "drill": drill})
    folder.write_facts("frame.json", facts)
    folder.write_facts(
        "tuning.json",
        tune.Winner(
            parameters=parameters, rounds=8, validation_pr_auc=0.5, trial="0.0", finished=4, pruned=1
        ),
    )


def kill_a_trial(folder: RunFolder) -> None:
    """Leave a trial as a killed worker does: beyond two rungs, and better than any that comes."""
    study = tune.open_study(folder, 0, SMALL.tuning)
    killed = study.ask(tune.SPACE)
    for unit in range(1, 6):
        killed.report(0.99, unit)
        assert not killed.should_prune()
    assert tune.close_open_trials(study) == 1


def test_the_same_seed_gives_the_same_trials_whether_it_was_interrupted_or_not(
    folder: RunFolder, tmp_path: Path
) -> None:
    rows = rows_of(folder)
    whole = search(folder, rows)
    other = made_run(sqlite_settings(tmp_path / "other"), "r", ROWS)
    kill_a_trial(other)
    search(other, rows, trials=3)
    kill_a_trial(other)
    assert search(other, rows) == whole
    assert tune.winner(other, SMALL.tuning) == tune.winner(folder, SMALL.tuning)


@given(
    curves=st.lists(
        st.lists(st.integers(0, 9), min_size=32, max_size=32), min_size=1, max_size=12
    ),
    grace=st.integers(1, 5),
    reduction=st.integers(2, 4),
)  # fmt: skip
def test_halving_stops_what_optuna_s_own_pruner_stops(
    curves: list[list[int]], grace: int, reduction: int
) -> None:
    tuning = policy_with(grace_units=grace, reduction=reduction, max_units=32).tuning
    ends = []
    for pruner in (
        tune.Halving(tuning),
        optuna.pruners.SuccessiveHalvingPruner(min_resource=grace, reduction_factor=reduction),
    ):
        study = optuna.create_study(direction="maximize", pruner=pruner)
        for curve in curves:
            trial = study.ask()
            for unit, value in enumerate(curve, start=1):
                trial.report(float(value), unit)
                if trial.should_prune():
                    study.tell(trial, state=TrialState.PRUNED)
                    break
            else:
                study.tell(trial, float(max(curve)))
        ends.append([len(trial.intermediate_values) for trial in study.get_trials()])
    assert ends[0] == ends[1]


@given(
    st.lists(st.tuples(st.integers(0, 8), st.booleans()), min_size=1).filter(lambda r: any(f for _, f in r))
)
def test_the_pr_auc_of_a_unit_is_that_of_sklearn(rows: list[tuple[int, bool]]) -> None:
    scores = np.array([score for score, _ in rows], dtype=np.float32)
    labels = np.array([fraud for _, fraud in rows], dtype=np.int8)
    assert tune.average_precision(labels, scores) == pytest.approx(average_precision_score(labels, scores))


def test_halving_stops_trials_early_and_keeps_their_curves(folder: RunFolder) -> None:
    search(folder, rows_of(folder))
    trials = trials_of(folder)
    pruned = [trial for trial in trials if trial.state is TrialState.PRUNED]
    assert len(trials) == 8
    assert pruned
    assert {len(trial.intermediate_values) for trial in pruned} <= {2, 4}, "at the rungs only"
    assert all(
        trial.user_attrs["stopped"] == f"pruned at unit {len(trial.intermediate_values)}" for trial in pruned
    )


def test_a_trial_ends_for_the_reason_that_it_names(folder: RunFolder) -> None:
    rows = rows_of(folder)
    patient = policy_with(trials=4, workers=1, grace_units=2, reduction=100, max_units=12, patience_units=3)
    study = tune.open_study(folder, 0, patient.tuning)
    ends = set()
    for trial in tune.search(study, rows, patient, 0, threads=1):
        curve, units = tune.curve_of(trial), len(trial.intermediate_values)
        best = int(np.argmax(curve[1:])) + 2  # none before the grace of two
        ends.add(trial.user_attrs["stopped"])
        if trial.state is TrialState.COMPLETE:
            assert trial.user_attrs["rounds"] == best * patient.tuning.rounds_per_unit
            assert trial.value == curve[best - 1]
        if trial.user_attrs["stopped"] == "nothing gained in 3 units":
            assert units == best + 3
        elif trial.user_attrs["stopped"] == "all units used":
            assert units == 12
        else:
            assert trial.user_attrs["stopped"] == "pruned at unit 2"
            assert units == 2
    assert len(ends) == 2, ends


def test_tuning_never_sees_test_rows(folder: RunFolder) -> None:
    before = search(folder, rows_of(folder), trials=2)
    frame = folder.read_frame("frame.parquet")
    late = frame["role"].isin(["test", "embargo", "gap"])
    frame.loc[late, "is_fraud"] = 1 - frame.loc[late, "is_fraud"]
    frame.loc[late, list(MODEL_FEATURES)] = 1e9
    again = RunFolder(Settings(home=folder.path.parent / "again"), "r")
    again.write_frame("frame.parquet", frame)
    assert search(again, rows_of(again), trials=2) == before


def test_all_workers_together_run_the_policy_s_trials() -> None:
    for trials, workers in ((12, 2), (7, 3), (1, 2)):
        tuning = policy_with(trials=trials, workers=workers).tuning
        assert sum(tune.share_of(worker, tuning) for worker in range(workers)) == trials


def test_a_missing_worker_is_named_before_a_winner_is_chosen(folder: RunFolder) -> None:
    study = tune.open_study(folder, 0, SMALL.tuning)
    for _ in range(4):
        tune.run_trial(study, rows_of(folder), SMALL, 0, threads=1)
    with pytest.raises(SluiceError, match="worker 1 has finished 0 of 4"):
        tune.winner(folder, SMALL.tuning)


def test_the_first_trial_of_every_worker_is_the_last_winner(folder: RunFolder, tmp_path: Path) -> None:
    settings = sqlite_settings(tmp_path)
    earlier(settings, "last_week", 7, BEST)
    start = tune.warm_start_of(folder, settings, DAY)
    warm = search(folder, rows_of(folder), start=start)
    assert warm[0] == warm[4]
    assert warm[0][1] == BEST
    assert [trial.user_attrs.get("warm_start", "") for trial in trials_of(folder)] == [
        *("last_week", "", "", ""),
        *("last_week", "", "", ""),
    ]
    assert tune.winner(folder, SMALL.tuning).warm_start == "last_week"


def test_a_first_training_starts_cold(folder: RunFolder, tmp_path: Path) -> None:
    start = tune.warm_start_of(folder, sqlite_settings(tmp_path), DAY)
    assert start == tune.WarmStart()
    search(folder, rows_of(folder), trials=2, start=start)
    assert tune.winner(folder, policy_with(trials=2, workers=2).tuning).warm_start == ""


@pytest.mark.parametrize(
    ("runs", "chosen"),
    [
        ({"a": (14, "none"), "b": (7, "none")}, "b"),
        ({"a": (7, "none"), "b": (7, "slow")}, "b"),  # well tuned all the same
        ({"a": (14, "none"), "b": (7, "shuffled_labels")}, "a"),
        ({"a": (14, "none"), "b": (0, "none"), "c": (-7, "none")}, "a"),  # the same day, and a later one
        ({"a": (0, "none")}, ""),
    ],
)
def test_it_starts_from_the_newest_run_of_an_earlier_day(
    folder: RunFolder, tmp_path: Path, runs: dict[str, tuple[int, str]], chosen: str
) -> None:
    for name, (days, drill) in runs.items():
        earlier(sqlite_settings(tmp_path), name, days, BEST, drill)
    assert tune.warm_start_of(folder, sqlite_settings(tmp_path), DAY).run == chosen


def test_a_search_that_validated_on_this_run_s_test_days_is_no_start(
    folder: RunFolder, tmp_path: Path
) -> None:
    settings = sqlite_settings(tmp_path)
    earlier(settings, "last_week", 7, BEST)
    other = RunFolder(settings, "last_week")
    facts = other.read_model("frame.json", FrameFacts)
    seen = facts.split.model_copy(update={"fit_last": facts.split.test_first})
    other.write_facts("frame.json", facts.model_copy(update={"split": seen}))
    assert tune.warm_start_of(folder, settings, DAY).run == ""


def test_a_resumed_worker_keeps_its_start_although_a_newer_winner_has_come(
    folder: RunFolder, tmp_path: Path
) -> None:
    settings = sqlite_settings(tmp_path)
    earlier(settings, "last_week", 7, BEST)
    first = tune.warm_start_of(folder, settings, DAY)
    earlier(settings, "yesterday", 1, BEST | {"max_depth": 8})
    assert tune.warm_start_of(folder, settings, DAY) == first


def test_a_full_search_starts_from_nothing_although_there_is_a_winner(
    folder: RunFolder, tmp_path: Path
) -> None:
    settings = sqlite_settings(tmp_path)
    earlier(settings, "last_week", 7, BEST)
    assert tune.warm_start_of(folder, settings, DAY, "full") == tune.WarmStart()


def test_parameters_outside_the_space_of_today_are_dropped_and_named(
    folder: RunFolder, tmp_path: Path
) -> None:
    odd = {"eta": 0.9, "alpha": 1.0, "max_depth": 4.5}
    earlier(sqlite_settings(tmp_path), "last_week", 7, BEST | odd)
    start = tune.warm_start_of(folder, sqlite_settings(tmp_path), DAY)
    assert start.dropped == odd
    found = search(folder, rows_of(folder), trials=2, start=start)[0][1]
    kept = {name: value for name, value in BEST.items() if name not in odd}
    assert found.items() >= kept.items()
    assert set(found) == set(tune.SPACE)


def test_a_last_winner_that_cannot_be_read_stops_no_training(folder: RunFolder, tmp_path: Path) -> None:
    RunFolder(sqlite_settings(tmp_path), "old").write_facts("tuning.json", {"best": 1})
    assert tune.warm_start_of(folder, sqlite_settings(tmp_path), DAY) == tune.WarmStart()


def test_a_warm_trial_that_was_killed_is_the_first_again(folder: RunFolder) -> None:
    start = tune.WarmStart(run="last_week", parameters=BEST)
    study = tune.open_study(folder, 0, SMALL.tuning)
    tune.start_warm(study, start)
    tune.start_warm(study, start)  # a worker killed before it began; the trial waits once
    assert study.ask(tune.SPACE).params == BEST
    assert tune.close_open_trials(study) == 1
    tune.start_warm(study, start)
    trials = list(tune.search(study, rows_of(folder), SMALL, 0, threads=1))
    assert [trial.params == BEST for trial in trials] == [True, False, False, False]


def test_a_worker_killed_in_the_middle_of_its_search_resumes_it_to_the_same_end(
    folder: RunFolder, tmp_path: Path
) -> None:
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from tests.training_support import DAY, sqlite_settings\n"
        "from jobs.training import tune\n"
        "tune.run(tune.Params(day=DAY, run='r', worker=0), sqlite_settings(Path(sys.argv[1])))\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    settings = sqlite_settings(tmp_path)
    earlier(settings, "last_week", 7, BEST)
    worker = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 90
    done = 0
    while done < 2 and time.monotonic() < deadline and worker.poll() is None:
        time.sleep(0.05)
        if (folder.path / "study.journal").exists():
            done = len(tune.finished_trials(tune.open_study(folder, 0, POLICY.tuning)))
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    assert done >= 2
    before = len(tune.finished_trials(tune.open_study(folder, 0, POLICY.tuning)))
    receipt = tune.run(tune.Params(day=DAY, run="r", worker=0), settings)
    assert receipt.rows == 6
    assert receipt.facts["new_trials"] == 6 - before
    assert nested_runs(settings) == [f"trial 0.{index}" for index in range(6)]

    whole = sqlite_settings(tmp_path / "whole")
    other = made_run(whole, "r", ROWS)
    earlier(whole, "last_week", 7, BEST)
    tune.run(tune.Params(day=DAY, run="r", worker=0), whole)
    ends = [
        [
            (trial.params, tune.curve_of(trial), trial.user_attrs)
            for trial in tune.finished_trials(tune.open_study(each, 0, POLICY.tuning))
        ]
        for each in (folder, other)
    ]
    assert ends[0] == ends[1]


def nested_runs(settings: Settings) -> list[str]:
    """Names of the trials that MLflow has, all of them complete."""
    client = tracking_client(settings)
    found = client.search_runs([experiment_id(client, settings.experiment)])
    trials = [run for run in found if "mlflow.parentRunId" in run.data.tags]
    assert {run.info.status for run in trials} == {"FINISHED"}
    return sorted(run.info.run_name for run in trials)


def test_a_trial_that_a_killed_worker_had_not_logged_is_logged_once(
    folder: RunFolder, tmp_path: Path
) -> None:
    settings = sqlite_settings(tmp_path)
    earlier(settings, "last_week", 7, BEST)
    parameters = tune.Params(day=DAY, run="r", worker=0)
    tune.run(parameters, settings)
    client = tracking_client(settings)
    runs = {
        run.info.run_name: run
        for run in client.search_runs([experiment_id(client, settings.experiment)])
    }  # fmt: skip
    assert runs["trial 0.0"].data.tags["sluice.warm_start"] == "last_week"
    assert runs["trial 0.0"].data.params["eta"] == "0.2"
    client.delete_run(runs["trial 0.1"].info.run_id)
    client.update_run(runs["trial 0.2"].info.run_id, status="RUNNING")
    assert tune.run(parameters, settings).facts["new_trials"] == 0
    assert nested_runs(settings) == [f"trial 0.{index}" for index in range(6)]
