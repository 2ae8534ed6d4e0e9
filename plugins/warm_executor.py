"""LocalExecutor whose workers have the heavy libraries in memory before their first task.

Tasks are forked from workers, and workers from the scheduler: what the scheduler has imported costs a
task nothing and shares its pages. Celery's workers import the same list themselves, see stack/environment.py.
"""

from __future__ import annotations

import gc
import importlib
import time

from airflow.executors.local_executor import LocalExecutor

from plugins.heavy_modules import HEAVY_MODULES


class WarmLocalExecutor(LocalExecutor):
    """A LocalExecutor that imports HEAVY_MODULES once, before it forks."""

    def start(self) -> None:
        start = time.monotonic()
        for module in HEAVY_MODULES:
            importlib.import_module(module)
        self.log.info("imported %d libraries in %.1f s", len(HEAVY_MODULES), time.monotonic() - start)
        gc.collect()
        super().start()
