"""The whole chain in small: real scheduler, registry and S3-compatible server, two weeks of data.

The story is told once (tests/e2e/conftest.py), and each test looks at one part of it.
"""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import time
from collections.abc import Callable
from contextlib import closing
from datetime import date, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import httpx
import pytest

from demo.chain import READING_SECONDS
from jobs.alerts import FILE as ALERTS
from jobs.backfill import ledger
from jobs.backfill.command import main as sluice_backfill
from jobs.lake.pins import pinned
from jobs.lake.store import content_digest, lake_of
from jobs.lake.tables import LABELS, LANDED_FILES, MONITORING, PREDICTIONS, QUARANTINE, SCORES, TRANSACTIONS
from stack.environment import ADMIN, APPROVER, password_file
from stack.processes import ProcessFolder, resident_bytes, running_pid
from stack.services import services
from tests.browser import browse
from tests.e2e import replayed
from tests.e2e.story import FIRST, PLAN, ROOT, Story, days, newest_states

pytestmark = pytest.mark.timeout(1500)
PAGE = "document.querySelector('iframe')?.contentDocument"  # the page of the model, inside Airflow's


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
    path = (
        f"/api/v2/dags/fraud_ingest/dagRuns/{runs[0]['dag_run_id']}/taskInstances/validate_transactions/links"
    )
    link = story.airflow._call("GET", path)["extra_links"]["Report"]
    assert link.startswith("/reports/data_docs/")
    assert opened(story, link).status_code == 200
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


def test_an_alias_that_a_training_has_moved_starts_the_promotion_within_ten_seconds(
    story: Story,
) -> None:
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


@pytest.fixture(scope="module")
def monitored_again(story: Story) -> str:
    """A look of Airflow at the last day, with the champion that there is at the end of the story."""
    return story.airflow.trigger("fraud_monitor", {"day": str(story.seen["last day"])})


def test_the_replay_takes_in_the_days_of_airflow_to_equal_tables(
    story: Story, monitored_again: str, tmp_path: Path
) -> None:
    found = replayed.digests_of_days(replayed.taken_in(story, tmp_path))
    assert found == replayed.digests_of_days(story.settings)
    nothing = content_digest(QUARANTINE.schema.empty_table())
    assert nothing not in found.values(), "every table has rows of these days"


def test_the_replay_gives_the_frame_the_figures_and_the_decision_of_airflow_on_the_same_log(
    story: Story, monitored_again: str, tmp_path: Path
) -> None:
    training = story.airflow.runs("fraud_train")[0]["dag_run_id"]
    ours = replayed.copied(story, tmp_path)
    for job, receipt in replayed.framed(ours, PLAN.backfill_last, training).items():
        theirs = story.airflow.receipt("fraud_train", training, job)
        assert (receipt.rows, receipt.digest) == (theirs["rows"], theirs["digest"]), job
    assert story.airflow.wait_run("fraud_monitor", monitored_again)["state"] == "success"
    day = story.seen["last day"]
    replayed.monitored(ours, day, monitored_again)
    found, theirs = (replayed.monitoring_of(each, day) for each in (ours, story.settings))
    assert found == theirs
    assert {figure["metric"] for figure in found["drift"]} >= {"psi", "prediction_psi"}


REWRITTEN = (FIRST + timedelta(days=10), FIRST + timedelta(days=11))
SAME = (TRANSACTIONS, QUARANTINE, LABELS, PREDICTIONS)


@pytest.fixture(scope="module")
def rewritten(story: Story) -> dict[str, Any]:
    """Two days are rewritten in every way that Airflow offers, and house is kept meanwhile."""
    airflow, chain = story.airflow, story.chain
    seen: dict[str, Any] = {"before": digests(story)}
    again = reprocessed(story)
    days = {"from": str(REWRITTEN[0]), "to": str(REWRITTEN[1])}
    asked = {"dag": "fraud_ingest", **days, "reason": "end-to-end test"}
    seen["dry run"] = airflow.trigger("fraud_backfill", asked)
    seen["freshness"] = airflow.trigger("fraud_freshness", {"as_of": f"{PLAN.last}T12:00:00Z"})
    seen["dry run ended"] = airflow.wait_run("fraud_backfill", seen["dry run"])["state"]
    again()
    seen["after the first"] = digests(story)
    seen["run"] = airflow.trigger("fraud_backfill", {**asked, "dry_run": False})

    def asks() -> bool | None:
        tasks = airflow.tasks("fraud_backfill", seen["run"], task_id="approve_swap")
        return [task["state"] for task in tasks] == ["awaiting_input"] or None

    airflow.wait_for("the question of the swap", asks, 180, every=0.5)
    seen["state when asked"] = newest_backfill(story).state
    time.sleep(READING_SECONDS)  # as a person reads it; Airflow closes the task that asked meanwhile
    chain.approver.respond("fraud_backfill", seen["run"], "approve_swap", "Approve")
    seen["run ended"] = airflow.wait_run("fraud_backfill", seen["run"])["state"]
    seen["entry"] = newest_backfill(story)
    seen["after the swap"] = digests(story)
    seen["maintenance"] = airflow.trigger("fraud_maintain", logical_date=f"{PLAN.last}T00:00:00Z")
    reprocessed(story)()
    seen["after the second"] = digests(story)
    for dag, run in (("fraud_maintain", "maintenance"), ("fraud_freshness", "freshness")):
        seen[f"{run} ended"] = airflow.wait_run(dag, seen[run])["state"]
    return seen


