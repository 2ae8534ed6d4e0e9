"""### Features: what was known about each customer and terminal at the end of a day

**In:** tables `transactions` and `labels`, once both are there for the day. **Out:** tables
`customer_features` and `terminal_features`, and Feast's online store. Later days that were built from other
contents of this day are built, checked and served again.

**If it fails:** the scoring service goes on with yesterday's values until they expire (policy
`features.batch_ttl_hours`). `check_features` failed: its log names the check and the rows.
"""

from airflow.sdk import PartitionedAssetTimetable, dag

from plugins.assets import FEATURES, LABELS, TRANSACTIONS
from plugins.defaults import DAY_PARAM, dag_defaults
from plugins.pools import SPARK_POOL
from plugins.tags import Tag
from plugins.tasks import job
from plugins.templates import PARTITION_DAY

# the day itself, and the later days that it changed
BUILT_DAYS = "{{ ti.xcom_pull(task_ids='build_features')['facts']['days'] | join(',') }}"


@dag(
    schedule=PartitionedAssetTimetable(assets=TRANSACTIONS & LABELS),
    params={"day": DAY_PARAM},
    doc_md=__doc__,
    tags=[Tag.FEATURES],
    max_active_runs=2,
    **dag_defaults(),
)
def fraud_features() -> None:
    built = job("build_features", day=PARTITION_DAY, pool=SPARK_POOL)
    checked = job("check_features", day=PARTITION_DAY, days=BUILT_DAYS, after=(built,))
    job("materialize_features", day=PARTITION_DAY, days=BUILT_DAYS, after=(checked,), publishes=FEATURES)


fraud_features()
