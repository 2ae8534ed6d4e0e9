"""One installation for all end-to-end tests, and the story that is told in it once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from jobs.conf.settings import Settings
from tests.e2e.story import PLAN, Story, tell
from tests.installation import installed


@pytest.fixture(scope="package")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    with installed(tmp_path_factory.mktemp("chain"), PLAN, overlay="small") as ours:
        yield ours


@pytest.fixture(scope="package")
def story(installation: Settings) -> Story:
    """The chain, told once."""
    return tell(installation)