def digests(story: Story) -> dict[str, str]:
    lake = lake_of(story.settings)
    return {table.name: content_digest(lake.read(table)) for table in SAME}


def opened(story: Story, place: str) -> httpx.Response:
    """A page of Airflow's, as somebody who is signed in gets it."""
    signed_in = {"Authorization": story.airflow._http.headers["Authorization"]}
    return httpx.get(f"{story.settings.airflow_uri}{place}", headers=signed_in)


def newest_backfill(story: Story) -> ledger.Entry:
    return ledger.states(lake_of(story.settings))[-1]


def reprocessed(story: Story) -> Callable[[], None]:
    """Airflow's own backfill of the days is begun; gives what waits for its end."""
    known = len(story.airflow.runs("fraud_ingest"))
    story.chain._backfill("fraud_ingest", *REWRITTEN, reprocess="completed")

    def ended() -> bool | None:
        states = [run["state"] for run in story.airflow.runs("fraud_ingest")[known:]]
        return states == ["success", "success"] or None

    return lambda: bool(story.airflow.wait_for("two days of fraud_ingest again", ended, 180))


def tasks_of(story: Story, dag: str, run: str) -> dict[str, str]:
    return {task["task_id"]: task["state"] for task in story.airflow.tasks(dag, run)}


def test_airflows_own_backfill_twice_over_the_same_days_changes_nothing(
    story: Story, rewritten: dict[str, Any]
) -> None:
    assert rewritten["after the first"] == rewritten["before"]
    assert rewritten["after the second"] == rewritten["before"]
    runs = [run["partition_key"] for run in story.airflow.runs("fraud_ingest")]
    assert [runs.count(str(day)) for day in REWRITTEN] == [3, 3]


def test_a_dry_run_of_a_backfill_ends_with_its_report_and_asks_nobody(
    story: Story, rewritten: dict[str, Any]
) -> None:
    assert rewritten["dry run ended"] == "success"
    states = tasks_of(story, "fraud_backfill", rewritten["dry run"])
    assert [states.pop(task) for task in ("approve_swap", "swap_backfill")] == ["skipped", "skipped"]
    assert set(states.values()) == {"success"}
    facts = story.airflow.receipt("fraud_backfill", rewritten["dry run"], "validate_backfill")["facts"]
    assert (facts["outcome"], facts["equal"]) == ("pass", facts["partitions"])
    assert opened(story, f"/reports/{facts['report']}").status_code == 200


def test_a_backfill_waits_for_a_second_person_and_then_is_swapped_in(
    story: Story, rewritten: dict[str, Any]
) -> None:
    assert (rewritten["state when asked"], rewritten["run ended"]) == ("validated", "success")
    entry = rewritten["entry"]
    assert (entry.state, entry.person, entry.reason) == ("swapped", APPROVER, "end-to-end test")
    steps = ledger.steps_of(lake_of(story.settings), entry.name)
    assert [step.state for step in steps] == ["planned", "staged", "validated", "swapping", "swapped"]
    assert {step.person for step in steps[:3]} == {ADMIN}
    assert entry.versions_after["transactions"] > entry.versions_before["transactions"]
    assert rewritten["after the swap"] == rewritten["before"]


def test_maintenance_compacts_the_prediction_log_and_keeps_what_is_pinned(
    story: Story, rewritten: dict[str, Any]
) -> None:
    assert rewritten["maintenance ended"] == "success"
    tasks = ("expire_data", "compact_tables", "vacuum_tables")
    receipts = {
        task: story.airflow.receipt("fraud_maintain", rewritten["maintenance"], task) for task in tasks
    }
    assert {receipt["partition"] for receipt in receipts.values()} == {str(PLAN.last - timedelta(days=1))}
    assert receipts["compact_tables"]["facts"]["by_table"]["predictions"] > 0
    lake = lake_of(story.settings)
    pins = pinned(lake)
    assert receipts["vacuum_tables"]["facts"]["pinned_versions"] == sum(map(len, pins.values()))
    for version in pins["transactions"]:
        assert lake.read(TRANSACTIONS, version=version).num_rows > 0


