"""### Hour: do answers come, in time, with features, and are the scores what they were?

**In:** the last whole hour of the prediction log, the same hour of earlier weeks, the champion's reference.
**Out:** table `hourly_monitoring`; an alert for what has begun in this hour.
The rules are those of `fraud_monitor`. Nothing is retrained or rolled back by an hour.

**If it fails:** the hour was not looked at; the next one is, and so is the whole day. Run it again with
*As of* at any instant of the hour after it.
"""

from airflow.sdk import CronTriggerTimetable, dag

from plugins.defaults import AS_OF_PARAM, dag_defaults
from plugins.tags import Tag
from plugins.tasks import job
from plugins.templates import AS_OF


@dag(
    schedule=CronTriggerTimetable("5 * * * *", timezone="UTC"),  # the log is written some seconds behind
    params={"as_of": AS_OF_PARAM},
    doc_md=__doc__,
    tags=[Tag.MONITORING],
    max_active_runs=1,
    **dag_defaults(),
)
def fraud_hour() -> None:
    job("measure_hour", as_of=AS_OF)


fraud_hour()
