"""Job tune_model: one worker's share of the search for XGBoost's parameters, by successive halving.

In: training frame (its tuning and validation rows, no other); policy.tuning.
Out: study.journal (Optuna's journal, one study per worker), a nested MLflow run per finished trial.
Budget: policy.tuning.trials over all workers. One unit is rounds_per_unit boosting rounds; a trial is
    stopped at the halving rungs, or when PATIENCE units brought nothing.
Each worker searches in a study of its own, seeded by its index and by the number of trials that it has
    finished: what the other worker happens to have finished by then changes nothing, so the same seed
    gives the same result, also after a kill. Trials that a killed worker left open are closed as failed
    and repeated.
Errors: SluiceError where the worker's index is outside the policy's workers, or MLflow does not answer.
"""

from __future__ import annotations

import os
import warnings
from typing import Any

import numpy as np
import optuna
import pandas as pd
import xgboost
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial, TrialState
from pydantic import Field
from sklearn.metrics import average_precision_score
from xgboost.callback import TrainingCallback

from jobs.conf.policy import Policy, Tuning, policy_of
from jobs.conf.settings import Settings
from jobs.core import Receipt, SluiceError, Stopwatch, StrictModel
from jobs.training.boosting import fit_booster
from jobs.training.frame import TUNING, VALIDATION, FrameFacts, matrix_of, role_rows
from jobs.training.run_folder import RunFolder, TrainingParams
from jobs.training.tracking import log_trial, parent_run, tracking_client

READS = ("training_frame",)
WRITES = ("study",)

PATIENCE_UNITS = 10
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)

optuna.logging.set_verbosity(optuna.logging.WARNING)


class Params(TrainingParams):
    """Which run, and which of the policy's workers this is."""

    worker: int = Field(0, ge=0, description="index of the worker, from 0")


class Winner(StrictModel):
    """The best finished trial of all workers."""

    parameters: dict[str, float | int]
    rounds: int
    validation_pr_auc: float
    trial: str
    finished: int
    pruned: int


class Rows:
    """What a trial sees: tuning rows to fit on, validation rows to be judged on."""

    def __init__(self, frame: pd.DataFrame, features: tuple[str, ...]) -> None:
        tuning, validation = role_rows(frame, TUNING), role_rows(frame, VALIDATION)
        self.matrix = matrix_of(tuning, features)
        self.labels = tuning["training_label"].to_numpy()
        self.held_matrix = matrix_of(validation, features)
        self.held_labels = validation["is_fraud"].to_numpy()


class UnitCallback(TrainingCallback):  # type: ignore[misc]  # the package has no types
    """Reports the validation's PR-AUC after each unit and stops a trial that is not worth more."""

    def __init__(self, trial: optuna.Trial, rows: Rows, tuning: Tuning, threads: int) -> None:
        super().__init__()
        self.trial = trial
        self.rounds_per_unit = tuning.rounds_per_unit
        self.grace = tuning.grace_units
        self.max_units = tuning.max_units
        self.labels = rows.held_labels
        self.held = xgboost.DMatrix(rows.held_matrix, nthread=threads)
        self.curve: list[float] = []
        self.stopped = "all units used"

    def after_iteration(self, model: Any, epoch: int, evals_log: Any) -> bool:
        del evals_log
        if (epoch + 1) % self.rounds_per_unit:
            return False
        # the booster keeps the margins of a matrix that it has seen, so each unit costs its new trees only
        score = average_precision_score(self.labels, model.predict(self.held))
        self.curve.append(float(score))
        unit = len(self.curve)
        self.trial.report(self.curve[-1], unit)
        if unit < self.max_units and self.trial.should_prune():
            self.stopped = f"pruned at unit {unit}"
            return True
        if unit - self.best_unit >= PATIENCE_UNITS:
            self.stopped = f"nothing gained in {PATIENCE_UNITS} units"
            return True
        return False

    @property
    def best_unit(self) -> int:
        """The best unit, from 1; none before the grace: so few trees win by luck only."""
        first = min(self.grace, len(self.curve)) - 1
        return first + int(np.argmax(self.curve[first:])) + 1