def test_a_swap_is_taken_back_from_the_command_line_after_the_days_ran_again(
    story: Story, rewritten: dict[str, Any]
) -> None:
    name = rewritten["entry"].name
    assert sluice_backfill(["swap", "--name", name, "--reverse", "--execute"]) == 0
    assert newest_backfill(story).state == "reversed"
    assert digests(story) == rewritten["before"]


def test_freshness_is_judged_and_what_is_overdue_is_an_alert(story: Story, rewritten: dict[str, Any]) -> None:
    assert rewritten["freshness ended"] == "success"
    receipt = story.airflow.receipt("fraud_freshness", rewritten["freshness"], "check_freshness")
    due, newest = PLAN.last - timedelta(days=1), story.seen["last day"]
    for feed in ("transactions", "labels"):
        assert receipt["facts"][f"{feed}_expected"] == str(due)
        assert receipt["facts"][f"{feed}_newest"] == str(newest)
    alerts = story.settings.home / ALERTS
    lines = alerts.read_text().splitlines() if alerts.exists() else []
    keys = {json.loads(line)["key"] for line in lines}
    assert (f"freshness/transactions/{due}" in keys) is (newest < due)


def test_a_wrong_parameter_is_refused_with_a_clear_sentence(story: Story) -> None:
    with pytest.raises(Exception, match="drill"):
        story.airflow.trigger("fraud_train", {"drill": "everything"})


def test_the_reports_are_linked_and_open_from_the_airflow_ui(story: Story) -> None:
    for page in ("data_docs/index.html", "drift/index.html"):
        assert opened(story, f"/reports/{page}").status_code == 200


def test_nobody_sees_a_report_or_the_page_of_the_model_without_signing_in(story: Story) -> None:
    for place in ("/reports/model", "/reports/model_view.js", "/reports/data_docs/index.html"):
        address = f"{story.settings.airflow_uri}{place}"
        assert httpx.get(address).status_code == 401
        forged = {"Authorization": "Bearer eyJhbGciOiJub25lIn0.eyJzdWIiOiJhZG1pbiJ9."}
        assert httpx.get(address, headers=forged).status_code in (401, 403)
        by_browser = httpx.get(address, headers={"Accept": "text/html"})
        assert by_browser.status_code == 307
        to_login = httpx.get(f"{story.settings.airflow_uri}{by_browser.headers['location']}")
        assert to_login.headers["location"] == f"/auth/login?{urlencode({'next': address})}"
        assert opened(story, place).status_code == 200


def test_the_page_of_the_model_is_in_airflows_menu_and_its_button_opens_the_trigger_form(
    story: Story, tmp_path: Path
) -> None:
    uri, password = story.settings.airflow_uri, password_file(story.settings, APPROVER).read_text()
    with browse(tmp_path) as browser:
        browser.open(f"{uri}/plugin/model")
        browser.wait("document.querySelector('input[name=password]') !== null")
        for name, text in (("username", APPROVER), ("password", password)):
            browser.type(f"input[name={name}]", text)
        browser.value("document.querySelector('button[type=submit]').click()")
        shown = browser.wait(f"{PAGE}?.querySelector('section') && {PAGE}.body.innerText")
        assert f"version {story.seen['version']}" in shown
        assert f"newest monitored day {story.seen['last day']}" in shown
        assert "Scoring service\nready" in shown
        assert browser.value(f"{PAGE}.querySelectorAll('polyline, circle').length") > 0
        assert "fraud_promote" in browser.value(f"{PAGE}.querySelector('table').closest('.row').innerText")
        browser.value(f"{PAGE}.querySelector('a[data-form][href$=fraud_roll_back]').click()")
        browser.wait("location.pathname == '/dags/fraud_roll_back' && window === window.top")
        form = browser.wait("document.querySelector('[role=dialog]:has(form, input)')?.innerText")
        assert "fraud_roll_back" in form
    assert story.airflow.runs("fraud_roll_back") == []


def test_the_credential_of_s3_is_in_no_rendered_template_no_log_and_no_other_file(story: Story) -> None:
    home = story.settings.home
    secret = os.environ["AWS_SECRET_ACCESS_KEY"].encode()
    kept = {home / "secrets" / "s3_secret", home / "run" / "environment.json"}  # readable by their owner
    assert {path for path in kept if secret in path.read_bytes()}
    files = {path for path in home.rglob("*") if path.is_file() and path not in kept}
    assert {path for path in files if secret in path.read_bytes()} == set()
    with closing(sqlite3.connect(f"file:{home}/airflow/airflow.db?mode=ro", uri=True)) as database:
        rows = database.execute("select rendered_fields from rendered_task_instance_fields").fetchall()
    rendered = [str(row[0]) for row in rows]
    assert any(str(FIRST) in text for text in rendered)  # the search above has seen them
    assert all(secret.decode() not in text for text in rendered)


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
