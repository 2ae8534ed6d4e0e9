"""### Backfill: days are rewritten beside production, compared with it, and swapped in by a person

**In:** a DAG, the first and the last day, a reason. **Out:** the staged days and a report of every
difference; after an approval, these days in production; table `backfills`. A dry run ends with the report:
to go on, trigger the same days without it, or use `sluice backfill`.

**If it fails:** production is as it was. `run_backfill` failed: its log names the days; mend them and clear
the task. `validate_backfill` failed: open its link *Report*; if the differences are right, trigger the same
days with your reason under *Accept differences*, else `sluice backfill abort`. `swap_backfill` failed: clear
it, it finishes what it began; `sluice backfill swap --reverse` takes it back.
"""

from datetime import timedelta

from airflow.sdk import Param, dag

from plugins.defaults import dag_defaults
from plugins.operators import SwapApprovalOperator
from plugins.pools import SPARK_POOL
from plugins.tags import Tag
from plugins.tasks import job
from plugins.templates import AUTHOR, REQUESTED_AT

NAME = "{{ ti.xcom_pull(task_ids='plan_backfill')['partition'] }}"
ANSWER = "{{ ti.xcom_pull(task_ids='approve_swap')['%s'] }}"
QUESTION = """{% set facts = ti.xcom_pull(task_ids='validate_backfill')['facts'] -%}
Verdict: **{{ facts.outcome }}**, {{ facts.reason }}. {{ facts.equal }} of {{ facts.partitions }} partitions
are equal; {{ facts.added }} rows added, {{ facts.removed }} removed, {{ facts.changed }} changed.
Accepted because: {{ params.accept_differences or 'nothing to accept' }}.
[Report](/reports/{{ facts.report }})"""


@dag(
    schedule=None,
    params={
        "dag": Param(
            "fraud_ingest",
            type="string",
            enum=["fraud_ingest", "fraud_labels", "fraud_features"],
            title="DAG",
            description="whose days are rewritten",
        ),
        "from": Param(type="string", format="date", title="From", description="first UTC day"),
        "to": Param(type="string", format="date", title="To", description="last UTC day, included"),
        "reason": Param(
            type="string", minLength=3, maxLength=500, title="Reason", description="why they are rewritten"
        ),
        "dry_run": Param(
            True, type="boolean", title="Dry run", description="stage and compare, swap nothing"
        ),
        "accept_differences": Param(
            "",
            type="string",
            maxLength=500,
            title="Accept differences",
            description="why the differences are right; needed where the comparison does not pass",
        ),
    },
    doc_md=__doc__,
    tags=[Tag.DATA],
    max_active_runs=1,
    **dag_defaults(timedelta(days=8), task_timeout=timedelta(hours=12)),
)
def fraud_backfill() -> None:
    asked = {"person": AUTHOR, "at": REQUESTED_AT}
    accepted = "{{ params.accept_differences }}"
    planned = job(
        "plan_backfill",
        dag="{{ params.dag }}",
        first="{{ params['from'] }}",
        last="{{ params.to }}",
        reason="{{ params.reason }}",
        continue_open="true",
        **asked,
    )
    staged = job("run_backfill", name=NAME, execute="true", **asked, after=(planned,), pool=SPARK_POOL)
    validated = job("validate_backfill", name=NAME, accept_differences=accepted, **asked, after=(staged,))
    approved = SwapApprovalOperator(
        task_id="approve_swap",
        validated=validated,
        dry_run="{{ params.dry_run }}",
        response_timeout=timedelta(days=7),
        subject="Swap {{ params.dag }}, {{ params['from'] }} to {{ params.to }}, into production?",
        body=QUESTION,
    )
    job(
        "swap_backfill",
        name=NAME,
        execute="true",
        accept_differences=accepted,
        person=ANSWER % "person",
        at=ANSWER % "at",
        after=(approved.output,),
    )


fraud_backfill()
