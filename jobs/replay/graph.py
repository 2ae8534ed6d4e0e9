"""In which order the jobs of one DAG run, and running them: by what each declares to read and to write.

In: names of jobs, or their calls. Out: the same names, writers before readers, of jobs that may come in any
order the one that is named first; the receipts. A test holds these lists against the tasks of the DAG files.
Errors: SluiceError where jobs wait for each other in a circle.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextvars import copy_context

from jobs.backfill.recipes import RECIPES
from jobs.core import Receipt, SluiceError
from jobs.registry import load_job

Call = Callable[[], Receipt]

# what the DAG of this name runs; those that ingest are declared with their paces in jobs/backfill/recipes.py
TRAINING = (  # the network takes longest: what can run beside it begins after it
    "snapshot_labels", "build_frame", "train_torch", "tune_model", "train_xgboost", "calibrate_model",
    "evaluate_model", "gate_model", "register_model", "offer_version",
)  # fmt: skip
MONITORING = ("measure_drift", "measure_performance", "measure_service", "decide_reaction")
DAGS: dict[str, tuple[str, ...]] = {
    **{dag: tuple(step.job for step in recipe.steps) for dag, recipe in RECIPES.items()},
    "fraud_train": TRAINING,
    "fraud_monitor": MONITORING,
}


def waits_for(jobs: Sequence[str]) -> dict[str, frozenset[str]]:
    """Of each job the others that write what it reads."""
    modules = {name: load_job(name) for name in jobs}
    return {
        name: frozenset(
            other for other in jobs if other != name and set(modules[other].WRITES) & set(module.READS)
        )
        for name, module in modules.items()
    }


def ordered(jobs: Sequence[str]) -> tuple[str, ...]:
    """Jobs in an order in which nobody reads what another of them has still to write.

    Raises:
        SluiceError: there is no such order.
    """
    waits, left, placed = waits_for(jobs), list(jobs), list[str]()
    while left:
        ready = [name for name in left if waits[name] <= set(placed)]
        if not ready:
            raise SluiceError(f"replay: {', '.join(left)} wait for each other: see their READS and WRITES")
        left.remove(ready[0])
        placed.append(ready[0])
    return tuple(placed)


def order_of(dag: str) -> tuple[str, ...]:
    """The jobs of a DAG in their order."""
    return ordered(DAGS[dag])


def run_graph(calls: Mapping[str, Sequence[Call]], at_once: int) -> dict[str, Receipt]:
    """Run jobs as soon as what they read is written, so many calls at once; gives the last receipt of each.

    Raises:
        Exception: what the first job in their order raised. Which jobs have run by then depends on no
            timing: all but those that wait for one that failed.
    """
    jobs = ordered(tuple(calls))
    waits, begun = waits_for(jobs), dict[str, list[Future[Receipt]]]()
    with ThreadPoolExecutor(at_once) as pool:
        while True:
            done = {each for parts in begun.values() for each in parts if each.done()}
            written = {
                name
                for name, parts in begun.items()
                if all(each in done and each.exception() is None for each in parts)
            }
            for name in jobs:
                if name not in begun and waits[name] <= written:
                    begun[name] = [pool.submit(copy_context().run, call) for call in calls[name]]
            running = {each for parts in begun.values() for each in parts} - done
            if not running:
                break
            wait(running, return_when=FIRST_COMPLETED)
    return {name: each.result() for name in jobs for each in begun.get(name, [])}
