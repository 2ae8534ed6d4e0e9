"""### Promote: a version earns all traffic step by step, or loses what it has

**Starts** when the alias `challenger` is set on a version in MLflow. **Out:** alias `champion` on that
version and `previous` on the last one, or the challenger off within seconds; table `promotion_steps`.

**If it fails:** that is the answer: the version was refused, rejected or rolled back; the champion serves
as before. A registry or a lake that is away is no answer: it holds a step, which goes on by itself; a step
that is held until its promotion has taken a week too long is taken back. The
failed task's log and the version's tags in MLflow say why. To take back a champion, set the alias `champion`
back to the version under `previous`.
"""

from datetime import timedelta

from airflow.sdk import TriggerRule, chain, dag

from jobs.conf.policy import policy_of
from jobs.conf.settings import settings
from jobs.promotion.state import steps_of
from plugins.assets import CHALLENGER
from plugins.callbacks import take_back_what_was_cut_off
from plugins.defaults import (
    PATIENCE,
    PROMOTION_RETRY_DELAY,
    dag_defaults,
    promotion_time,
    promotion_timeout,
    version_param,
)
from plugins.operators import JobOperator, PersonApprovalOperator, PromotionStepOperator
from plugins.tags import Tag
from plugins.tasks import job
from plugins.templates import OFFERED_VERSION

POLICY = policy_of(settings())
PROMOTION = "{{ (ti.xcom_pull(task_ids='check_challenger') or {'partition': 'none'})['partition'] }}"
QUESTION = """{% set facts = ti.xcom_pull(task_ids='check_challenger')['facts'] -%}
Gate: **{{ facts.gate }}**. Champion now: {{ facts.champion or 'none, the rules alone' }}.
Figures on the test rows: {{ facts.metrics }}.
The run of the version in MLflow holds the evidence and the pictures."""


@dag(
    schedule=CHALLENGER,
    params={
        "version": version_param("version of the registered model; empty: the one under the alias challenger")
    },
    doc_md=__doc__,
    tags=[Tag.PROMOTION],
    max_active_runs=1,
    on_failure_callback=take_back_what_was_cut_off,
    **dag_defaults(promotion_timeout(POLICY), PROMOTION_RETRY_DELAY),
)
def fraud_promote() -> None:
    checked = job("check_challenger", version=OFFERED_VERSION)
    approve = PersonApprovalOperator(
        task_id="approve_version",
        checked=checked,
        version=OFFERED_VERSION,
        response_timeout=timedelta(days=POLICY.approval.expires_days),
        subject="Promote version {{ params.version or 'under the alias challenger' }} of the fraud model?",
        body=QUESTION,
    )
    steps = [
        PromotionStepOperator(
            task_id=f"run_{step}",
            arguments={"version": OFFERED_VERSION, "step": step},
            poll_seconds=POLICY.canary.poll_seconds,
            ends_after=promotion_time(POLICY),
            **PATIENCE,
        )
        for step in steps_of(POLICY)
    ]
    promoted = JobOperator(
        task_id="promote_champion",
        job="promote_champion",
        arguments={"version": OFFERED_VERSION},
        **PATIENCE,
    )
    rolled_back = JobOperator(
        task_id="roll_back",
        job="roll_back",
        arguments={
            "version": OFFERED_VERSION,
            "reason": "a step of the promotion failed",
            # a version that was refused at the door has no promotion that could be taken back
            "promotion_id": PROMOTION,
        },
        trigger_rule=TriggerRule.ONE_FAILED,
        **PATIENCE,
    )
    confirmed = job("confirm_serving", version=OFFERED_VERSION)
    chain(approve, *steps, promoted, confirmed.operator)
    for stage in (approve, *steps, promoted):
        stage.set_downstream(rolled_back)


fraud_promote()
