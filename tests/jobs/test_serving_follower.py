"""Following a real registry: what is accepted, what is refused, and what outlives MLflow."""

from __future__ import annotations

import shutil
import socket
import time
from pathlib import Path
from threading import Event, Thread

import pytest

from jobs.conf.policy import load_policy
from jobs.conf.settings import Settings
from jobs.core import SluiceError
from jobs.locks import file_lock
from jobs.promotion.state import Routing
from jobs.serving import follower as follower_module
from jobs.serving.bundles import BundleRefused, bundles_folder, cached_bundle, fetch_bundle
from jobs.serving.follower import Follower
from tests.followed_registry import COMPLETED, NAMES, follower_of
from tests.served_bundles import constant_graph, logistic_graph, register, write_bundle

pytest_plugins = ("tests.served_bundles", "tests.followed_registry")


def unreachable(settings: Settings) -> Settings:
    return settings.model_copy(update={"mlflow_uri": "http://127.0.0.1:9"})


def test_a_version_is_fetched_once_and_then_served_without_mlflow(
    installation: Settings, bundle: Path
) -> None:
    _, version = register(installation, bundle)
    (bundles_folder(installation) / f".{version}.killed" / "half").mkdir(parents=True)
    folder = fetch_bundle(installation, version)
    assert folder == bundles_folder(installation) / version
    assert fetch_bundle(unreachable(installation), version) == folder
    left = sorted(path.name for path in folder.parent.iterdir())
    assert left == [f".{version}.lock", version]


def test_a_damaged_copy_is_fetched_again(installation: Settings, bundle: Path) -> None:
    _, version = register(installation, bundle)
    folder = fetch_bundle(installation, version)
    (folder / "torch.onnx").write_bytes(b"half")
    assert cached_bundle(installation, version) is None
    assert cached_bundle(installation, fetch_bundle(installation, version).name) == folder


def test_a_version_that_does_not_answer_is_never_accepted(installation: Settings, tmp_path: Path) -> None:
    broken = write_bundle(tmp_path / "nan", NAMES, constant_graph(float("nan"), 3))
    _, version = register(installation, broken)
    with pytest.raises(BundleRefused, match="finite"):
        fetch_bundle(installation, version)
    assert not (bundles_folder(installation) / version).exists()


def test_versions_that_do_not_exist_or_are_no_numbers_are_errors_for_a_person(
    installation: Settings, bundle: Path
) -> None:
    register(installation, bundle)
    with pytest.raises(SluiceError, match="99"):
        fetch_bundle(installation, "99")
    with pytest.raises(SluiceError, match="a version is a number"):
        fetch_bundle(installation, "../1")
    with pytest.raises(SluiceError, match="MLflow does not answer") as told:
        fetch_bundle(unreachable(installation), "1")
    assert not isinstance(told.value, BundleRefused), "another time it may be fetched"


def test_a_promoted_champion_is_served_and_the_next_one_replaces_it(
    installation: Settings, bundle: Path
) -> None:
    client, first = register(installation, bundle, COMPLETED)
    _, second = register(installation, bundle, COMPLETED)
    follower = follower_of(installation)
    follower.poll()
    assert follower.state.champion is None
    for version in (first, second):
        client.set_registered_model_alias(installation.model_name, "champion", version)
        follower.poll()
        assert follower.state.champion is not None
        assert follower.state.champion.version == version
    assert follower.state.alerts == ()


def test_a_champion_moved_by_hand_is_not_served_and_alerts(installation: Settings, bundle: Path) -> None:
    client, promoted = register(installation, bundle, COMPLETED)
    _, unproven = register(installation, bundle)
    name = installation.model_name
    client.set_registered_model_alias(name, "champion", promoted)
    follower = follower_of(installation)
    follower.poll()
    client.set_registered_model_alias(name, "champion", unproven)
    follower.poll()
    assert follower.state.champion is not None
    assert follower.state.champion.version == promoted
    assert any(f"version {unproven}" in alert for alert in follower.state.alerts)
    # nor does naming it previous make it one to go back to
    client.set_registered_model_alias(name, "previous", unproven)
    follower.poll()
    assert follower.state.champion.version == promoted
    assert follower.state.alerts


