"""Job tune_model: one worker's share of the search for XGBoost's parameters, by successive halving.

In: training frame (its tuning and validation rows, no other); policy.tuning; the winner of an earlier run.
Out: study.journal (Optuna's journal, one study per worker), a nested MLflow run per finished trial,
    warm_start.json (what the search started from, for all workers).
Budget: policy.tuning.trials over all workers. One unit is rounds_per_unit boosting rounds; a trial is
    stopped at the halving rungs, or when patience_units brought nothing.
Each worker searches in a study of its own, seeded by its index and by the number of trials that it has
    finished: what the other worker happens to have finished by then changes nothing, so the same seed
    gives the same result, also after a kill. Trials that a killed worker left open are closed as failed
    and repeated; what they reported counts nowhere.
The first trial of each study is the last winner: of the newest run of an earlier day whose labels were not
    shuffled. Runs of the same day start from the same winner, so they find the same.
Errors: SluiceError where the worker's index is outside the policy's workers, or MLflow does not answer.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from datetime import date
from itertools import chain
from typing import Any

import numpy as np
import optuna
import pandas as pd
import xgboost
from optuna.distributions import FloatDistribution, IntDistribution
from optuna.pruners import BasePruner
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial, TrialState
from pydantic import Field
from xgboost.callback import TrainingCallback

from jobs.conf.policy import Policy, Start, Tuning, policy_of
from jobs.conf.settings import Settings
from jobs.core import Receipt, SluiceError, Stopwatch, StrictModel
from jobs.training.boosting import boost, training_matrix
from jobs.training.frame import TUNING, VALIDATION, FrameFacts, matrix_of, role_rows
from jobs.training.run_folder import RunFolder, TrainingParams
from jobs.training.tracking import log_trial, logged_trials, parent_run, tracking_client

READS = ("training_frame",)
WRITES = ("study",)

FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)
WARM_START = "warm_start"
WARM_START_FILE = "warm_start.json"

# what is searched
SPACE: dict[str, FloatDistribution | IntDistribution] = {
    "max_depth": IntDistribution(3, 8),
    "eta": FloatDistribution(0.1, 0.3, log=True),  # lower ones need more rounds than there are
    "min_child_weight": FloatDistribution(1.0, 30.0, log=True),
    "subsample": FloatDistribution(0.6, 1.0),
    "colsample_bytree": FloatDistribution(0.5, 1.0),
    "lambda": FloatDistribution(0.1, 20.0, log=True),
    "gamma": FloatDistribution(0.0, 2.0),
    "weight_power": FloatDistribution(0.0, 0.7),
}

optuna.logging.set_verbosity(optuna.logging.WARNING)


class Params(TrainingParams):
    """Which run, and which of the policy's workers this is."""

    worker: int = Field(0, ge=0, description="index of the worker, from 0")
    start: Start = Field("warm", description="warm: the first trial is the last winner; full: from nothing")


class Winner(StrictModel):
    """The best finished trial of all workers."""

    parameters: dict[str, float | int]
    rounds: int
    validation_pr_auc: float
    trial: str
    finished: int
    pruned: int
    warm_start: str = Field(
        "", description="the run whose winner the search started from; none for the first"
    )


class WarmStart(StrictModel):
    """The winner that the search starts from; without a run there was none."""

    run: str = ""
    parameters: dict[str, float | int] = {}
    dropped: dict[str, float | int] = {}  # outside the space of today


class Rows:
    """What a trial sees: tuning rows to fit on, validation rows to be judged on."""

    def __init__(self, frame: pd.DataFrame, features: tuple[str, ...]) -> None:
        tuning, validation = role_rows(frame, TUNING), role_rows(frame, VALIDATION)
        self.matrix = matrix_of(tuning, features)
        self.labels = tuning["training_label"].to_numpy()
        self.weights = tuning["weight"].to_numpy()
        self.held_matrix = matrix_of(validation, features)
        self.held_labels = validation["is_fraud"].to_numpy()
        self._binned: tuple[int, xgboost.QuantileDMatrix, xgboost.DMatrix] | None = None

    def binned(self, threads: int) -> tuple[xgboost.QuantileDMatrix, xgboost.DMatrix]:
        """The tuning and the validation rows as XGBoost keeps them, made once for all trials."""
        if self._binned is None or self._binned[0] != threads:
            data = training_matrix(self.matrix, self.labels, threads, self.weights)
            self._binned = threads, data, xgboost.DMatrix(self.held_matrix, nthread=threads)
        return self._binned[1:]


