"""The whole chain in small: real scheduler, registry and S3-compatible server, two weeks of data.

One installation is started for the module; the story is told once, and each test looks at one part of it.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from demo.airflow_api import Airflow
from demo.chain import Chain
from demo.mlflow_api import Registry
from demo.plan import Plan
from jobs.conf.settings import Settings
from jobs.lake.store import content_digest, lake_of
from jobs.lake.tables import LABELS, LANDED_FILES, MONITORING, PREDICTIONS, QUARANTINE, SCORES, TRANSACTIONS
from stack.environment import ADMIN, APPROVER, password_file
from stack.processes import ProcessFolder, resident_bytes, running_pid
from stack.services import services
from tests.installation import installed

pytestmark = pytest.mark.timeout(1500)
ROOT = Path(__file__).parents[2]
FIRST = date(2026, 1, 1)
PLAN = Plan(
    contract="simulated",
    first=FIRST,
    backfill_last=FIRST + timedelta(days=13),
    last=FIRST + timedelta(days=16),
    broken_day=FIRST + timedelta(days=2),
    failing_day=FIRST + timedelta(days=9),
)


@dataclass
class Story:
    """What happened, and what it was seen to be while it happened."""

    settings: Settings
    airflow: Airflow
    registry: Registry
    seen: dict[str, Any] = field(default_factory=dict)


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    with installed(tmp_path_factory.mktemp("chain"), PLAN, overlay="small") as ours:
        yield ours


@pytest.fixture(scope="module")
def story(installation: Settings) -> Story:
    """The chain from the first file to a champion that answers, told once."""
    airflow, approver = (
        Airflow(installation.airflow_uri, user, password_file(installation, user))
        for user in (ADMIN, APPROVER)
    )
    registry = Registry(installation.mlflow_uri, installation.model_name)
    told = Story(installation, airflow, registry)
    airflow.wait_for(
        "the DAGs", lambda: len(airflow.dags()) == len(list((ROOT / "dags").glob("*.py"))) or None, 120
    )
    for dag in airflow.dags():
        airflow.unpause(dag["dag_id"])
    chain = Chain(PLAN, installation.home, airflow, approver, registry, installation.scoring_uri)
    chain.backfill()
    told.seen["states before repair"] = newest_states(airflow, "fraud_ingest")
    chain.repair_feed()
    chain.wait_features()
    told.seen["version"] = chain.train("end-to-end test")
    told.seen["gate"] = chain.gate(told.seen["version"])
    start = time.monotonic()
    run = chain.offer(told.seen["version"])
    told.seen["seconds from alias to run"] = time.monotonic() - start
    while airflow.run("fraud_promote", run)["state"] not in ("success", "failed"):
        chain._approve_if_asked(run)
        if chain.has_next_day():
            chain.play_day(60.0, until=lambda: chain._ended_or_asks(run))
        time.sleep(0.5)
    told.seen["promotion"] = airflow.run("fraud_promote", run)
    told.seen["state of serving"] = wait_for_champion(installation, told.seen["version"])
    told.seen["last day"] = chain.played
    score = airflow.trigger("fraud_score", {"day": str(chain.played)})
    told.seen["score"] = airflow.wait_run("fraud_score", score)["state"]
    return told


def newest_states(airflow: Airflow, dag: str) -> dict[str, str]:
    return {run["partition_key"]: run["state"] for run in airflow.runs(dag)}


def wait_for_champion(ours: Settings, version: str) -> dict[str, Any]:
    deadline = time.monotonic() + 5.0
    while True:
        state = dict(httpx.get(f"{ours.scoring_uri}/state").json())
        if state["champion"] == version or time.monotonic() > deadline:
            return state
        time.sleep(0.1)


def days(first: int, last: int) -> list[str]:
    return [str(FIRST + timedelta(days=number)) for number in range(first, last + 1)]


def test_every_day_is_ingested_except_the_one_that_fails_its_gate(story: Story) -> None:
    states = story.seen["states before repair"]
    assert [day for day, state in states.items() if state != "success"] == [str(PLAN.failing_day)]


def test_the_failed_day_published_nothing_until_it_was_repaired(story: Story) -> None:
    runs = [
        run for run in story.airflow.runs("fraud_ingest") if run["partition_key"] == str(PLAN.failing_day)
    ]
    assert [run["state"] for run in runs] == ["failed", "success"]
    tasks = {t["task_id"]: t["state"] for t in story.airflow.tasks("fraud_ingest", runs[0]["dag_run_id"])}
    assert tasks["validate_transactions"] == "failed"
    assert tasks["publish_transactions"] == "upstream_failed"
    landed = lake_of(story.settings).read(LANDED_FILES).to_pylist()
    of_the_day = [row for row in landed if row["day"] == PLAN.failing_day and row["feed"] == "transactions"]
    assert len({row["digest"] for row in of_the_day}) == 2


def test_no_row_is_lost_between_landing_and_publishing(story: Story) -> None:
    lake = lake_of(story.settings)
    landed = {
        row["path"]: row for row in lake.read(LANDED_FILES).to_pylist() if row["feed"] == "transactions"
    }
    newest: dict[date, int] = {}
    for row in landed.values():
        newest[row["day"]] = row["rows"]
    broken = lake.read(QUARANTINE, columns=["day", "feed", "row_number"]).to_pylist()
    quarantined = {(row["day"], row["row_number"]) for row in broken if row["feed"] == "transactions"}
    published = lake.read(TRANSACTIONS, columns=["day"]).column("day").to_pylist()
    for day in (FIRST, PLAN.broken_day):
        set_aside = len([1 for when, _ in quarantined if when == day])
        assert newest[day] == published.count(day) + set_aside
    assert any(day == PLAN.broken_day for day, _ in quarantined)


def test_days_came_from_the_directory_and_from_s3(story: Story) -> None:
    landed = lake_of(story.settings).read(LANDED_FILES, columns=["address"]).column("address").to_pylist()
    assert any(address.startswith("s3://") for address in landed)
    assert any("chargebacks" in address for address in landed)


def test_features_were_built_for_every_published_day(story: Story) -> None:
    states = newest_states(story.airflow, "fraud_features")
    assert [day for day in days(0, 13) if states.get(day) != "success"] == []


def test_the_registered_version_carries_its_evidence(story: Story) -> None:
    tags = story.registry.tags(story.seen["version"])
    assert tags["sluice.gate"] in ("person decides", "automatic")
    assert tags["sluice.reason"] == "end-to-end test"
    assert tags["sluice.gate_evidence"]


def test_a_moved_alias_starts_the_promotion_within_ten_seconds(story: Story) -> None:
    assert story.seen["seconds from alias to run"] < 10.0


def test_the_first_version_was_approved_by_a_person_and_serves(story: Story) -> None:
    assert story.seen["promotion"]["state"] == "success"
    assert story.registry.aliases() == {"champion": story.seen["version"]}
    assert story.registry.tags(story.seen["version"])["sluice.approved_by"] == APPROVER
    assert story.registry.tags(story.seen["version"])["sluice.author"] == ADMIN
    assert story.seen["state of serving"]["champion"] == story.seen["version"]


def test_every_request_is_in_the_prediction_log_once(story: Story) -> None:
    log = lake_of(story.settings).read(PREDICTIONS, columns=["transaction_id", "variant", "day"]).to_pylist()
    answers = [row["transaction_id"] for row in log if row["variant"] != "shadow"]
    assert len(answers) == len(set(answers))
    published = lake_of(story.settings).read(TRANSACTIONS, columns=["day"]).column("day").to_pylist()
    played = [day for day in PLAN.replayed if day <= story.seen["last day"]]
    assert len(answers) == sum(published.count(day) for day in played)


def test_the_monitor_has_looked_at_every_replayed_day(story: Story) -> None:
    played = [day for day in PLAN.replayed if day <= story.seen["last day"]]
    looked = {row["day"] for row in lake_of(story.settings).read(MONITORING, columns=["day"]).to_pylist()}
    assert looked >= set(played)
    for day in played:
        assert (story.settings.reports / "drift" / f"{day}.html").stat().st_size > 10_000


def test_a_day_was_scored_in_a_batch(story: Story) -> None:
    assert story.seen["score"] == "success"
    assert lake_of(story.settings).read(SCORES).num_rows > 1000


def test_a_backfill_from_the_command_line_runs_everything_again_and_changes_nothing(story: Story) -> None:
    lake = lake_of(story.settings)
    before = {table.name: content_digest(lake.read(table)) for table in (TRANSACTIONS, LABELS, QUARANTINE)}
    done = len(story.airflow.tasks("fraud_labels"))
    command = ["make", "backfill", "DAG=fraud_labels", f"FROM={FIRST}", f"TO={FIRST + timedelta(days=2)}"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr

    def ran_again() -> bool | None:
        tasks = story.airflow.tasks("fraud_labels")
        return (len(tasks) == done + 9 and all(task["state"] == "success" for task in tasks)) or None

    story.airflow.wait_for("nine tasks again", ran_again, 180)
    after = {table.name: content_digest(lake.read(table)) for table in (TRANSACTIONS, LABELS, QUARANTINE)}
    assert after == before


def test_a_wrong_parameter_is_refused_with_a_clear_sentence(story: Story) -> None:
    with pytest.raises(Exception, match="drill"):
        story.airflow.trigger("fraud_train", {"drill": "everything"})


def test_the_reports_are_linked_and_open_from_the_airflow_ui(story: Story) -> None:
    for page in ("data_docs/index.html", "drift/index.html"):
        assert httpx.get(f"{story.settings.airflow_uri}/reports/{page}").status_code == 200


def test_serving_goes_on_when_mlflow_is_down(story: Story) -> None:
    folder = ProcessFolder(story.settings.home)
    pid = running_pid(folder, "mlflow")
    assert pid is not None
    os.killpg(pid, 19)
    try:
        time.sleep(3.0)
        body = {
            "transaction_id": 1, "event_time": f"{PLAN.last}T12:00:00Z", "customer_id": 1,
            "terminal_id": 1, "amount_minor": 1250,
        }  # fmt: skip
        answer = httpx.post(f"{story.settings.scoring_uri}/score", json=body, timeout=5.0)
        assert answer.status_code == 200
        assert answer.json()["model_version"] == story.seen["version"]
    finally:
        os.killpg(pid, 18)


def test_everything_together_stays_within_eight_gigabytes(story: Story) -> None:
    folder = ProcessFolder(story.settings.home)
    pids = [running_pid(folder, service.name) for service in services(story.settings)]
    assert None not in pids
    assert sum(resident_bytes(pid) for pid in pids if pid) < 8 * 2**30
