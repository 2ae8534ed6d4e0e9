"""Versions that nobody serves, offers or may go back to are archived, and no others."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow import MlflowClient

from jobs import cli
from jobs.conf import settings as process
from jobs.conf.settings import Settings
from jobs.core import GateClosed, Receipt, SluiceError
from jobs.lake.pins import pin, pinned
from jobs.lake.store import lake_of
from jobs.lake.tables import MERGED_LABELS, PINS
from jobs.maintenance.archive_versions import stale
from jobs.promotion import check
from jobs.promotion import state as registry
from jobs.promotion.state import VersionState
from tests.data_support import run_named
from tests.served_bundles import registry_in

LATER = timedelta(days=90)  # what the policy says
DAY = date(2026, 1, 5)


@pytest.fixture(scope="module")
def mlflow_uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return registry_in(tmp_path_factory.mktemp("registry"))


@pytest.fixture
def ours(home: Settings, mlflow_uri: str, request: pytest.FixtureRequest) -> Settings:
    """An installation whose model is its own within the shared registry."""
    settings = home.model_copy(update={"mlflow_uri": mlflow_uri, "model_name": request.node.name})
    client_of(settings).create_registered_model(settings.model_name)
    return settings


def client_of(ours: Settings) -> MlflowClient:
    return registry.registry_client(ours)


def registered(ours: Settings, run: str, alias: str = "", **tags: str) -> str:
    """A version whose run has pinned a table version."""
    marks = {"run": run, "gate": "automatic", "day": str(DAY)} | tags
    named = {f"sluice.{key}": value for key, value in marks.items()}
    version = client_of(ours).create_model_version(ours.model_name, "nowhere", tags=named).version
    pin(lake_of(ours), f"run.{run}", {MERGED_LABELS.name: int(version)})
    if alias:
        client_of(ours).set_registered_model_alias(ours.model_name, alias, version)
    return str(version)


def today(ours: Settings, version: str) -> date:
    """The day that a version was registered on."""
    return found(ours, version).registered_at.date()


def found(ours: Settings, version: str) -> VersionState:
    state = registry.read_version(client_of(ours), ours.model_name, version)
    assert state is not None
    return state


def archive(ours: Settings, day: date, *, dry_run: bool = False) -> Receipt:
    return run_named("archive_versions", ours, day, dry_run=dry_run)


def pins(ours: Settings) -> set[str]:
    return {row["name"] for row in lake_of(ours).read(PINS).to_pylist()}


def test_a_stale_version_is_archived_on_its_ninetieth_day_and_lets_go_of_its_tables(ours: Settings) -> None:
    version = registered(ours, "old")
    ninetieth = today(ours, version) + LATER
    assert archive(ours, ninetieth - timedelta(days=1)).facts["versions"] == []
    assert archive(ours, ninetieth, dry_run=True).facts["versions"] == [version]
    assert "run.old" in pins(ours)
    receipt = archive(ours, ninetieth)
    assert (receipt.facts["versions"], receipt.facts["pins"]) == ([version], ["run.old"])
    tags = found(ours, version).tags
    assert tags[registry.TAG_ARCHIVED] == str(ninetieth)
    assert tags[registry.TAG_PROMOTION] == registry.REFUSED
    assert "train again" in tags[registry.TAG_PROMOTION_REASON]
    assert pinned(lake_of(ours)) == {}
    again = archive(ours, ninetieth + LATER)
    assert (again.facts["versions"], again.facts["pins"]) == ([], [])
    assert found(ours, version).tag(registry.TAG_ARCHIVED) == str(ninetieth), "the first day stays"


def test_what_serves_is_offered_or_may_be_gone_back_to_is_kept_whatever_its_age(ours: Settings) -> None:
    older = registered(ours, "older", promotion="completed")
    kept = [
        registered(ours, "before", "previous", promotion="completed"),
        registered(ours, "serves", "champion", promotion="completed", previous=older),
        registered(ours, "offered", "challenger", promotion="offered"),
        registered(ours, "named", "a-persons-own"),
        registered(ours, "canary", promotion="canary"),
    ]
    stale_one = registered(ours, "stale", promotion="completed")
    receipt = archive(ours, today(ours, older) + 100 * LATER)
    assert receipt.facts["versions"] == [stale_one]
    assert not [version for version in [older, *kept] if found(ours, version).tag(registry.TAG_ARCHIVED)]
    assert pins(ours) == {f"run.{run}" for run in ("older", "before", "serves", "offered", "named", "canary")}
    assert found(ours, stale_one).tag(registry.TAG_PROMOTION) == registry.COMPLETED, "it stays on record"


def test_nothing_is_archived_while_it_is_not_known_what_serves(ours: Settings) -> None:
    version = registered(ours, "served", promotion="completed")
    with pytest.raises(SluiceError, match="nothing is archived: alias champion is gone"):
        archive(ours, today(ours, version) + 2 * LATER)
    assert pins(ours) == {"run.served"}


def test_a_run_for_an_earlier_day_archives_nothing_younger_and_old_days_make_no_old_model(
    ours: Settings,
) -> None:
    registered(ours, "on-old-days", day="2020-01-01")
    ahead = registered(ours, "on-days-to-come", day="2100-01-01")
    assert archive(ours, DAY).facts["versions"] == []
    assert archive(ours, today(ours, ahead)).facts["versions"] == []
    assert archive(ours, date(2100, 3, 31)).facts["versions"] == ["1"]
    assert archive(ours, date(2100, 4, 1)).facts["versions"] == [ahead]


def test_pins_that_a_killed_job_left_go_with_the_next_and_a_shared_run_keeps_its_own(ours: Settings) -> None:
    killed = registered(ours, "killed", archived="2026-01-05")
    young = registered(ours, "shared")
    registered(ours, "shared", archived="2026-01-05")
    assert archive(ours, today(ours, killed)).facts["pins"] == ["run.killed"]
    assert pins(ours) == {"run.shared"}
    assert archive(ours, today(ours, young) + LATER).facts["pins"] == ["run.shared"]


def test_an_archived_version_is_offered_to_nobody_and_says_so(
    ours: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    version = registered(ours, "old")
    day = today(ours, version) + LATER
    archive(ours, day)
    client_of(ours).set_registered_model_alias(ours.model_name, "challenger", version)
    with pytest.raises(GateClosed, match=f"archived as of {day}, and the tables .* train again"):
        check.run(check.Params(version=version), ours)
    assert registry.read_aliases(client_of(ours), ours.model_name) == {}
    process.settings.cache_clear()
    monkeypatch.setenv("SLUICE_HOME", str(tmp_path))
    monkeypatch.setenv("SLUICE_MLFLOW_URI", ours.mlflow_uri)
    monkeypatch.setenv("SLUICE_MODEL_NAME", ours.model_name)
    assert cli.main(["model", "show", version]) == 0
    process.settings.cache_clear()
    assert f"archived        it was archived as of {day}" in capsys.readouterr().out


def test_a_day_that_is_no_day_is_named(ours: Settings) -> None:
    version = registered(ours, "odd", day="soon")
    with pytest.raises(SluiceError, match=f"version {version}: its tag sluice.day is 'soon'"):
        archive(ours, DAY)


STATES = st.builds(
    lambda number, created, promotion, archived: VersionState(
        version=str(number), run_id="", source="", registered_at=datetime(2026, 1, created, tzinfo=UTC),
        tags={registry.TAG_PROMOTION: promotion, registry.TAG_ARCHIVED: archived},
    ),
    st.integers(1, 9), st.integers(1, 28), st.sampled_from(["", "shadow", "completed", "rolled_back"]),
    st.sampled_from(["", "2026-01-01"]),
)  # fmt: skip


@given(st.lists(STATES), st.sets(st.integers(1, 9).map(str)), st.integers(2, 27))
def test_the_kept_are_never_stale_and_who_is_stale_stays_so(
    versions: list[VersionState], kept: set[str], before: int
) -> None:
    earlier = stale(versions, kept, date(2026, 1, before))
    later = stale(versions, kept, date(2026, 1, before + 1))
    assert not kept & {each.version for each in later}
    assert all(each in later for each in earlier)
    assert all(each.tag(registry.TAG_PROMOTION) not in registry.UNDER_WAY for each in later)
    assert all(each.registered_at.day < before for each in earlier)
