"""### Ingest: a day of card transactions becomes a published partition

**In:** the source's file of the day, from a directory or S3. **Out:** table `transactions`, table
`quarantine`, Data Docs; the asset `transactions` for that day.

**If it fails:** nothing was published and nothing below starts. `validate_transactions` failed: open its
link *Report*, have the source send the day again, then run the day again (backfill with
`--reprocess-behavior failed`). Any other task: its last log line says what to do.
"""

from airflow.sdk import CronPartitionTimetable, Param, dag

from plugins.assets import TRANSACTIONS
from plugins.defaults import DAY_PARAM, dag_defaults
from plugins.tags import Tag
from plugins.tasks import job
from plugins.templates import PARTITION_DAY


@dag(
    schedule=CronPartitionTimetable("0 0 * * *", timezone="UTC", run_offset=-1, key_format="%Y-%m-%d"),
    params={
        "day": DAY_PARAM,
        "source_uri": Param(
            "",
            type="string",
            title="Source",
            description="another configured source (SLUICE_EXTRA_SOURCE_URIS); empty: the usual one",
        ),
    },
    doc_md=__doc__,
    tags=[Tag.DATA],
    max_active_runs=3,
    **dag_defaults(),
)
def fraud_ingest() -> None:
    landed = job("land_transactions", day=PARTITION_DAY, source_uri="{{ params.source_uri }}")
    validated = job("validate_transactions", day=PARTITION_DAY, after=(landed,))
    quarantined = job("quarantine_transactions", day=PARTITION_DAY, after=(validated,))
    job("publish_transactions", day=PARTITION_DAY, after=(quarantined,), publishes=TRANSACTIONS)


fraud_ingest()
