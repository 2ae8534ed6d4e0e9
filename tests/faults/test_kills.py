"""SIGKILL at any moment leaves one whole version, and running again gives what an undisturbed run gives."""

from __future__ import annotations

import random

import pytest

from tests.faults.kills import STAGES, Kill, kill, prepare

KILLS = 2  # of each stage; `make faults` makes more


@pytest.fixture(scope="module")
def kills(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Kill]]:
    found = {}
    for stage, ready in prepare(tmp_path_factory.mktemp("kills")):
        chance = random.Random(f"sample {stage}")
        found[stage] = [kill(stage, ready, chance) for _ in range(KILLS)]
    return found


@pytest.mark.parametrize("stage", STAGES)
def test_a_killed_stage_leaves_a_whole_version_and_can_be_run_again(
    kills: dict[str, list[Kill]], stage: str
) -> None:
    assert [problem for each in kills[stage] for problem in each.problems] == []


def test_writes_were_open_when_some_of_the_kills_fell(kills: dict[str, list[Kill]]) -> None:
    assert any(each.was_open for found in kills.values() for each in found)
