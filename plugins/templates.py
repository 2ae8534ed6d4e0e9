"""Where a run's day, version and reason come from: Jinja expressions that DAGs hand to their jobs."""

from jobs.conf.policy import WEEKLY

# a run for a partition key (schedule, backfill, asset event), or a day typed in the trigger form
PARTITION_DAY = "{{ partition_key or params.day }}"

# DAGs without a partition: the day before the schedule's tick, or a day typed in the trigger form
YESTERDAY = "{{ params.day or (logical_date - macros.timedelta(days=1)) | ds }}"

# hourly DAGs: the moment of the tick, or one typed in the trigger form
AS_OF = "{{ params.as_of or logical_date.isoformat() }}"

_EVENT = "(triggering_asset_events.values() | first | last).extra"

# training: typed in, else asked for by the monitor, else the day before the weekly tick
TRAINING_DAY = (
    "{{ params.day or ("
    + _EVENT
    + ".day if triggering_asset_events else (logical_date - macros.timedelta(days=1)) | ds) }}"
)
_BEGUN = f"('{WEEKLY}' if dag_run.run_type == 'scheduled' else 'by hand')"
TRAINING_REASON = (
    "{{ params.reason or (" + _EVENT + ".reason if triggering_asset_events else " + _BEGUN + ") }}"
)

# whether the search begins at the last winner: typed in, else as severe as the monitor finds it, else so
TRAINING_START = "{{ params.start or (" + _EVENT + ".start if triggering_asset_events else '') or 'warm' }}"
REGISTERED_VERSION = "{{ ti.xcom_pull(task_ids='register_model')['facts']['version'] }}"

# promotion: typed in, else the version to which the alias was moved
OFFERED_VERSION = (
    "{{ params.version or (" + _EVENT + ".payload.version if triggering_asset_events else '') }}"
)

# what a rewriting DAG is told on its schedule: do it
DRY_RUN = "{{ params.dry_run | string | lower }}"

RUN = "{{ run_id }}"

# when a run was asked for, by hand or by its schedule
REQUESTED_AT = "{{ dag_run.run_after.isoformat() }}"

# whoever started the run by hand may not approve what comes out of it
AUTHOR = "{{ dag_run.triggering_user_name or 'sluice' }}"
