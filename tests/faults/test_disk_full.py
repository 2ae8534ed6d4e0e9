"""A disk that is full: a sentence that says so, the old version as it was, and success once there is room."""

from __future__ import annotations

import pytest

from jobs.core import SluiceError
from jobs.disk import is_full
from tests.faults.disks import NO_ROOT, can_mount, on_full_disk, on_limited_files, small_disk
from tests.faults.kills import CHAIN, prepare

LEFT = 8 * 1024  # bytes: enough to begin some of the writes
LIMITS = (0, 600)  # bytes of a file: nothing at all, and a log entry but no data


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, list[str]]]:
    """Problems of each stage, by the kind of the full disk."""
    folder = tmp_path_factory.mktemp("full")
    problems: dict[str, dict[str, list[str]]] = {}
    for stage, ready in prepare(folder, tuple(CHAIN)):  # `make faults` fills it for a backfill, too
        limited = [problem for limit in LIMITS for problem in on_limited_files(stage, ready, limit)]
        problems[stage] = {"limit": limited}
        if can_mount():
            with small_disk(folder / "disk") as disk:
                problems[stage]["tmpfs"] = on_full_disk(stage, ready, disk, LEFT)
    return problems


@pytest.mark.parametrize("stage", CHAIN)
def test_files_that_may_not_grow_leave_the_old_version_and_a_sentence(
    found: dict[str, dict[str, list[str]]], stage: str
) -> None:
    assert found[stage]["limit"] == []


@pytest.mark.skipif(not can_mount(), reason=NO_ROOT)
@pytest.mark.parametrize("stage", CHAIN)
def test_a_full_disk_leaves_the_old_version_and_a_sentence(
    found: dict[str, dict[str, list[str]]], stage: str
) -> None:
    assert found[stage]["tmpfs"] == []


def test_a_full_disk_is_known_by_what_an_error_came_from() -> None:
    hidden = SluiceError("the folder cannot be used")
    hidden.__context__ = OSError(28, "No space left on device")
    assert is_full(hidden)
    assert is_full(RuntimeError("database or disk is full"))
    assert not is_full(SluiceError("the file is empty"))
