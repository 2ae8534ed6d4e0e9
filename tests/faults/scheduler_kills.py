"""Airflow's scheduler and triggerer are killed in the middle of a promotion under load, and started again.

In: a world with a champion and MLflow's server, and an Airflow of its own. Out: a `Promotion`: where Airflow
was killed, how long it took to go on, and what was wrong: a request lost, another share of customers than the
registry names, a step that was started or judged twice, a version that did not arrive.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from demo.airflow_api import FINISHED, Airflow
from jobs.conf.policy import policy_of
from jobs.lake.store import lake_of
from jobs.promotion import record
from jobs.promotion import state as registry
from stack.command import start_services
from stack.environment import ADMIN, password_file
from stack.processes import ProcessFolder
from stack.processes import stop as stop_process
from tests.faults.canaries_http import FOLLOW_SECONDS, followed
from tests.faults.load import Load, in_time
from tests.faults.outages import scored
from tests.faults.servers import World, not_logged, variables
from tests.faults.versions import graph, offer

API, KILLED = ("airflow-api", "airflow-dag-processor"), ("airflow-scheduler", "airflow-triggerer")
DAG, BUTTON = "fraud_promote", "fraud_roll_back"
RATE = 60.0
STARTED_SECONDS = 240.0  # from the alias to the run, on a machine that starts servers meanwhile
STEP_SECONDS = 240.0  # a step that has not come so far hangs
GOES_ON_SECONDS = 90.0  # from the start of the servers to the next look at the step
AWAY_SECONDS = 4.0


@dataclass(frozen=True)
class Killed:
    """One kill."""

    step: str
    task_state: str  # of the step's task when Airflow was killed
    seconds: float  # from Airflow's new start until the step was looked at again


@dataclass(frozen=True)
class Promotion:
    """A promotion whose Airflow was killed on the way."""

    version: str
    kills: tuple[Killed, ...]
    requests: int
    problems: tuple[str, ...]


@contextmanager
def airflow_of(ours: World) -> Iterator[Airflow]:
    """Airflow over the world's home, with fraud_promote alone switched on."""
    try:
        _start(ours, *API, *KILLED)
        airflow = Airflow(ours.settings.airflow_uri, ADMIN, password_file(ours.settings, ADMIN))
        found = airflow.wait_for("the DAGs", lambda: _dag(airflow), 120)
        airflow.unpause(DAG)
        # the watcher of its alias begins when an unpaused DAG is read, which is once a minute
        airflow._call("PUT", f"/api/v2/parseDagFile/{found['file_token']}")
        yield airflow
    finally:
        for name in (*KILLED, *API):
            stop_process(ProcessFolder(ours.settings.home), name, patience_seconds=0)


def _dag(airflow: Airflow) -> dict[str, Any] | None:
    return next((dag for dag in airflow.dags() if dag["dag_id"] == DAG), None)


def _start(ours: World, *names: str) -> None:
    mine = ours.settings.model_copy(update={"scoring_uri": ours.addresses[0]})  # confirm_serving asks it
    start_services(mine, {**ours.environment, **variables(mine)}, *names)


