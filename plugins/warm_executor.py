"""LocalExecutor whose workers have the heavy libraries in memory before their first task.

Tasks are forked from workers, and workers from the scheduler: what the scheduler has imported costs a
task nothing and shares its pages. Only imports happen here: a thread pool that a library starts by
computing would hang in the forked process.
"""

from __future__ import annotations

import gc
import importlib
import time

from airflow.executors.local_executor import LocalExecutor

HEAVY_MODULES = (
    "great_expectations",
    "mlflow",
    "mlflow.pyfunc",
    "feast",
    "feast.infra.compute_engines.local.job",
    "feast.infra.offline_stores.duckdb",
    "redis",
    "ibis.backends.duckdb",
    "pyspark.sql.connect.session",
    "delta",
    "xgboost",
    "torch",
    "optuna",
    "sklearn.linear_model",
    "sklearn.metrics",
    "evidently",
    "evidently.presets",
    "duckdb",
    "deltalake",
    "onnxruntime",
    "onnx",
    "onnxmltools",
    "matplotlib.pyplot",
    "boto3",
    "httpx",
)


class WarmLocalExecutor(LocalExecutor):
    """A LocalExecutor that imports HEAVY_MODULES once, before it forks."""

    def start(self) -> None:
        start = time.monotonic()
        for module in HEAVY_MODULES:
            importlib.import_module(module)
        self.log.info("imported %d libraries in %.1f s", len(HEAVY_MODULES), time.monotonic() - start)
        gc.collect()
        super().start()
