"""### Champion: is the alias on a version that may serve?

**Starts** when the alias `champion` is moved in MLflow, by a promotion or by hand. **Out:** an alert where
serving does not accept the version: it has no completed promotion record and is not the one under `previous`.
The last accepted champion goes on.

**If it fails:** the move was not judged; MLflow may be away. The scoring service refuses such a version all
the same. Clear the task once MLflow answers.
"""

from datetime import timedelta

from airflow.sdk import dag

from plugins.assets import CHAMPION
from plugins.defaults import PROMOTION_RETRY_DELAY, dag_defaults, version_param
from plugins.tags import Tag
from plugins.tasks import job
from plugins.templates import OFFERED_VERSION, RUN


@dag(
    schedule=CHAMPION,
    params={"version": version_param("version that the alias was moved to; empty: the event's")},
    doc_md=__doc__,
    tags=[Tag.PROMOTION],
    max_active_runs=1,
    **dag_defaults(timedelta(minutes=30), PROMOTION_RETRY_DELAY),
)
def fraud_champion() -> None:
    job("check_champion", version=OFFERED_VERSION, run=RUN)


fraud_champion()
