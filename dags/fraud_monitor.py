"""### Monitor: has the world moved, and is the champion still worth its place?

**In:** the prediction log, labels, quarantined rows, the day's features, the champion's reference. **Out:**
tables `monitoring` and `reactions`, an Evidently report a day; where the decision is *retrain*, the event
that starts `fraud_train`.
Drift never promotes and never rolls back a model by itself.

**If it fails:** the day is not monitored. Run it again for that day by hand.
"""

from airflow.sdk import CronTriggerTimetable, dag

from plugins.assets import RETRAINING_REQUESTED
from plugins.defaults import DAY_PARAM, dag_defaults
from plugins.operators import RetrainingRequestOperator
from plugins.pools import SPARK_POOL
from plugins.tags import Tag
from plugins.tasks import job
from plugins.templates import RUN, YESTERDAY


@dag(
    schedule=CronTriggerTimetable("0 5 * * *", timezone="UTC"),
    params={"day": DAY_PARAM},
    doc_md=__doc__,
    tags=[Tag.MONITORING],
    max_active_runs=1,
    **dag_defaults(),
)
def fraud_monitor() -> None:
    drift = job("measure_drift", day=YESTERDAY)
    performance = job("measure_performance", day=YESTERDAY)
    service = job("measure_service", day=YESTERDAY)
    skew = job("compare_served", day=YESTERDAY, pool=SPARK_POOL)
    measured = (drift, performance, service, skew)
    decision = job("decide_reaction", day=YESTERDAY, run=RUN, after=measured)
    RetrainingRequestOperator(task_id="request_retraining", decision=decision, requests=RETRAINING_REQUESTED)


fraud_monitor()
