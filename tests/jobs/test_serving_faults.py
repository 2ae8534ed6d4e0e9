"""Two scoring services under load lose no request: a sample of what `make faults` does at length.

One world for the module; each test leaves it as the next one needs it: replicas that serve, and a champion.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from demo.airflow_api import Airflow
from jobs.conf.settings import load_settings
from tests import redis_server
from tests.faults import canaries_http, flips, outages, restarts, scheduler_kills
from tests.faults.canaries_http import BACK_SECONDS, FOLLOW_SECONDS
from tests.faults.scheduler_kills import GOES_ON_SECONDS
from tests.faults.servers import World, start_all, world
from tests.faults.versions import Fault
from tests.s3_server import free_port

SEED = 1
FAULT: Fault = "miscalibrated"
HANDS, TIMED_MOVES, CUSTOMERS = 10, 3, 100


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    if redis_server.binary() is None:
        pytest.skip(redis_server.NOWHERE)
    folder = tmp_path_factory.mktemp("served")
    home = load_settings({"SLUICE_HOME": str(folder / "home")})
    home = home.model_copy(update={"airflow_uri": f"http://127.0.0.1:{free_port()}"})
    with world(folder, home, replicas=2, mlflow_server=True) as made:
        start_all(made)
        canaries_http.settle(made)
        yield made


@pytest.fixture(scope="module")
def airflow(ours: World) -> Iterator[Airflow]:
    with scheduler_kills.airflow_of(ours) as made:
        yield made


def test_while_redis_is_away_the_rules_answer_and_then_the_champion_again(ours: World) -> None:
    assert outages.redis_outage(ours).problems == ()


def test_while_the_lake_is_away_the_champion_answers_and_the_log_is_whole_afterwards(ours: World) -> None:
    assert outages.lake_outage(ours).problems == ()


def test_a_canary_that_turns_bad_is_off_within_seconds(ours: World) -> None:
    champion = ours.state()["champion"]
    story = canaries_http.bad_canary(ours, FAULT, champion)
    assert story.problems == ()
    assert (story.outcome, story.step) == ("rolled_back", "canary_5")
    assert story.seconds_back < BACK_SECONDS


def test_aliases_moved_by_many_hands_never_leave_a_request_without_its_model(ours: World) -> None:
    players = flips.cast(ours)
    found = flips.flipped(ours, players, HANDS, TIMED_MOVES, SEED)
    assert found.problems == ()
    assert found.slowest_agreement < FOLLOW_SECONDS
    assert flips.routed_alike(ours, players, CUSTOMERS) == []


def test_a_killed_replica_comes_back_with_the_same_champion_step_and_customers(ours: World) -> None:
    assert restarts.killed(ours, flips.cast(ours), SEED).problems == ()


def test_a_promotion_goes_on_where_it_waited_when_scheduler_and_triggerer_were_killed(
    ours: World, airflow: Airflow
) -> None:
    found = scheduler_kills.promoted(ours, airflow, {"canary_5": "deferred"})
    assert found.problems == ()
    assert [(kill.step, kill.task_state) for kill in found.kills] == [("canary_5", "deferred")]
    assert found.kills[0].seconds < GOES_ON_SECONDS


def test_the_button_of_airflow_takes_the_promoted_version_back(ours: World, airflow: Airflow) -> None:
    champion = ours.state()["champion"]
    assert scheduler_kills.taken_back(ours, airflow, champion) == []