def promoted(ours: World, airflow: Airflow, kills: Mapping[str, str]) -> Promotion:
    """Offer a version and kill Airflow once in each of these steps, when its task is in the given state."""
    known = {run["dag_run_id"] for run in airflow.runs(DAG)}
    done: list[Killed] = []
    problems: list[str] = []
    with Load(ours.addresses, rate=RATE, first=time.time_ns() // 1_000_000) as load:
        version = offer(ours.settings, ours.folder, graph())
        run = airflow.wait_for("a promotion", lambda: _new_run(airflow, known), STARTED_SECONDS, 0.2)
        for step, state in kills.items():
            task = StepTask(airflow, run, step)
            task.wait_until(state)
            done.append(_killed(ours, task, problems))
        ended = airflow.wait_run(DAG, run, STEP_SECONDS)
        followed(ours, FOLLOW_SECONDS * 2, champion=version, challenger=None)
        time.sleep(1.0)
    if ended["state"] != "success":
        problems.append(f"the promotion ended as {ended['state']}: {_tasks(airflow, run)}")
    exchanges = load.exchanges()
    problems += [f"lost: {each.trouble}" for each in exchanges if each.lost]
    answered, late = in_time([each for each in exchanges if not each.lost])
    problems += late
    problems += [f"answered without a model: {each.answer}" for each in answered if not scored(each)]
    missing = not_logged(ours.settings, exchanges)
    problems += [f"{len(missing)} answers are not in the log"] if missing else []
    problems += wrong_record(ours, version)
    return Promotion(version, tuple(done), len(exchanges), tuple(problems))


def taken_back(ours: World, airflow: Airflow, version: str) -> list[str]:
    """Press Airflow's button after a promotion, with a reason alone as its form asks; says what was wrong."""
    client, name = registry.registry_client(ours.settings), ours.settings.model_name
    before = registry.read_aliases(client, name)[registry.PREVIOUS]
    airflow.unpause(BUTTON)
    run = airflow.trigger(BUTTON, {"reason": "worse than the one before"})
    ended = airflow.wait_run(BUTTON, run, STEP_SECONDS)
    if ended["state"] != "success":
        return [f"the rollback ended as {ended['state']}: {_tasks(airflow, run, BUTTON)}"]
    followed(ours, FOLLOW_SECONDS, champion=before, challenger=None)
    problems = [alert for told in ours.states() for alert in told["alerts"]]
    champion = registry.read_aliases(client, name)[registry.CHAMPION]
    if champion != before:
        problems.append(f"alias champion is on {champion}, not on {before}")
    last = record.read_all_rows(lake_of(ours.settings))[-1]
    told = (last.model_version, last.step, last.reason)
    if told != (version, record.ROLL_BACK_ROW, "worse than the one before"):
        problems.append(f"the record's last row is {told}")
    return problems


def wrong_record(ours: World, version: str) -> list[str]:
    """Steps of a version that were not passed once each, in their order."""
    rows = [row for row in record.read_all_rows(lake_of(ours.settings)) if row.model_version == version]
    passed = [row.step for row in rows if row.outcome == "pass"]
    steps = registry.steps_of(policy_of(ours.settings))
    wanted = [record.CHECK_ROW, *steps, record.PROMOTE_ROW]
    return [] if passed == wanted else [f"version {version} has passed {passed}, not {wanted}"]


def _killed(ours: World, task: StepTask, problems: list[str]) -> Killed:
    folder = ProcessFolder(ours.settings.home)
    busy = [each["task_id"] for each in task.airflow.tasks("~", state="running")]
    for name in reversed(KILLED):  # a triggerer that lives would wake the task meanwhile
        stop_process(folder, name, patience_seconds=0)
    found = task.seen()
    if found["state"] == "deferred" and busy:
        problems.append(f"{task.name} waits, and {busy} hold a worker")
    time.sleep(AWAY_SECONDS)
    share = registry.read_routing(registry.registry_client(ours.settings), ours.settings.model_name).percent
    if found["state"] == "deferred" and share != registry.percent_of(task.step):
        problems.append(f"{task.name} waits, and the registry gives the version {share} %")
    problems += [
        f"without Airflow a replica gives the version {state['percent']} %, not {share} %"
        for state in ours.states()
        if state["percent"] != share
    ]
    started = time.monotonic()
    _start(ours, *KILLED)
    task.wait_after(found)
    return Killed(task.step, found["state"], time.monotonic() - started)


class StepTask:
    """The task of one step in one run of the promotion."""

    def __init__(self, airflow: Airflow, run: str, step: str) -> None:
        self.airflow, self.run, self.step, self.name = airflow, run, step, f"run_{step}"

    def seen(self) -> dict[str, Any]:
        """What Airflow says of it."""
        (found,) = self.airflow.tasks(DAG, self.run, task_id=self.name)
        return found

    def wait_until(self, state: str) -> None:
        """Until it is in this state, and no later."""

        def reached() -> bool | None:
            found = self.seen()["state"]
            assert found not in FINISHED, f"{self.name} has ended as {found} and was never {state}"
            return found == state or None

        self.airflow.wait_for(f"{self.name} {state}", reached, STEP_SECONDS, 0.05)

    def wait_after(self, before: Mapping[str, Any]) -> None:
        """Until it has been taken up since: it has ended, or another process or another wait has it."""

        def taken_up() -> bool | None:
            now = self.seen()
            other = any(before[name] != now[name] for name in ("try_number", "pid", "trigger") if now[name])
            return now["state"] in FINISHED or other or None

        self.airflow.wait_for(f"{self.name} again", taken_up, STEP_SECONDS, 0.2)


def _new_run(airflow: Airflow, known: set[str]) -> str | None:
    found = [run["dag_run_id"] for run in airflow.runs(DAG) if run["dag_run_id"] not in known]
    return found[0] if found else None


def _tasks(airflow: Airflow, run: str, dag: str = DAG) -> dict[str, str]:
    return {task["task_id"]: task["state"] for task in airflow.tasks(dag, run)}
