"""The DAGs' edges against what each job says that it reads and writes."""

from __future__ import annotations

from typing import Any

import pytest

from docs.sources import constant_tuple
from jobs.registry import JOBS
from tests.dags.test_dag_integrity import TASKS

CHAINS = ("fraud_ingest", "fraud_labels", "fraud_features", "fraud_train", "fraud_monitor")
# what one DAG leaves for another: the events between them are tested by running them
BETWEEN = {"source", "transactions", "labels", "customer_features", "terminal_features", "predictions"}
BETWEEN |= {"reference", "registry", "merged_labels"}


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


def test_every_job_says_what_it_reads_and_writes() -> None:
    for module in JOBS.values():
        assert constant_tuple(module, "WRITES")
        assert isinstance(constant_tuple(module, "READS"), tuple)
