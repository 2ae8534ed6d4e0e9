"""### Freshness: is the newest day of each feed there in time?

**In:** the newest day of `transactions` and of merged labels, when they are due by the contract. **Out:** an
alert for each feed and day that is later than the policy allows, raised once.

**If it fails:** freshness was not judged this hour; the next hour judges again. An overdue feed does not fail
this run: it is an alert, and the alert says what to do.
"""

from airflow.sdk import CronTriggerTimetable, dag

from plugins.defaults import AS_OF_PARAM, dag_defaults
from plugins.tags import Tag
from plugins.tasks import job
from plugins.templates import AS_OF


@dag(
    schedule=CronTriggerTimetable("0 * * * *", timezone="UTC"),
    params={"as_of": AS_OF_PARAM},
    doc_md=__doc__,
    tags=[Tag.MONITORING],
    max_active_runs=1,
    **dag_defaults(),
)
def fraud_freshness() -> None:
    job("check_freshness", as_of=AS_OF)


fraud_freshness()
