"""### Labels: the chargebacks that became known on a day

**In:** the chargeback feed as it was known that day. **Out:** table `labels`; the asset `labels` for that
day. A label counts from the moment it became known, never earlier.

**If it fails:** features of the day wait for it. Have the feed sent again and run the day again (backfill
with `--reprocess-behavior failed`).
"""

from airflow.sdk import CronPartitionTimetable, dag

from plugins.assets import LABELS
from plugins.defaults import DAY_PARAM, dag_defaults
from plugins.tags import Tag
from plugins.tasks import job
from plugins.templates import PARTITION_DAY


@dag(
    schedule=CronPartitionTimetable("0 0 * * *", timezone="UTC", run_offset=-1, key_format="%Y-%m-%d"),
    params={"day": DAY_PARAM},
    doc_md=__doc__,
    tags=[Tag.DATA],
    max_active_runs=3,
    **dag_defaults(),
)
def fraud_labels() -> None:
    landed = job("land_labels", day=PARTITION_DAY)
    validated = job("validate_labels", day=PARTITION_DAY, after=(landed,))
    job("merge_labels", day=PARTITION_DAY, after=(validated,), publishes=LABELS)


fraud_labels()
