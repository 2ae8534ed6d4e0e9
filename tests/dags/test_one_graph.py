"""The DAGs' edges against what each job says that it reads and writes."""

from __future__ import annotations

from typing import Any

import pytest

from docs.sources import constant_tuple
from jobs.backfill.recipes import RECIPES
from jobs.features.tables import BUILT_TABLES
from jobs.lake import tables as lake_tables
from jobs.registry import JOBS
from jobs.replay.graph import DAGS as REPLAYED
from jobs.replay.graph import order_of, waits_for
from tests.dags.test_dag_integrity import TASKS

CHAINS = ("fraud_ingest", "fraud_labels", "fraud_features", "fraud_train", "fraud_monitor", "fraud_backfill")
# what one DAG leaves for another: the events between them are tested by running them
BETWEEN = {"source", "transactions", "labels", "customer_features", "terminal_features", "predictions"}
BETWEEN |= {"transaction_velocity", "reference", "registry", "merged_labels", "backfills", "quarantine"}


def reads(task: str) -> set[str]:
    return set(constant_tuple(JOBS[task], "READS")) if task in JOBS else set()


def writes(task: str) -> set[str]:
    return set(constant_tuple(JOBS[task], "WRITES")) if task in JOBS else set()


@pytest.mark.parametrize("dag_id", CHAINS)
def test_a_job_runs_below_every_job_that_writes_what_it_reads(dag_bag: Any, dag_id: str) -> None:
    dag = dag_bag.dags[dag_id]
    for reader in TASKS[dag_id]:
        above = dag.get_task(reader).get_flat_relative_ids(upstream=True)
        for writer in TASKS[dag_id]:
            if writer != reader and (writes(writer) & reads(reader)) - BETWEEN:
                assert writer in above, f"{reader} reads {writes(writer) & reads(reader)} of {writer}"


@pytest.mark.parametrize("dag_id", CHAINS)
def test_what_a_job_reads_is_written_in_its_dag_or_comes_from_another(dag_bag: Any, dag_id: str) -> None:
    written = set().union(*(writes(task) for task in TASKS[dag_id]))
    for task in TASKS[dag_id]:
        assert reads(task) <= written | BETWEEN, task


def test_a_backfill_runs_the_tasks_of_the_dag_in_their_order(dag_bag: Any) -> None:
    asked = dag_bag.dags["fraud_backfill"].params.get_param("dag")
    assert asked.schema["enum"] == list(RECIPES)
    for dag_id, recipe in RECIPES.items():
        tasks = [task.task_id for task in dag_bag.dags[dag_id].topological_sort()]
        assert [step.job for step in (*recipe.steps, *recipe.after_swap)] == tasks


def test_a_replay_runs_the_jobs_of_the_dags_in_an_order_that_the_dags_allow(dag_bag: Any) -> None:
    for dag_id, jobs in REPLAYED.items():
        dag = dag_bag.dags[dag_id]
        # traffic is answered from the point-in-time join: nothing is written online, and nothing can differ
        tasks = {task for task in TASKS[dag_id] if task in JOBS} - {"materialize_features", "compare_served"}
        placed = order_of(dag_id)
        assert set(jobs) == set(placed) == tasks
        for place, job in enumerate(placed):
            above = dag.get_task(job).get_flat_relative_ids(upstream=True) & set(placed)
            assert above <= set(placed[:place]), job


def test_a_job_of_a_replay_waits_for_those_that_the_dag_of_a_training_puts_above_it(dag_bag: Any) -> None:
    waits = waits_for(order_of("fraud_train"))
    above = {job: set(waits[job]) for job in waits}
    for job in order_of("fraud_train"):  # writers come before readers
        above[job] |= {far for near in waits[job] for far in above[near]}
        assert above[job] == dag_bag.dags["fraud_train"].get_task(job).get_flat_relative_ids(upstream=True), (
            job
        )
    assert waits["train_torch"] == {"build_frame"}, "it runs beside the search and the trees"


def test_a_backfill_rewrites_the_tables_that_its_jobs_write(dag_bag: Any) -> None:
    tables = {table.name for table in vars(lake_tables).values() if isinstance(table, lake_tables.Table)}
    tables |= {table.name for table in BUILT_TABLES}
    for recipe in RECIPES.values():
        written = set().union(*(writes(step.job) for step in recipe.steps))
        # landing writes its ledger too, which is no artefact that another job waits for
        assert {item.table.name for item in recipe.tables} - {"landed_files"} == written & tables


def test_nothing_is_retrained_or_promoted_by_an_hour(dag_bag: Any) -> None:
    assert {name for name in JOBS if "hourly_monitoring" in reads(name)} == set()
    assert writes("measure_hour") == {"hourly_monitoring"}
    assert [task.outlets for task in dag_bag.dags["fraud_hour"].tasks] == [[]]


def test_every_job_says_what_it_reads_and_writes() -> None:
    for module in JOBS.values():
        assert constant_tuple(module, "WRITES")
        assert isinstance(constant_tuple(module, "READS"), tuple)
