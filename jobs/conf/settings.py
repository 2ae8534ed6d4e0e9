"""Where things are: each setting comes from the environment (`SLUICE_…`); defaults need no server."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import date
from functools import cache
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError, field_validator

from jobs.core import SluiceError, StrictModel
from jobs.s3_address import is_plain, s3_address

PROJECT_ROOT = Path(__file__).resolve().parents[2]
PREFIX = "SLUICE_"
STAGING_NAME = r"^([a-z0-9][a-z0-9_-]{0,79})?$"  # it becomes part of paths and predicates
TOKEN = "SLUICE_TOKEN"  # noqa: S105 - its name; a secret is no setting: it is never printed or saved


class Settings(StrictModel):
    """One field per variable: `SLUICE_HOME` sets `home`. Relative paths start at the working directory."""

    home: Path = Field(PROJECT_ROOT / ".sluice", description="all state of this installation")
    contract: str = Field("simulated", description="name of a contract in jobs/conf/contracts, or a path")
    policy_overlay: str = Field(
        "",
        description="overlay in jobs/conf/overlays that shortens durations, e.g. demo, or a YAML file",
    )
    lake_uri: str = Field("", description="the tables: s3://bucket/prefix; empty: a folder in home")
    source_uri: str = Field("", description="transactions: a directory or s3://bucket/prefix, one file a day")
    extra_source_uris: str = Field("", description="further sources that a run may name, separated by commas")
    labels_uri: str = Field("", description="chargebacks: a directory or s3://bucket/prefix, one file a day")
    first_day: date = Field(date(2026, 1, 1), description="first day of the source")
    last_day: date | None = Field(None, description="last day of a source that ends, else empty")
    mlflow_uri: str = Field(
        "http://127.0.0.1:5000",
        description="MLflow tracking server and registry; its login, if any, in MLFLOW_TRACKING_USERNAME and "
        "MLFLOW_TRACKING_PASSWORD",
    )
    mlflow_public_uri: str = Field("", description="MLflow address for links, if another")
    spark_remote: str = Field("sc://127.0.0.1:15002", description="Spark Connect server")
    spark_master: str = Field(
        "local[2]",
        pattern=r"^(local\[(\d+|\*)\]|spark://[\w.-]+:\d+(,[\w.-]+:\d+)*)$",
        description="where the Spark server that is started here has its executors: local[2], spark://host:7077",
    )
    spark_driver_host: str = Field(
        "127.0.0.1",
        pattern=r"^[\w.:-]+$",
        description="where executors of another machine reach that Spark server; it listens there then",
    )
    spark_memory: str = Field("2g", pattern=r"^\d+[mg]$", description="heap of that Spark server")
    scoring_uri: str = Field("http://127.0.0.1:8000", description="scoring service")
    scoring_public_uri: str = Field("", description="scoring service's address for links, if another")
    airflow_uri: str = Field("http://127.0.0.1:8080", description="Airflow api-server")
    celery_broker_url: str = Field(
        "",
        # with its password: who can write there runs code here
        pattern=r"^(rediss?://[^\s:@/]*:[^\s@]+@\S+)?$",
        description="Redis that hands tasks to Celery workers: redis://:PASSWORD@HOST:PORT/0; empty: none",
    )
    object_storage_uri: str = Field("", description="address of an S3-compatible server to run; empty: none")
    staging: str = Field(
        "", pattern=STAGING_NAME, description="a backfill's name: read and write its staged tables instead"
    )
    online_store: Literal["sqlite", "redis"] = Field("sqlite", description="Feast online store")
    redis_url: str = Field("127.0.0.1:6379", description="Redis address where online_store is redis")
    materialize_on: Literal["job", "spark"] = Field(
        "job", description="who writes features online: the job, or Spark's executors (redis only)"
    )
    drift_report: bool = Field(
        True, description="draw Evidently's page of each monitored day; no figure depends on it"
    )
    alert_webhook: str = Field(
        "", pattern=r"^(https?://[^\s@?#]+)?$", description="takes alerts as JSON by HTTP POST; empty: none"
    )
    alert_mail_to: str = Field(
        "", pattern=r"^([^\s@,<>]+@[^\s@,<>]+)?$", description="mail address that takes alerts; empty: none"
    )
    alert_mail_from: str = Field(
        "sluice@localhost", pattern=r"^[^\s@,<>]+@[^\s@,<>]+$", description="sender of these mails"
    )
    alert_mail_server: str = Field(
        "127.0.0.1:25", pattern=r"^[\w.-]+:\d+$", description="mail server that takes them without a password"
    )
    model_name: str = Field("fraud", description="registered model in MLflow")
    experiment: str = Field("fraud", description="MLflow experiment of the trainings")

    @field_validator("lake_uri")
    @classmethod
    def _lake_on_s3(cls, value: str) -> str:
        if not value:
            return value
        address = s3_address(value)
        if address is None or not is_plain(address):
            # the value is not repeated: somebody may have put a secret into it
            raise ValueError("not an s3://bucket/prefix address of plain names without credentials")
        return str(address)

    @field_validator("mlflow_uri", "mlflow_public_uri")
    @classmethod
    def _no_credentials(cls, value: str) -> str:
        # pages, logs and alerts show the address; a file's path may hold what it likes
        if "@" in value and not value.startswith(("sqlite:", "file:", "/", ".")):
            raise ValueError(
                "an address that is shown holds no credentials: give them as MLFLOW_TRACKING_USERNAME and "
                "MLFLOW_TRACKING_PASSWORD"
            )
        return value

    @property
    def lake(self) -> str:
        """Address of the tables: a folder or s3://bucket/prefix."""
        return self.lake_uri or str(self.home / "lake")

    @property
    def raw(self) -> Path:
        """Landed objects, never changed."""
        return self.home / "raw"

    @property
    def work(self) -> Path:
        """Files that travel between the tasks of one run; safe to delete between runs."""
        work = self.home / "work"
        return work / "_staging" / self.staging if self.staging else work

    @property
    def reports(self) -> Path:
        """Data Docs and drift reports."""
        return self.home / "reports"


def mlflow_login() -> tuple[str, str] | None:
    """User and password of an MLflow that wants them, from the variables that its own client reads."""
    user, password = (os.environ.get(f"MLFLOW_TRACKING_{name}", "") for name in ("USERNAME", "PASSWORD"))
    return (user, password) if user else None


def load_settings(environment: Mapping[str, str]) -> Settings:
    """Settings from an environment.

    Raises:
        SluiceError: a variable is unknown or its value is not usable.
    """
    given = {
        key.removeprefix(PREFIX).lower(): value
        for key, value in environment.items()
        if key.startswith(PREFIX) and value != "" and key != TOKEN
    }
    try:
        settings = Settings.model_validate(given)
    except ValidationError as error:
        problem = error.errors()[0]
        name = PREFIX + str(problem["loc"][0]).upper()
        raise SluiceError(f"environment variable {name}: {problem['msg']}; see .env.example") from None
    return settings.model_copy(update={"home": settings.home.expanduser().resolve()})


@cache
def settings() -> Settings:
    """Settings of this process."""
    return load_settings(os.environ)
