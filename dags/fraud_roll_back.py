"""### Roll back: one button that takes a version out of traffic

**In:** why; a version, or none: the challenger that is running, else the champion. **Out:** the challenger
without traffic, or alias `champion` back on the version of `previous`; a row in `promotion_steps`; and the
scoring service's word that it answers so. Pressing it twice takes back one version. A dry run says what would
happen.

**If it fails:** `roll_back` failed: its log says what to set in MLflow; aliases can be moved there by hand,
and serving follows within seconds. `confirm_serving` failed: the registry is right and the scoring service
does not follow it: look at its page `/state`.
"""

from datetime import timedelta

from airflow.sdk import Param, dag

from plugins.defaults import PROMOTION_RETRY_DELAY, dag_defaults, version_param
from plugins.tags import Tag
from plugins.tasks import job
from plugins.templates import DRY_RUN

CHAMPION = "{{ ti.xcom_pull(task_ids='roll_back')['facts']['champion'] }}"


@dag(
    schedule=None,
    params={
        "reason": Param(
            type="string", minLength=3, maxLength=500, title="Reason", description="why, for the record"
        ),
        "version": version_param(
            "version of the registered model; empty: the running challenger, else the champion"
        ),
        "dry_run": Param(
            False, type="boolean", title="Dry run", description="say what would be taken back, change nothing"
        ),
    },
    doc_md=__doc__,
    tags=[Tag.PROMOTION],
    max_active_runs=1,
    # a button that is pressed in need answers, whatever was switched on before
    **dag_defaults(timedelta(minutes=30), PROMOTION_RETRY_DELAY, paused=False),
)
def fraud_roll_back() -> None:
    done = job(
        "roll_back",
        version="{{ params.version or '' }}",
        reason="{{ params.reason }}",
        dry_run=DRY_RUN,
    )
    job("confirm_serving", version=CHAMPION, after=(done,))


fraud_roll_back()
