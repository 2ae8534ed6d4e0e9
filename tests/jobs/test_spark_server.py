"""The Spark server's command: loopback only, and a clear word where there is no Java."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.conf.settings import Settings
from jobs.core import SluiceError
from jobs.spark import spark_session
from jobs.spark_server import find_java, server_command, server_environment

pytest_plugins = ("tests.spark_server",)


def test_the_command_binds_to_loopback_and_runs_in_utc(home: Settings) -> None:
    command = server_command(home, 15999)
    assert "spark.connect.grpc.binding.address=127.0.0.1" in command
    assert "spark.connect.grpc.binding.port=15999" in command
    assert "spark.sql.session.timeZone=UTC" in command
    assert Path(command[0]).name == "java"
    assert server_environment(home)["SPARK_LOCAL_IP"] == "127.0.0.1"


def test_no_session_keeps_the_rows_that_were_sent_to_it(home: Settings) -> None:
    assert "spark.connect.session.planCache.enabled=false" in server_command(home, 15999)


@pytest.mark.parametrize(
    ("master", "few"), [("local[2]", True), ("spark://10.0.0.5:7077", False)], ids=["one machine", "cluster"]
)
def test_only_on_one_machine_four_tasks_follow_a_shuffle(home: Settings, master: str, few: bool) -> None:
    command = server_command(home.model_copy(update={"spark_master": master}), 15999)
    assert ("spark.sql.shuffle.partitions=4" in command) is few
    assert few or not any("shuffle.partitions" in part for part in command)


def test_without_java_it_says_how_to_get_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.spark_server._java_candidates", list)
    find_java.cache_clear()
    try:
        with pytest.raises(SluiceError, match="openjdk-17-jre-headless"):
            find_java()
    finally:
        find_java.cache_clear()


def test_an_old_java_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = tmp_path / "java"
    old.write_text("#!/bin/sh\necho 'openjdk version \"11.0.2\"' >&2\n")
    old.chmod(0o755)
    monkeypatch.setattr("jobs.spark_server._java_candidates", lambda: [("old", old)])
    find_java.cache_clear()
    try:
        with pytest.raises(SluiceError, match="old: version 11"):
            find_java()
    finally:
        find_java.cache_clear()


def test_a_session_counts_in_utc(spark_home: Settings) -> None:
    session = spark_session(spark_home)
    assert session.range(3).count() == 3
    assert session.conf.get("spark.sql.session.timeZone") == "UTC"
