"""Promotions of good and of faulty versions by the hundred: false rollbacks, and when a fault is caught."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from statistics import mean

from tests import promotion_logs, promotion_trials
from tests.promotion_logs import GOOD
from tests.promotion_trials import FAULTY, Ended

SECONDS_ALLOWED = 10.0  # from the start of the step that shows the fault
FALSE_SHARE_ALLOWED = 0.02


def ended(promotion: Callable[[int, str], Ended], kind: str, seeds: Iterable[int]) -> list[Ended]:
    """How the promotions of these seeds ended, on all cores."""
    chosen = list(seeds)
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn")) as pool:
        return list(pool.map(promotion, chosen, [kind] * len(chosen), chunksize=4))


def run(trials: int) -> dict[str, float]:
    """So many promotions of each kind of good version on a log, a tenth as many of each fault.

    Gives for each good kind the share that was rolled back and the looks of one promotion; for each fault the
    share that became champion and the longest time from the start of the step to its rollback, in seconds.
    """
    figures: dict[str, float] = {}
    for kind in GOOD:
        found = ended(promotion_logs.promotion, kind, range(trials))
        figures[f"{kind}: share rolled back"] = mean(bool(each.step) for each in found)
        figures[f"{kind}: looks of a promotion"] = mean(each.looks for each in found)
    for fault in FAULTY:
        found = ended(promotion_trials.promotion, fault, range(max(1, trials // 10)))
        figures[f"{fault}: share missed"] = mean(not each.step for each in found)
        figures[f"{fault}: seconds at most"] = max(each.seconds for each in found)
    return figures


def problems(figures: dict[str, float]) -> list[str]:
    """Which figures miss their goals."""
    allowed = {
        "share rolled back": FALSE_SHARE_ALLOWED,
        "share missed": 0.0,
        "seconds at most": SECONDS_ALLOWED,
    }
    return [
        f"{name}: {value:g}, allowed {allowed[what]:g}"
        for name, value in figures.items()
        if (what := name.partition(": ")[2]) in allowed and value > allowed[what]
    ]
