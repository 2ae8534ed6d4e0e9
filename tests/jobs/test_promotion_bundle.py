"""What the check asks of a challenger's bundle: it is the judged one, it answers, and as it did offline."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.conf.settings import Settings
from jobs.core import GateClosed
from jobs.promotion import check
from jobs.training.bundle_writer import LIVE_DRILLS
from tests.faults import versions
from tests.promotion_support import checked, offer, routing, tag

pytest_plugins = ("tests.promotion_support",)


@pytest.mark.parametrize("drill", ["", "none", "shuffled_labels", "anything at all"])
def test_a_bundle_other_than_the_judged_one_is_refused(place: Settings, tmp_path: Path, drill: str) -> None:
    version = offer(place, tmp_path, drill=drill, bundle_digest="0" * 48)
    with pytest.raises(GateClosed, match="not the bundle that the gate judged"):
        checked(place, version)


@pytest.mark.parametrize("drill", LIVE_DRILLS)
def test_a_drill_that_spoils_the_judged_bundle_is_left_to_the_canary(
    place: Settings, tmp_path: Path, drill: str
) -> None:
    version = offer(place, tmp_path, drill=drill, bundle_digest="0" * 48, scored_apart=0.3)
    assert checked(place, version).facts["outcome"] == "pass"


def test_a_version_that_does_not_say_which_bundle_was_judged_is_refused(
    place: Settings, tmp_path: Path
) -> None:
    version = offer(place, tmp_path, bundle_digest="")
    with pytest.raises(GateClosed, match=r"no sluice\.bundle_digest"):
        checked(place, version)


@pytest.mark.parametrize(("apart", "passes"), [(5e-5, True), (2e-4, False), (float("nan"), False)])
def test_a_bundle_that_scores_its_test_rows_otherwise_than_offline_is_refused(
    place: Settings, tmp_path: Path, apart: float, passes: bool
) -> None:
    version = offer(place, tmp_path, scored_apart=apart)
    if passes:
        assert checked(place, version).facts["outcome"] == "pass"
        return
    with pytest.raises(GateClosed, match="from the offline scores"):
        checked(place, version)


def test_a_version_whose_graph_raises_is_refused(place: Settings, tmp_path: Path) -> None:
    crowned = versions.crown(place, tmp_path, versions.graph())
    raising = versions.offer(place, tmp_path, versions.graph("raises", always=True))
    with pytest.raises(GateClosed, match="a row of zeros or of gaps"):
        check.run(check.Params(version=raising), place)
    assert tag(place, raising, "promotion") == "refused"
    assert routing(place).champion == crowned
