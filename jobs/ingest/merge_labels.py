"""The job `merge_labels`: the chargebacks of a day become the labels that were known from that day on.

In: the day's passed validation. Out: the partition of `labels` of the day of report, `available_at` being
the reported instant (midnight where the feed has none), the partition `labels.<day>` of `quarantine`, and
last the day's row of `merged_labels`: training and monitoring count a day only with it.
Errors: GateClosed where the validation did not pass or is missing, or the count of rows does not add up.
"""

from __future__ import annotations

import pyarrow as pa

from jobs.conf.contract import contract_of
from jobs.conf.settings import Settings
from jobs.core import DayParams, Receipt, Stopwatch, midnight
from jobs.ingest.quarantine_transactions import quarantine_rows
from jobs.lake.store import conform, content_digest, lake_of
from jobs.lake.tables import LABELS, MERGED_LABELS, QUARANTINE, TIMESTAMP, feed_part
from jobs.quality.feeds import LABELS_FEED
from jobs.quality.gate import read_evidence, split_rows

READS = ("validation_labels",)
WRITES = ("labels", "quarantine", "merged_labels")


class Params(DayParams):
    """The day on which the chargebacks became known."""


def run(params: Params, settings: Settings) -> Receipt:
    """Replace the day's labels."""
    watch = Stopwatch()
    validation, parsed, landed = read_evidence(settings, LABELS_FEED, params.day)
    good, bad = split_rows(validation, parsed, landed)
    if contract_of(settings).labels.reported_at:
        instants = good["reported_at"]
    else:
        instants = pa.array([midnight(params.day)] * len(good), type=TIMESTAMP)
    rows = conform(
        LABELS,
        pa.table(
            {
                "day": pa.array([params.day] * len(good), type=pa.date32()),
                "transaction_id": good["transaction_id"],
                "available_at": instants,
                "is_fraud": good["is_fraud"],
            }
        ),
    )
    lake = lake_of(settings)
    lake.replace(QUARANTINE, quarantine_rows(bad, landed), feed_part(LABELS_FEED, params.day))
    version = lake.replace(LABELS, rows, params.day)
    merged = {"day": params.day, "digest": landed.digest, "rows": len(rows)}
    lake.replace(MERGED_LABELS, pa.Table.from_pylist([merged], MERGED_LABELS.schema), params.day)
    return Receipt(
        job="merge_labels",
        table=LABELS.name,
        partition=str(params.day),
        version=version,
        rows=len(rows),
        digest=content_digest(rows),
        seconds=watch.seconds,
        facts={
            "landed_rows": landed.rows,
            "quarantined_rows": len(bad),
            "broken_by_rule": validation.broken_by_rule,
        },
    )