def suggest(trial: optuna.Trial) -> dict[str, float | int]:
    """The space that is searched."""
    return {
        "max_depth": trial.suggest_int("max_depth", 3, 8),
        "eta": trial.suggest_float("eta", 0.03, 0.3, log=True),
        "min_child_weight": trial.suggest_float("min_child_weight", 1.0, 30.0, log=True),
        "subsample": trial.suggest_float("subsample", 0.6, 1.0),
        "colsample_bytree": trial.suggest_float("colsample_bytree", 0.5, 1.0),
        "lambda": trial.suggest_float("lambda", 0.1, 20.0, log=True),
        "gamma": trial.suggest_float("gamma", 0.0, 2.0),
        "weight_power": trial.suggest_float("weight_power", 0.0, 0.7),
    }


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
            pruner=optuna.pruners.SuccessiveHalvingPruner(
                min_resource=tuning.grace_units, reduction_factor=tuning.reduction
            ),
        )


def finished_trials(study: optuna.Study) -> list[FrozenTrial]:
    """Trials that count towards the budget."""
    trials: list[FrozenTrial] = study.get_trials(deepcopy=False, states=FINISHED)
    return trials


def close_open_trials(study: optuna.Study) -> int:
    """Fail what a killed worker left running; the caller holds the worker's lock, so nobody runs them."""
    left = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    for trial in left:
        study.tell(trial.number, state=TrialState.FAIL)
    return len(left)


def run_trial(
    study: optuna.Study, rows: Rows, policy: Policy, worker: int, threads: int
) -> tuple[str, UnitCallback, dict[str, float | int]]:
    """Ask for parameters, boost, tell the result."""
    tuning = policy.tuning
    index = len(finished_trials(study))
    seed = policy.training.seeds[0] * 10_000 + worker * 1_000 + index
    study.sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=min(5, tuning.trials))
    trial = study.ask()
    chosen = suggest(trial)
    callback = UnitCallback(trial, rows, tuning, threads)
    fit_booster(
        rows.matrix,
        rows.labels,
        chosen,
        tuning.max_units * tuning.rounds_per_unit,
        seed=policy.training.seeds[0],
        threads=threads,
        callbacks=[callback],
    )
    trial.set_user_attr("rounds", callback.best_unit * tuning.rounds_per_unit)
    trial.set_user_attr("stopped", callback.stopped)
    if callback.stopped.startswith("pruned"):
        study.tell(trial, state=TrialState.PRUNED)
    else:
        study.tell(trial, callback.curve[callback.best_unit - 1])
    return f"trial {worker}.{index}", callback, chosen


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
        for trial in trials:
            if trial.state is TrialState.PRUNED:
                pruned += 1
            elif best is None or float(trial.value or 0.0) > best[0]:
                best = (float(trial.value or 0.0), f"{worker}.{trial.number}", trial)
    if best is None:
        raise SluiceError(f"training run {folder.run}: no trial was completed; tune again with more trials")
    value, name, trial = best
    return Winner(
        parameters=dict(trial.params),
        rounds=int(trial.user_attrs["rounds"]),
        validation_pr_auc=value,
        trial=name,
        finished=finished,
        pruned=pruned,
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
    wanted = ["role", "is_fraud", "training_label", *facts.features]
    rows = Rows(folder.read_frame("frame.parquet", wanted), facts.features)
    client = tracking_client(settings)
    parent_run(client, settings, folder, str(params.day), facts.drill)
    threads = max(1, (os.cpu_count() or 1) // tuning.workers)
    done = rounds = 0
    with folder.lock(f"worker-{params.worker}"):
        study = open_study(folder, params.worker, tuning)
        repeated = close_open_trials(study)
        while len(finished_trials(study)) < share_of(params.worker, tuning):
            name, callback, chosen = run_trial(study, rows, policy, params.worker, threads)
            log_trial(
                client,
                folder,
                name,
                params=chosen,
                curve=callback.curve,
                rounds_per_unit=tuning.rounds_per_unit,
                stopped=callback.stopped,
            )
            done += 1
            rounds += len(callback.curve) * tuning.rounds_per_unit
        trials = finished_trials(study)
    best = max((trial.value or 0.0 for trial in trials if trial.state is TrialState.COMPLETE), default=0.0)
    return Receipt(
        job="tune_model",
        table="study",
        partition=params.run,
        rows=len(trials),
        seconds=watch.seconds,
        facts={
            "worker": params.worker,
            "new_trials": done,
            "repeated": repeated,
            "pruned": sum(trial.state is TrialState.PRUNED for trial in trials),
            "rounds": rounds,
            "best_validation_pr_auc": round(float(best), 6),
        },
    )
