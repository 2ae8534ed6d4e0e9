"""In which order the jobs of one DAG run: by what each declares to read and to write.

In: names of jobs. Out: the same names, writers before readers; of jobs that may come in any order the one
that the DAG names first comes first. A test holds these lists against the tasks of the DAG files.
Errors: SluiceError where jobs wait for each other in a circle.
"""

from __future__ import annotations

from collections.abc import Sequence

from jobs.backfill.recipes import RECIPES
from jobs.core import SluiceError
from jobs.registry import load_job

# what the DAG of this name runs; those that ingest are declared with their paces in jobs/backfill/recipes.py
TRAINING = (
    "snapshot_labels", "build_frame", "tune_model", "train_xgboost", "train_torch", "calibrate_model",
    "evaluate_model", "gate_model", "register_model", "offer_version",
)  # fmt: skip
MONITORING = ("measure_drift", "measure_performance", "measure_service", "decide_reaction")
DAGS: dict[str, tuple[str, ...]] = {
    **{dag: tuple(step.job for step in recipe.steps) for dag, recipe in RECIPES.items()},
    "fraud_train": TRAINING,
    "fraud_monitor": MONITORING,
}


def _ready(left: Sequence[str]) -> tuple[str, ...]:
    """Those jobs that read nothing which another one of them has still to write."""
    modules = {name: load_job(name) for name in left}
    unwritten = {name: set(module.WRITES) for name, module in modules.items()}
    return tuple(
        name
        for name in left
        if not any(unwritten[other] & set(modules[name].READS) for other in left if other != name)
    )


def ordered(jobs: Sequence[str]) -> tuple[str, ...]:
    """Jobs in an order in which nobody reads what another of them has still to write.

    Raises:
        SluiceError: there is no such order.
    """
    left, placed = list(jobs), []
    while left:
        ready = _ready(left)
        if not ready:
            raise SluiceError(f"replay: {', '.join(left)} wait for each other: see their READS and WRITES")
        left.remove(ready[0])
        placed.append(ready[0])
    return tuple(placed)


def order_of(dag: str) -> tuple[str, ...]:
    """The jobs of a DAG in their order."""
    return ordered(DAGS[dag])


def side_by_side(dag: str) -> tuple[tuple[str, ...], ...]:
    """The jobs of a DAG in groups: those of one wait for groups before it, and not for each other."""
    groups: list[tuple[str, ...]] = []
    left = order_of(dag)
    while left:
        group = _ready(left)
        groups.append(group)
        left = tuple(name for name in left if name not in group)
    return tuple(groups)
