"""### Maintain: what nobody needs any more goes, and small files become large ones

**In:** the policy's section `retention`, the pins of table versions. **Out:** fewer rows, files and log
entries; each receipt counts them. Models that nobody serves or may go back to are archived once they are
stale, and pin nothing any more. Current data and pinned versions are never touched. Try it without a change:
trigger it with *Dry run*.

**If it fails:** nothing is lost, it is only not cleaned. The last log line names the table or the server; run
it again, or wait for the next day. `archive_versions` failed over alias champion: set the alias as it says.
"""

from airflow.sdk import CronTriggerTimetable, Param, dag

from plugins.defaults import DAY_PARAM, dag_defaults
from plugins.tags import Tag
from plugins.tasks import job
from plugins.templates import DRY_RUN, YESTERDAY


@dag(
    schedule=CronTriggerTimetable("0 3 * * *", timezone="UTC"),
    params={
        "day": DAY_PARAM,
        "dry_run": Param(False, type="boolean", title="Dry run", description="only say what would go"),
    },
    doc_md=__doc__,
    tags=[Tag.MAINTENANCE],
    max_active_runs=1,
    **dag_defaults(),
)
def fraud_maintain() -> None:
    expired = job("expire_data", day=YESTERDAY, dry_run=DRY_RUN)
    archived = job("archive_versions", day=YESTERDAY, dry_run=DRY_RUN)
    compacted = job("compact_tables", day=YESTERDAY, dry_run=DRY_RUN, after=(expired,))
    job("vacuum_tables", day=YESTERDAY, dry_run=DRY_RUN, after=(archived, compacted))


fraud_maintain()
