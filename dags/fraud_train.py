"""### Train: a version of the model, with the evidence for and against it

**In:** matured labels, transactions and features as they were known. **Out:** a version in the MLflow
registry whose tags carry the gate's verdict and its reasons. Training never promotes: where the gate lets it,
it offers the version, and `fraud_promote` begins with its checks.

**If it is skipped:** too little has matured since the last training for the weekly one. If only
`offer_version` is: the gate blocked the version, or another promotion is under way.
**If it fails:** the champion stays. A closed gate is no failure: the version is registered as *blocked*, and
its tags say why. Run it again from any task; a tuning that was killed resumes.
"""

from airflow.sdk import AssetOrTimeSchedule, CronTriggerTimetable, Param, dag

from jobs.conf.policy import policy_of
from jobs.conf.settings import settings
from plugins.assets import RETRAINING_REQUESTED
from plugins.defaults import DAY_PARAM, dag_defaults, optional_text
from plugins.pools import SPARK_POOL, TRAINING_POOL
from plugins.tags import Tag
from plugins.tasks import job, mapped_job
from plugins.templates import AUTHOR, REGISTERED_VERSION, RUN, TRAINING_DAY, TRAINING_REASON, TRAINING_START

WORKERS = [{"worker": worker} for worker in range(policy_of(settings()).tuning.workers)]


@dag(
    schedule=AssetOrTimeSchedule(
        timetable=CronTriggerTimetable("0 3 * * 1", timezone="UTC"), assets=RETRAINING_REQUESTED
    ),
    params={
        "day": DAY_PARAM,
        "reason": optional_text(
            "Reason", "why this model is trained; empty: the event's, weekly, or by hand", maxLength=500
        ),
        "start": Param(
            "",
            type="string",
            enum=["", "warm", "full"],
            title="Search",
            description="warm: from the last winner; full: from nothing; empty: as the event says, else warm",
        ),
        "drill": Param(
            "none",
            type="string",
            enum=["none", "shuffled_labels", "slow", "shifted_scores"],
            title="Fire drill",
            description="make a version that is bad on purpose, to see a gate catch it",
        ),
    },
    doc_md=__doc__,
    tags=[Tag.MODEL],
    max_active_runs=1,
    **dag_defaults(),
)
def fraud_train() -> None:
    common = {"day": TRAINING_DAY, "run": RUN}
    drill = "{{ params.drill }}"
    labels = job("snapshot_labels", **common, reason=TRAINING_REASON)
    frame = job("build_frame", **common, drill=drill, after=(labels,), pool=SPARK_POOL)
    study = mapped_job(
        "tune_model", **common, start=TRAINING_START, over=WORKERS, after=(frame,), pool=TRAINING_POOL
    )
    xgboost = job("train_xgboost", **common, after=(study,), pool=TRAINING_POOL)
    torch = job("train_torch", **common, after=(frame,), pool=TRAINING_POOL)
    bundle = job("calibrate_model", **common, after=(xgboost, torch))
    evidence = job("evaluate_model", **common, after=(bundle,))
    verdict = job("gate_model", **common, after=(evidence,))
    version = job(
        "register_model", **common, reason=TRAINING_REASON, author=AUTHOR, drill=drill, after=(verdict,)
    )
    job("offer_version", version=REGISTERED_VERSION, after=(version,))


fraud_train()
