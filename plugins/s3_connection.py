"""S3 credentials from an Airflow connection, for a task whose environment has none.

In: the connection `sluice_s3` (login, password, and in the extra `endpoint_url` and `region_name`), from
`AIRFLOW_CONN_SLUICE_S3` or Airflow's own store. Out: the variables that every client reads, in the
environment of the task's process alone: jobs know nothing of Airflow. The log masks the password.
"""

from __future__ import annotations

import os

from airflow.sdk import BaseHook
from airflow.sdk.exceptions import AirflowException, AirflowNotFoundException, AirflowRuntimeError
from airflow.sdk.log import mask_secret

CONNECTION = "sluice_s3"


def take_s3_connection() -> None:
    """Put the connection's credentials into the environment, unless it has credentials already."""
    from jobs.conf.settings import settings

    ours = settings()
    addresses = (ours.lake, ours.source_uri, ours.extra_source_uris, ours.labels_uri)
    if os.environ.get("AWS_ACCESS_KEY_ID") or not any("s3://" in address for address in addresses):
        return
    try:
        found = BaseHook.get_connection(CONNECTION)
    except (AirflowNotFoundException, AirflowRuntimeError):
        return  # the job itself says what is missing, where it needs it
    if not found.login or not found.password:
        raise AirflowException(
            f"connection {CONNECTION}: login and password must hold the key and its secret"
        )
    mask_secret(found.password)
    extra = found.extra_dejson
    given = {
        "AWS_ACCESS_KEY_ID": found.login,
        "AWS_SECRET_ACCESS_KEY": found.password,
        "AWS_ENDPOINT_URL": extra.get("endpoint_url"),
        "AWS_REGION": extra.get("region_name"),
    }
    os.environ.update({name: str(value) for name, value in given.items() if value})