def average_precision(labels: np.ndarray, scores: np.ndarray) -> float:
    """PR-AUC as scikit-learn has it, in a tenth of the time: it is asked for after every few trees."""
    frauds = np.sort(scores[labels == 1])
    flagged = len(scores) - np.searchsorted(np.sort(scores), frauds)
    caught = len(frauds) - np.searchsorted(frauds, frauds)
    return float(np.mean(caught / flagged))


class Halving(BasePruner):  # type: ignore[misc]  # the package has no types
    """Successive halving as Optuna's own pruner does it, among the finished trials only.

    Optuna's also counts what a killed trial had reached: it would compete with its own repetition, and a
    search that was killed would end elsewhere than one that was not.
    """

    def __init__(self, tuning: Tuning) -> None:
        self.reduction = tuning.reduction
        rungs = range(tuning.max_units.bit_length())
        self.rungs = {tuning.grace_units * tuning.reduction**rung for rung in rungs}

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        unit = trial.last_step
        if unit is None or unit not in self.rungs:
            return False
        curves = [other.intermediate_values for other in finished_trials(study)]
        rivals = [curve[unit] for curve in curves if unit in curve]
        better = sum(rival > trial.intermediate_values[unit] for rival in rivals)
        return bool(better >= max(1, (1 + len(rivals)) // self.reduction))


class UnitCallback(TrainingCallback):  # type: ignore[misc]  # the package has no types
    """Reports the validation's PR-AUC after each unit and stops a trial that is not worth more."""

    def __init__(self, trial: optuna.Trial, rows: Rows, tuning: Tuning, threads: int) -> None:
        super().__init__()
        self.trial = trial
        self.rounds_per_unit = tuning.rounds_per_unit
        self.grace = tuning.grace_units
        self.max_units = tuning.max_units
        self.patience = tuning.patience_units
        self.labels = rows.held_labels
        _, self.held = rows.binned(threads)
        self.curve: list[float] = []
        self.stopped = "all units used"

    def after_iteration(self, model: Any, epoch: int, evals_log: Any) -> bool:
        del evals_log
        if (epoch + 1) % self.rounds_per_unit:
            return False
        # the booster keeps the margins of a matrix that it has seen, so each unit costs its new trees only
        self.curve.append(average_precision(self.labels, model.predict(self.held)))
        unit = len(self.curve)
        self.trial.report(self.curve[-1], unit)
        if unit < self.max_units and self.trial.should_prune():
            self.stopped = f"pruned at unit {unit}"
            return True
        if unit - self.best_unit >= self.patience:
            self.stopped = f"nothing gained in {self.patience} units"
            return True
        return False

    @property
    def best_unit(self) -> int:
        """The best unit, from 1; none before the grace: so few trees win by luck only."""
        first = min(self.grace, len(self.curve)) - 1
        return first + int(np.argmax(self.curve[first:])) + 1


def last_winner(folder: RunFolder, settings: Settings, day: date) -> WarmStart:
    """The winner of the newest run of an earlier day; of several of that day, the last by name.

    A search that validated on days that are this run's test has seen test rows: it is passed over.
    """
    test_first = folder.read_model("frame.json", FrameFacts).split.test_first
    found: list[tuple[date, str, Winner]] = []
    for path in folder.path.parent.glob("*/tuning.json"):
        other = RunFolder(settings, path.parent.name)
        try:
            facts, best = other.read_model("frame.json", FrameFacts), other.read_model("tuning.json", Winner)
        except SluiceError:
            continue  # another release wrote it: not worth failing for
        unseen = facts.split.fit_last < test_first
        if facts.day < day and unseen and facts.drill != "shuffled_labels":
            found.append((facts.day, other.run, best))
    if not found:
        return WarmStart()
    _, run, best = max(found, key=lambda each: each[:2])
    kept = {name: value for name, value in best.parameters.items() if is_searched(name, value)}
    dropped = {name: value for name, value in best.parameters.items() if name not in kept}
    return WarmStart(run=run, parameters=kept, dropped=dropped)


def is_searched(name: str, value: float) -> bool:
    """Whether the space of today has this value."""
    space = SPACE.get(name)
    if space is None or (isinstance(space, IntDistribution) and not isinstance(value, int)):
        return False
    return bool(space.low <= value <= space.high)


def warm_start_of(folder: RunFolder, settings: Settings, day: date, start: Start = "warm") -> WarmStart:
    """What this run starts from: chosen by the first worker that asks, and kept."""
    with folder.lock(WARM_START):
        if not (folder.path / WARM_START_FILE).exists():
            begun = last_winner(folder, settings, day) if start == "warm" else WarmStart()
            folder.write_facts(WARM_START_FILE, begun)
        return folder.read_model(WARM_START_FILE, WarmStart)


def start_warm(study: optuna.Study, start: WarmStart) -> None:
    """Make the last winner the study's first trial, unless one has finished or it waits already."""
    if start.parameters and not study.get_trials(deepcopy=False, states=(*FINISHED, TrialState.WAITING)):
        study.enqueue_trial(start.parameters, user_attrs={WARM_START: start.run})


def share_of(worker: int, tuning: Tuning) -> int:
    """How many of the policy's trials are this worker's."""
    return tuning.trials // tuning.workers + (1 if worker < tuning.trials % tuning.workers else 0)


def open_study(folder: RunFolder, worker: int, tuning: Tuning) -> optuna.Study:
    """A worker's study in the run's journal, made where it is not there yet."""
    path = str(folder.file("study.journal"))
    with folder.lock("study"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the journal's own notes on its maturity
            backend = JournalFileBackend(path, lock_obj=JournalFileOpenLock(path))
            storage = optuna.storages.JournalStorage(backend)
        return optuna.create_study(
            storage=storage,
            study_name=f"worker-{worker}",
            direction="maximize",
            load_if_exists=True,
            pruner=Halving(tuning),
        )


def finished_trials(study: optuna.Study) -> list[FrozenTrial]:
    """Trials that count towards the budget."""
    trials: list[FrozenTrial] = study.get_trials(deepcopy=False, states=FINISHED)
    return trials


def curve_of(trial: FrozenTrial) -> list[float]:
    """Validation PR-AUC after each unit."""
    return [value for _, value in sorted(trial.intermediate_values.items())]


def close_open_trials(study: optuna.Study) -> int:
    """Fail what a killed worker left running; the caller holds the worker's lock, so nobody runs them."""
    left = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    for trial in left:
        study.tell(trial.number, state=TrialState.FAIL)
    return len(left)


def trial_name(worker: int, index: int) -> str:
    """Name of a worker's finished trial, from 0."""
    return f"{worker}.{index}"


def run_trial(study: optuna.Study, rows: Rows, policy: Policy, worker: int, threads: int) -> FrozenTrial:
    """Ask for parameters, boost, tell the result."""
    tuning = policy.tuning
    index = len(finished_trials(study))
    seed = policy.training.seeds[0] * 10_000 + worker * 1_000 + index
    study.sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=tuning.random_trials)
    trial = study.ask(SPACE)
    callback = UnitCallback(trial, rows, tuning, threads)
    data, _ = rows.binned(threads)
    boost(
        data,
        rows.labels,
        trial.params,
        tuning.max_units * tuning.rounds_per_unit,
        seed=policy.training.seeds[0],
        threads=threads,
        callbacks=[callback],
    )
    trial.set_user_attr("rounds", callback.best_unit * tuning.rounds_per_unit)
    trial.set_user_attr("stopped", callback.stopped)
    if callback.stopped.startswith("pruned"):
        return study.tell(trial, state=TrialState.PRUNED)
    return study.tell(trial, callback.curve[callback.best_unit - 1])


def search(
    study: optuna.Study, rows: Rows, policy: Policy, worker: int, threads: int
) -> Iterator[FrozenTrial]:
    """The finished trials of a worker's share: those that are there, then new ones."""
    there = finished_trials(study)
    missing = share_of(worker, policy.tuning) - len(there)
    return chain(there, (run_trial(study, rows, policy, worker, threads) for _ in range(missing)))


def winner(folder: RunFolder, tuning: Tuning) -> Winner:
    """The best trial of all workers; a tie goes to the lower worker and the earlier trial.

    Raises:
        SluiceError: a worker has not finished its share.
    """
    folder.existing("study.journal")
    best: tuple[float, str, FrozenTrial] | None = None
    finished = pruned = 0
    for worker in range(tuning.workers):
        study = open_study(folder, worker, tuning)
        trials = finished_trials(study)
        if len(trials) < share_of(worker, tuning):
            raise SluiceError(
                f"training run {folder.run}: worker {worker} has finished {len(trials)} of "
                f"{share_of(worker, tuning)} trials; run tune_model with worker {worker} again"
            )
        finished += len(trials)
        for index, trial in enumerate(trials):
            if trial.state is TrialState.PRUNED:
                pruned += 1
            elif best is None or float(trial.value or 0.0) > best[0]:
                best = (float(trial.value or 0.0), trial_name(worker, index), trial)
    if best is None:
        raise SluiceError(f"training run {folder.run}: no trial was completed; tune again with more trials")
    value, name, trial = best
    known = (folder.path / WARM_START_FILE).exists()
    return Winner(
        parameters=dict(trial.params),
        rounds=int(trial.user_attrs["rounds"]),
        validation_pr_auc=value,
        trial=name,
        finished=finished,
        pruned=pruned,
        warm_start=folder.read_model(WARM_START_FILE, WarmStart).run if known else "",
    )


def run(params: Params, settings: Settings) -> Receipt:
    watch = Stopwatch()
    policy = policy_of(settings)
    tuning = policy.tuning
    if params.worker >= tuning.workers:
        raise SluiceError(
            f"tune_model: worker {params.worker} does not exist; policy.tuning.workers is {tuning.workers}"
        )
    folder = RunFolder(settings, params.run)
    facts = folder.read_model("frame.json", FrameFacts)
    wanted = ["role", "weight", "is_fraud", "training_label", *facts.features]
    rows = Rows(folder.read_frame("frame.parquet", wanted), facts.features)
    client = tracking_client(settings)
    parent_run(client, settings, folder, str(params.day), facts.drill)
    threads = max(1, (os.cpu_count() or 1) // tuning.workers)
    start = warm_start_of(folder, settings, params.day, params.start)
    with folder.lock(f"worker-{params.worker}"):
        study = open_study(folder, params.worker, tuning)
        repeated = close_open_trials(study)
        start_warm(study, start)
        before = len(finished_trials(study))
        logged = logged_trials(client, folder, f"trial {params.worker}.")
        trials = []
        for index, trial in enumerate(search(study, rows, policy, params.worker, threads)):
            name = f"trial {trial_name(params.worker, index)}"
            if name not in logged:  # a worker that is killed in between has told its study and not MLflow
                log_trial(
                    client,
                    folder,
                    name,
                    params=trial.params,
                    curve=curve_of(trial),
                    rounds_per_unit=tuning.rounds_per_unit,
                    stopped=trial.user_attrs["stopped"],
                    warm_start=trial.user_attrs.get(WARM_START, ""),
                )
            trials.append(trial)
    best = max((trial.value or 0.0 for trial in trials if trial.state is TrialState.COMPLETE), default=0.0)
    units = sum(len(trial.intermediate_values) for trial in trials[before:])
    return Receipt(
        job="tune_model",
        table="study",
        partition=params.run,
        rows=len(trials),
        seconds=watch.seconds,
        facts={
            "worker": params.worker,
            "new_trials": len(trials) - before,
            "repeated": repeated,
            "pruned": sum(trial.state is TrialState.PRUNED for trial in trials),
            "rounds": units * tuning.rounds_per_unit,
            "best_validation_pr_auc": round(float(best), 6),
            "warm_start": start.run,
            "dropped": start.dropped,
        },
    )
