"""The tuning's mapped tasks, the policy that counts them and the pool that runs them agree."""

from __future__ import annotations

from typing import Any

from jobs.conf.policy import load_policy
from plugins.pools import POOLS, TRAINING_POOL


def test_the_tuning_runs_once_for_each_worker_of_the_policy(dag_bag: Any) -> None:
    task = dag_bag.dags["fraud_train"].get_task("tune_model")
    expected = [{"worker": worker} for worker in range(load_policy().tuning.workers)]
    assert task.expand_input.value["mapped"] == expected


def test_the_pool_has_a_slot_for_each_worker() -> None:
    assert POOLS[TRAINING_POOL]["slots"] == load_policy().tuning.workers