@pytest.mark.parametrize("record", ["completed", "rolled_back"])
def test_a_version_that_served_is_gone_back_to_by_hand(
    installation: Settings, bundle: Path, record: str
) -> None:
    client, promoted = register(installation, bundle, COMPLETED)
    _, before = register(installation, bundle, {"sluice.promotion": record, "sluice.previous": ""})
    name = installation.model_name
    for alias, version in (("previous", before), ("champion", promoted), ("champion", before)):
        client.set_registered_model_alias(name, alias, version)
    follower = follower_of(installation)
    follower.poll()
    assert follower.state.champion is not None
    assert follower.state.champion.version == before
    assert follower.state.alerts == ()


def test_a_refused_champion_stays_refused_after_a_restart(installation: Settings, bundle: Path) -> None:
    client, promoted = register(installation, bundle, COMPLETED)
    _, unproven = register(installation, bundle)
    name = installation.model_name
    client.set_registered_model_alias(name, "champion", promoted)
    follower_of(installation).poll()
    client.set_registered_model_alias(name, "champion", unproven)
    restarted = follower_of(installation)
    restarted.restore()
    restarted.poll()
    assert restarted.state.champion is not None
    assert restarted.state.champion.version == promoted
    assert restarted.state.alerts


def test_a_removed_alias_leaves_the_champion_in_place(installation: Settings, bundle: Path) -> None:
    client, version = register(installation, bundle, COMPLETED)
    client.set_registered_model_alias(installation.model_name, "champion", version)
    follower = follower_of(installation)
    follower.poll()
    client.delete_registered_model_alias(installation.model_name, "champion")
    follower.poll()
    assert follower.state.champion is not None
    assert "champion is gone" in follower.state.alerts[0]


def test_a_canary_step_is_followed_and_survives_a_restart_without_mlflow(
    installation: Settings, bundle: Path
) -> None:
    client, first = register(installation, bundle, COMPLETED)
    canary = {"sluice.promotion": "canary", "sluice.step": "canary_25"}
    _, second = register(installation, bundle, canary)
    client.set_registered_model_alias(installation.model_name, "champion", first)
    client.set_registered_model_alias(installation.model_name, "challenger", second)
    follower = follower_of(installation)
    follower.poll()
    restarted = follower_of(unreachable(installation))
    restarted.restore()
    restarted.poll()
    for each in (follower, restarted):
        assert each.state.champion is not None
        assert each.state.challenger is not None
        assert (each.state.champion.version, each.state.challenger.version) == (first, second)
        assert (each.state.step, each.state.percent) == ("canary_25", 25)
    assert "MLflow does not answer" in restarted.last_error


def test_the_registry_going_away_changes_nothing(installation: Settings, bundle: Path) -> None:
    client, version = register(installation, bundle, COMPLETED)
    client.set_registered_model_alias(installation.model_name, "champion", version)
    follower = follower_of(installation)
    follower.poll()
    before = follower.state
    follower._settings = unreachable(installation)
    follower._client = None
    follower.poll()
    assert follower.state is before
    follower._settings = installation
    follower.poll()
    assert follower.last_error == ""
    assert follower.state is before


def test_a_model_for_other_features_is_not_served(installation: Settings, tmp_path: Path) -> None:
    older = write_bundle(tmp_path / "older", NAMES, constant_graph(0.1, 3), feature_version="of last year")
    other = write_bundle(tmp_path / "other", NAMES[::-1], logistic_graph({}, 0.0, 3))
    versions = [register(installation, folder)[1] for folder in (older, other)]
    follower = follower_of(installation)
    for version, words in zip(versions, ("of last year", "other features"), strict=True):
        follower.accept(Routing(champion=version))
        assert follower.state.champion is None
        assert words in follower.state.alerts[0]


def test_a_challenger_that_cannot_be_loaded_gets_no_traffic(
    installation: Settings, bundle: Path, tmp_path: Path
) -> None:
    _, good = register(installation, bundle)
    nan = write_bundle(tmp_path / "nan", NAMES, constant_graph(float("nan"), 3))
    _, bad = register(installation, nan)
    follower = follower_of(installation)
    follower.accept(Routing(champion=good, challenger=bad, step="canary_5", percent=5))
    assert follower.state.champion is not None
    assert follower.state.challenger is None
    assert (follower.state.step, follower.state.percent) == ("", 0)
    assert f"version {bad} cannot be served" in follower.state.alerts[0]


