"""The version that a rollback would serve is loaded beside what serves, on every replica."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import pytest

from jobs.conf.settings import Settings
from jobs.locks import file_lock
from jobs.promotion.roll_back import withdraw
from jobs.serving.bundles import bundles_folder
from tests.followed_registry import COMPLETED, NAMES, comes, follower_of, serves
from tests.served_bundles import constant_graph, register, registry_in, write_bundle

pytest_plugins = ("tests.served_bundles", "tests.followed_registry")


def test_a_restarted_service_goes_back_to_the_previous_version_while_the_artifacts_are_away(
    home: Settings, bundle: Path, tmp_path: Path
) -> None:
    installation = home.model_copy(update={"mlflow_uri": registry_in(tmp_path / "registry")})
    name = installation.model_name
    client, before = register(installation, bundle, COMPLETED)
    _, champion = register(installation, bundle, COMPLETED)
    client.set_registered_model_alias(name, "champion", champion)
    client.set_registered_model_alias(name, "previous", before)
    follower = follower_of(installation)  # on a machine that has never seen either of them
    follower.start()
    try:
        assert comes(lambda: follower.way_back.model is not None)
        (tmp_path / "registry" / "artifacts").rename(tmp_path / "away")
        shutil.rmtree(bundles_folder(installation))
        withdraw(client, name, champion, "worse than before")
        assert comes(serves(follower, before))
        assert follower.state.alerts == ()
    finally:
        follower.stop()


def test_a_previous_version_that_is_fetched_slowly_holds_up_nothing(
    installation: Settings, bundle: Path
) -> None:
    client, before = register(installation, bundle, COMPLETED)
    _, champion = register(installation, bundle, COMPLETED)
    _, after = register(installation, bundle, COMPLETED)
    name = installation.model_name
    client.set_registered_model_alias(name, "champion", champion)
    client.set_registered_model_alias(name, "previous", before)
    follower = follower_of(installation)
    with file_lock(bundles_folder(installation) / f".{before}.lock"):  # another replica fetches it, slowly
        follower.start()
        assert follower.ready.wait(20)
        assert comes(lambda: "way-back" in {thread.name for thread in threading.enumerate()})
        assert serves(follower, champion)()
        client.set_registered_model_alias(name, "champion", after)
        assert comes(serves(follower, after))
        assert follower.way_back.model is None
    assert comes(lambda: follower.way_back.model is not None)
    follower.stop()


def test_a_previous_version_that_cannot_be_served_is_told_of_and_changes_nothing(
    installation: Settings, bundle: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    older = write_bundle(tmp_path / "older", NAMES, constant_graph(0.1, 3), feature_version="of last year")
    client, before = register(installation, older, COMPLETED)
    _, champion = register(installation, bundle, COMPLETED)
    client.set_registered_model_alias(installation.model_name, "champion", champion)
    client.set_registered_model_alias(installation.model_name, "previous", before)
    follower = follower_of(installation)
    follower.start()
    assert comes(lambda: "of last year" in caplog.text)
    assert (serves(follower, champion)(), follower.state.alerts) == (True, ())
    follower.stop()
