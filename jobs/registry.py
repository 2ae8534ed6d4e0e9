"""Every job by name. Modules are imported only when their job is asked for."""

from __future__ import annotations

import ast
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol, cast

from pydantic import ValidationError

from jobs import disk
from jobs.conf.settings import Settings, settings
from jobs.core import JobParams, Receipt, SluiceError

# name of the job -> its module, with Params, READS, WRITES and run(params, settings) -> Receipt
JOBS: dict[str, str] = {
    "simulate_source": "jobs.simulator.simulate",
    "land_transactions": "jobs.ingest.land_transactions",
    "validate_transactions": "jobs.quality.validate_transactions",
    "quarantine_transactions": "jobs.ingest.quarantine_transactions",
    "publish_transactions": "jobs.ingest.publish_transactions",
    "land_labels": "jobs.ingest.land_labels",
    "validate_labels": "jobs.quality.validate_labels",
    "merge_labels": "jobs.ingest.merge_labels",
    "build_features": "jobs.features.build",
    "check_features": "jobs.features.check",
    "materialize_features": "jobs.features.materialize",
    "snapshot_labels": "jobs.training.labels",
    "build_frame": "jobs.training.frame",
    "rebuild_frame": "jobs.training.rebuild_frame",
    "tune_model": "jobs.training.tune",
    "train_xgboost": "jobs.training.train_xgboost",
    "train_torch": "jobs.training.train_torch",
    "calibrate_model": "jobs.training.calibrate",
    "evaluate_model": "jobs.training.evaluate",
    "gate_model": "jobs.training.gate",
    "register_model": "jobs.training.register",
    "offer_version": "jobs.promotion.offer",
    "check_challenger": "jobs.promotion.check",
    "record_approval": "jobs.promotion.approve",
    "start_step": "jobs.promotion.start_step",
    "judge_step": "jobs.promotion.judge_step",
    "promote_champion": "jobs.promotion.promote",
    "confirm_serving": "jobs.promotion.confirm",
    "roll_back": "jobs.promotion.roll_back",
    "check_champion": "jobs.promotion.check_champion",
    "compare_served": "jobs.monitoring.compare_served",
    "measure_drift": "jobs.monitoring.drift",
    "measure_performance": "jobs.monitoring.performance",
    "measure_service": "jobs.monitoring.service",
    "measure_hour": "jobs.monitoring.hour",
    "calibrate_drift": "jobs.monitoring.calibrate_drift",
    "decide_reaction": "jobs.monitoring.reaction",
    "size_experiment": "jobs.experiments.size",
    "read_out_experiment": "jobs.experiments.read_out",
    "score_day": "jobs.batch.score_day",
    "plan_backfill": "jobs.backfill.plan",
    "run_backfill": "jobs.backfill.run",
    "validate_backfill": "jobs.backfill.validate",
    "swap_backfill": "jobs.backfill.swap",
    "abort_backfill": "jobs.backfill.abort",
    "check_freshness": "jobs.monitoring.freshness",
    "compact_tables": "jobs.maintenance.compact_tables",
    "vacuum_tables": "jobs.maintenance.vacuum_tables",
    "expire_data": "jobs.maintenance.expire_data",
    "archive_versions": "jobs.maintenance.archive_versions",
}


class Job(Protocol):
    """What a job module offers."""

    Params: type[JobParams]
    READS: tuple[str, ...]
    WRITES: tuple[str, ...]

    def run(self, params: Any, settings: Settings) -> Receipt: ...


def load_job(name: str) -> Job:
    """The module of a job.

    Raises:
        SluiceError: there is no such job.
    """
    if name not in JOBS:
        raise SluiceError(f"job {name!r}: no such job; `sluice --list` shows them all")
    return cast(Job, import_module(JOBS[name]))


def run_job(name: str, arguments: dict[str, Any]) -> Receipt:
    """Run a job with arguments that are checked against its parameters.

    Raises:
        SluiceError: no such job, an argument is unknown or of the wrong type, or the disk is full.
    """
    job = load_job(name)
    try:
        params = job.Params.model_validate(arguments)
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(str(part) for part in problem["loc"])
        raise SluiceError(f"job {name}: parameter {place}: {problem['msg']}") from None
    try:
        return job.run(params, settings())
    except Exception as error:
        if disk.is_full(error):
            raise SluiceError(disk.sentence(f"job {name}", settings().home)) from None
        raise


def summary(name: str) -> str:
    """First line of a job's docstring, read from its source so that nothing heavy is imported."""
    spec = find_spec(JOBS[name])
    if spec is None or spec.origin is None:
        raise SluiceError(f"job {name}: its module {JOBS[name]} is missing")
    docstring = ast.get_docstring(ast.parse(Path(spec.origin).read_text())) or ""
    return docstring.partition("\n")[0]
