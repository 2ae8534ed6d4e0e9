"""### Score: a whole day by one version, into a table

**In:** a day's transactions and features. **Out:** table `scores`.

**If it fails:** the day's scores are the old ones or absent, never half; run it again, and it goes on with
the first slice of the day that is not scored yet.
"""

from airflow.sdk import CronTriggerTimetable, dag

from plugins.defaults import DAY_PARAM, dag_defaults, version_param
from plugins.pools import SPARK_POOL
from plugins.tags import Tag
from plugins.tasks import job
from plugins.templates import YESTERDAY


@dag(
    schedule=CronTriggerTimetable("0 6 * * *", timezone="UTC"),
    params={
        "day": DAY_PARAM,
        "version": version_param("version of the registered model; empty: the champion"),
    },
    doc_md=__doc__,
    tags=[Tag.MODEL],
    max_active_runs=2,
    **dag_defaults(),
)
def fraud_score() -> None:
    job("score_day", day=YESTERDAY, version="{{ params.version or '' }}", pool=SPARK_POOL)


fraud_score()
