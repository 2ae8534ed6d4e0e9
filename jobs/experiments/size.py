"""Job size_experiment: how many customers an experiment needs, from what a variant's came to before.

In: prediction log, transactions and labels of the matured days of a window; the smallest relative change
worth finding; the share of customers that the treatment will get.
Out: the day's rows of the table experiment_sizes: customers of each arm for each metric, with the policy's
alpha divided by the number of metrics (what Holm grants the first of them for certain), its power and its
looks.
A metric that is 0 or unknown in the window has no size, and says so. A ratio or PR-AUC goes by the
deviation of one customer's part in it.
Errors: SluiceError where the variant answered nobody in the window, or chargebacks of it are missing.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from pydantic import Field

from jobs.conf.contract import contract_of
from jobs.conf.policy import Experiments, policy_of
from jobs.conf.settings import Settings
from jobs.core import DayParams, Receipt, SluiceError, Stopwatch
from jobs.evaluation.labels import matured_days, named_days
from jobs.experiments.customers import Assigned, halves, per_customer
from jobs.experiments.inputs import figures_before, frauds_known, label_days_missing, log_of
from jobs.experiments.metrics import METRICS, Reading, read_metrics
from jobs.experiments.read_out import VARIANT
from jobs.experiments.sample_size import Sizes, for_means, for_proportions
from jobs.experiments.sequential import inflation
from jobs.lake.store import conform, content_digest, lake_of
from jobs.lake.tables import EXPERIMENT_SIZES

READS: tuple[str, ...] = ("predictions", "transactions", "labels", "merged_labels")
WRITES: tuple[str, ...] = ("experiment_sizes",)


class Params(DayParams):
    """What is to be found; `day` says whose evening's labels count."""

    days: int = Field(28, ge=1, le=365, description="as many matured days, also the length of the experiment")
    change: float = Field(0.1, gt=-1, description="smallest change worth finding, as a share of the figure")
    percent: int = Field(50, ge=1, le=99, description="customers meant for the treatment, in percent")
    variant: str = Field("champion", pattern=VARIANT, description="whose answers are the base")


def needed(reading: Reading, params: Params, policy: Experiments, factor: float) -> Sizes:
    """Customers of each arm to find the change of one metric; `factor` is what the looks cost."""
    change = reading.pooled * params.change
    terms = {"alpha": policy.alpha / len(METRICS), "power": policy.power, "share": params.percent / 100}
    if reading.metric.test.startswith("two-proportion"):
        return for_proportions(reading.pooled, change, factor=factor, **terms)
    return for_means(reading.deviation, change, factor=factor, **terms)


def row_of(
    reading: Reading, assigned: Assigned, params: Params, policy: Experiments, factor: float
) -> dict[str, object]:
    """One metric's row."""
    row: dict[str, object] = {
        "day": params.day, "metric": reading.metric.name, "change": params.change, "percent": params.percent,
        "seen_customers": sum(assigned.customers), "note": reading.note,
    }  # fmt: skip
    if not reading.pooled > 0 or not np.isfinite(reading.deviation):
        return row | {"note": reading.note or "0 in the window: no change of it can be planned for"}
    sizes = needed(reading, params, policy, factor)
    return row | {
        "base": reading.pooled, "deviation": reading.deviation,
        "control_customers": sizes.control, "treatment_customers": sizes.treatment,
    }  # fmt: skip


def run(params: Params, settings: Settings) -> Receipt:
    watch = Stopwatch()
    lake, policy, feed = lake_of(settings), policy_of(settings), contract_of(settings).labels
    if params.change == 0:
        raise SluiceError("size_experiment: a change of 0 cannot be found")
    first, last = matured_days(params.day, feed.maturity_days, params.days)
    missing = label_days_missing(lake, first, last, feed)
    if missing:
        raise SluiceError(
            f"size_experiment: the chargebacks of {named_days(missing)} are not merged; run fraud_labels "
            "for them"
        )
    assigned = halves(log_of(lake, first, last), params.variant, params.percent)
    if not all(assigned.customers):
        raise SluiceError(
            f"size_experiment: {params.variant} answered {sum(assigned.customers)} customers from {first} to "
            f"{last}"
        )
    frauds = frauds_known(lake, first, params.day)
    customers = per_customer(assigned.answers, frauds)
    before = figures_before(lake, first, policy.experiments.pre_period_days, customers.index)
    readings = read_metrics(assigned, customers, before, frauds, policy.performance.bootstrap_samples)
    each_alpha = policy.experiments.alpha / len(METRICS)
    factor = inflation(each_alpha, policy.experiments.power, policy.experiments.looks)
    rows = [row_of(each, assigned, params, policy.experiments, factor) for each in readings]
    table = conform(EXPERIMENT_SIZES, pa.Table.from_pylist(rows, EXPERIMENT_SIZES.schema))
    version = lake.replace(EXPERIMENT_SIZES, table, params.day)
    return Receipt(
        job="size_experiment", table=EXPERIMENT_SIZES.name, partition=str(params.day), version=version,
        rows=table.num_rows, digest=content_digest(table), seconds=watch.seconds,
        facts={"seen_customers": sum(assigned.customers), "looks_cost": round(factor, 4),
               "customers": {row["metric"]: [row["control_customers"], row["treatment_customers"]]
                             for row in table.to_pylist()}},
    )  # fmt: skip
