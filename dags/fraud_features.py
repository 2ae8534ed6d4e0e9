"""### Features: what was known about each customer and terminal at the end of a day

**In:** tables `transactions` and `labels`, once both are there for the day. **Out:** tables
`customer_features` and `terminal_features`, and Feast's online store.

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
    checked = job("check_features", day=PARTITION_DAY, after=(built,))
    job("materialize_features", day=PARTITION_DAY, after=(checked,), publishes=FEATURES)


fraud_features()
