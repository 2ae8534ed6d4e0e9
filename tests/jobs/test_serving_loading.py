"""What takes long to fetch, or to answer, holds up nothing that can be followed."""

from __future__ import annotations

import threading
import time
from pathlib import Path

from jobs.conf.policy import load_policy
from jobs.conf.settings import Settings
from jobs.locks import file_lock
from jobs.serving.bundles import bundles_folder
from jobs.serving.follower import Follower
from tests.followed_registry import COMPLETED, NAMES, comes, follower_of, serves
from tests.served_bundles import register

pytest_plugins = ("tests.served_bundles", "tests.followed_registry")
FOLLOWED_SECONDS = 5.0


def test_a_champion_that_is_moved_back_is_followed_while_a_challenger_is_fetched_slowly(
    installation: Settings, bundle: Path
) -> None:
    client, before = register(installation, bundle, COMPLETED)
    _, champion = register(installation, bundle, COMPLETED)
    _, challenger = register(installation, bundle, {"sluice.promotion": "canary", "sluice.step": "canary_25"})
    name = installation.model_name
    client.set_registered_model_alias(name, "champion", champion)
    client.set_registered_model_alias(name, "previous", before)
    follower = follower_of(installation)
    follower.start()
    try:
        assert comes(serves(follower, champion))
        with file_lock(bundles_folder(installation) / f".{challenger}.lock"):  # another replica fetches it
            client.set_registered_model_alias(name, "challenger", challenger)
            assert comes(lambda: f"load-{challenger}" in {thread.name for thread in threading.enumerate()})
            moved = time.monotonic()
            client.set_registered_model_alias(name, "champion", before)
            assert comes(serves(follower, before))
            assert time.monotonic() - moved < FOLLOWED_SECONDS
            assert (follower.state.challenger, follower.state.percent) == (None, 0)
        assert comes(lambda: follower.state.challenger is not None)
        assert (follower.state.step, follower.state.percent) == ("canary_25", 25)
    finally:
        follower.stop()


def test_a_challenger_is_taken_off_while_the_next_champion_is_fetched_slowly(
    installation: Settings, bundle: Path
) -> None:
    client, champion = register(installation, bundle, COMPLETED)
    _, after = register(installation, bundle, COMPLETED)
    canary = {"sluice.promotion": "canary", "sluice.step": "canary_25"}
    _, challenger = register(installation, bundle, canary)
    name = installation.model_name
    client.set_registered_model_alias(name, "champion", champion)
    follower = follower_of(installation)
    follower.start()
    try:
        assert comes(serves(follower, champion))
        with file_lock(bundles_folder(installation) / f".{after}.lock"):
            client.set_registered_model_alias(name, "champion", after)
            assert comes(lambda: f"load-{after}" in {thread.name for thread in threading.enumerate()})
            client.set_registered_model_alias(name, "challenger", challenger)
            assert comes(lambda: follower.state.percent == 25)
            client.delete_registered_model_alias(name, "challenger")
            assert comes(lambda: follower.state.percent == 0)
            assert serves(follower, champion)()
        assert comes(serves(follower, after))
    finally:
        follower.stop()


def test_a_service_with_nothing_to_serve_is_ready_once_its_champion_is_fetched(
    installation: Settings, bundle: Path
) -> None:
    client, champion = register(installation, bundle, COMPLETED)
    client.set_registered_model_alias(installation.model_name, "champion", champion)
    follower = follower_of(installation)
    with file_lock(bundles_folder(installation) / f".{champion}.lock"):
        follower.start()
        assert comes(lambda: follower.polls > 1)
        assert not follower.ready.is_set()
    assert follower.ready.wait(20)
    assert serves(follower, champion)()
    follower.stop()


def test_a_feature_store_that_hangs_holds_up_no_change_of_the_champion(
    installation: Settings, bundle: Path
) -> None:
    client, champion = register(installation, bundle, COMPLETED)
    _, after = register(installation, bundle, COMPLETED)
    client.set_registered_model_alias(installation.model_name, "champion", champion)
    hanging, answers = threading.Event(), threading.Event()

    def upkeep() -> None:
        if follower.ready.is_set():
            hanging.set()
            answers.wait(30)

    follower = Follower(installation, load_policy(), NAMES, "test", each_time=upkeep)
    follower.start()
    try:
        assert hanging.wait(20)
        client.set_registered_model_alias(installation.model_name, "champion", after)
        assert comes(serves(follower, after))
        assert not answers.is_set()
    finally:
        answers.set()
        follower.stop()