def test_lost_bundles_and_a_broken_state_file_are_no_reason_to_stop(
    installation: Settings, bundle: Path
) -> None:
    client, version = register(installation, bundle, COMPLETED)
    client.set_registered_model_alias(installation.model_name, "champion", version)
    follower_of(installation).poll()
    shutil.rmtree(bundles_folder(installation))
    restarted = follower_of(unreachable(installation))
    restarted.restore()
    assert restarted.state.champion is None
    assert "not on this machine" in restarted.state.alerts[0]
    restarted._settings = installation
    restarted.poll()
    assert restarted.state.champion is not None
    (installation.home / "serving" / "state.json").write_text("{")
    again = follower_of(installation)
    again.restore()
    assert again.state.champion is None


def test_a_challenger_that_is_taken_off_leaves_before_the_next_one_is_fetched(
    installation: Settings, bundle: Path
) -> None:
    client, champion = register(installation, bundle, COMPLETED)
    canary = {"sluice.promotion": "canary", "sluice.step": "canary_25"}
    _, bad = register(installation, bundle, canary)
    _, after = register(installation, bundle, canary)
    name = installation.model_name
    client.set_registered_model_alias(name, "champion", champion)
    client.set_registered_model_alias(name, "challenger", bad)
    follower = follower_of(installation)
    follower.poll()
    assert follower.state.percent == 25
    client.set_registered_model_alias(name, "challenger", after)
    with file_lock(bundles_folder(installation) / f".{after}.lock"):  # another replica fetches it, slowly
        look = Thread(target=follower.poll)
        look.start()
        deadline = time.monotonic() + 5
        while follower.state.challenger is not None and time.monotonic() < deadline:
            time.sleep(0.01)
        assert follower.state.challenger is None
        assert follower.state.champion is not None
        assert follower.state.champion.version == champion
    look.join(20)
    assert follower.state.challenger is not None
    assert follower.state.challenger.version == after


def test_what_was_served_before_a_restart_counts_only_after_a_look_at_the_registry(
    installation: Settings, bundle: Path
) -> None:
    client, champion = register(installation, bundle, COMPLETED)
    canary = {"sluice.promotion": "canary", "sluice.step": "canary_25"}
    _, bad = register(installation, bundle, canary)
    name = installation.model_name
    client.set_registered_model_alias(name, "champion", champion)
    client.set_registered_model_alias(name, "challenger", bad)
    follower_of(installation).poll()
    client.delete_registered_model_alias(name, "challenger")  # rolled back while the service was down
    restarted = follower_of(installation)
    restarted.start()
    try:
        assert restarted.ready.wait(20)
        assert restarted.state.challenger is None
    finally:
        restarted.stop()


def test_a_restart_does_not_wait_for_a_registry_that_hangs(
    installation: Settings, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, champion = register(installation, bundle, COMPLETED)
    client.set_registered_model_alias(installation.model_name, "champion", champion)
    follower_of(installation).poll()
    monkeypatch.setattr(follower_module, "FIRST_LOOK_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as mute:  # takes connections and never answers
        hanging = f"http://127.0.0.1:{mute.getsockname()[1]}"
        restarted = follower_of(installation.model_copy(update={"mlflow_uri": hanging}))
        restarted.start()
        assert restarted.ready.wait(5)
        assert restarted.polls == 0
        assert restarted.state.champion is not None
        assert restarted.state.champion.version == champion
        restarted.stop()


def test_a_restart_is_not_ready_before_the_feature_stores_were_tried(
    installation: Settings, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, champion = register(installation, bundle, COMPLETED)
    client.set_registered_model_alias(installation.model_name, "champion", champion)
    follower_of(installation).poll()
    monkeypatch.setattr(follower_module, "FIRST_LOOK_SECONDS", 0.05)
    tried = Event()

    def slowly() -> None:
        tried.wait(10)

    restarted = Follower(installation, load_policy(), NAMES, "test", each_time=slowly)
    restarted.start()
    assert not restarted.ready.wait(0.5)
    tried.set()
    assert restarted.ready.wait(20)
    restarted.stop()
