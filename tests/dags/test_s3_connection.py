"""Credentials of S3 from an Airflow connection, where the environment has none."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator

import pytest

from jobs.conf.settings import settings
from plugins.s3_connection import take_s3_connection

GIVEN = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL", "AWS_REGION")


@pytest.fixture(autouse=True)
def _no_credentials(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = dict(os.environ)
    for name in GIVEN:
        os.environ.pop(name, None)
    connection = {
        "conn_type": "aws",
        "login": "the-key",
        "password": "the-secret",
        "extra": {"endpoint_url": "http://127.0.0.1:9000", "region_name": "eu-central-1"},
    }
    os.environ["AIRFLOW_CONN_SLUICE_S3"] = json.dumps(connection)
    os.environ["SLUICE_LAKE_URI"] = "s3://lake/tables"
    settings.cache_clear()
    yield
    os.environ.clear()
    os.environ.update(before)
    settings.cache_clear()


def test_a_task_takes_the_credentials_of_the_connection() -> None:
    take_s3_connection()
    assert [os.environ[name] for name in GIVEN] == [
        "the-key", "the-secret", "http://127.0.0.1:9000", "eu-central-1"
    ]  # fmt: skip


def test_the_environment_goes_before_the_connection() -> None:
    os.environ["AWS_ACCESS_KEY_ID"] = "of-the-environment"
    take_s3_connection()
    assert os.environ["AWS_ACCESS_KEY_ID"] == "of-the-environment"
    assert "AWS_SECRET_ACCESS_KEY" not in os.environ


def test_without_a_connection_or_an_address_on_s3_nothing_is_taken() -> None:
    connection = os.environ.pop("AIRFLOW_CONN_SLUICE_S3")
    take_s3_connection()
    assert "AWS_ACCESS_KEY_ID" not in os.environ
    os.environ["AIRFLOW_CONN_SLUICE_S3"] = connection
    del os.environ["SLUICE_LAKE_URI"]
    settings.cache_clear()
    take_s3_connection()
    assert "AWS_ACCESS_KEY_ID" not in os.environ
