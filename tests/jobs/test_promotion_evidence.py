"""A step's evidence is read in parts: memory holds one of them, and the verdict is that of the whole log."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from jobs.conf.settings import Settings
from jobs.core import Outcome
from jobs.lake.store import lake_of
from jobs.lake.tables import LABELS
from jobs.promotion import evidence, look
from jobs.promotion.look import StepEvidence, requests_in
from jobs.promotion.state import VersionState
from jobs.promotion.step_log import StepLog, known_frauds, windows
from jobs.promotion.verdict import judge
from jobs.serving.log_rows import Prediction
from tests import promotion_logs
from tests.promotion_logs import APPENDED_SECONDS, BEGUN, CHALLENGER, CHAMPION
from tests.promotion_trials import DEMO, RATE

LATE = 1.5  # seconds after its answer a shadow is scored
FASTER = 600  # ten seconds are 100 minutes of the day
AT_ONCE = 700  # rows of a step in memory


class Late(promotion_logs.Promotion):
    """A promotion whose shadows are scored a little after their answers, as the service does.

    Its payments are of a day that passes fast, so that a step sees several hours.
    """

    def _timed(self, rows: list[Prediction]) -> list[Prediction]:
        return [
            row._replace(
                served_at=row.served_at + LATE * (row.variant == "shadow"),
                event_time=BEGUN + FASTER * (row.event_time - BEGUN),
            )
            for row in super()._timed(rows)
        ]


def promoted(home: Settings, kind: str, steps: dict[str, int]) -> datetime:
    """A log in which the steps have so many tens of seconds each; gives when the last one began."""
    running, started = Late(lake_of(home), 3, kind, DEMO), BEGUN
    for step, times in steps.items():
        started = running._logged
        for _ in range(times):
            running.requests(step)
    known = [
        {"day": at.date(), "transaction_id": number, "available_at": at, "is_fraud": 1}
        for number, at in running._known.items()
    ]
    lake_of(home).append(LABELS, pa.Table.from_pylist(known, LABELS.schema))
    return started


def gathered(home: Settings, step: str, started: datetime) -> StepEvidence:
    states = [
        VersionState(version=each, run_id="", source="", tags={}, registered_at=BEGUN)
        for each in (CHALLENGER, CHAMPION)
    ]
    return evidence.gather(
        home, state=states[0], champion=states[1], step=step, step_started=started,
        promotion_started=BEGUN, now=started + timedelta(seconds=60),
    )  # fmt: skip


def all_at_once(home: Settings, step: str, started: datetime) -> StepEvidence:
    """The same from the whole log in one frame."""
    log = StepLog(lake_of(home)).between(BEGUN)
    found = evidence.evidence_of(
        log, known_frauds(lake_of(home), log.loc[log["step"].eq(step), "transaction_id"]),
        version=CHALLENGER, champion=CHAMPION, step=step, step_started=started,
        now=started + timedelta(seconds=60),
    )  # fmt: skip
    return replace(
        found,
        challenger_reference=evidence.scores_of(home, None),
        champion_reference=evidence.scores_of(home, None),
    )


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Few rows are enough for an estimate; gives how many rows of the log were held at once."""
    monkeypatch.setattr(look, "HOUR_AT_MOST", 150)
    monkeypatch.setattr(look, "LATENCIES_AT_MOST", 300)
    monkeypatch.setattr(evidence, "TOGETHER", timedelta(seconds=2))
    draw = np.random.default_rng(1)
    offline = pd.DataFrame({"score": draw.beta(1, 40, 2000), "hour": draw.integers(0, 24, 2000)})
    monkeypatch.setattr(evidence, "scores_of", lambda *_: offline)
    found, original = list[int](), evidence.evidence_of

    def counted(log: object, *given: object, **named: object) -> StepEvidence:
        found.append(len(log))  # type: ignore[arg-type]
        return original(log, *given, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(evidence, "evidence_of", counted)
    return found


@pytest.mark.parametrize(
    ("kind", "steps"),
    [
        ("better", {"shadow": 3}),
        ("blind", {"shadow": 3}),
        ("better", {"shadow": 15, "canary_50": 4}),
        ("identical", {"shadow": 1, "canary_50": 1, "canary_100": 4}),
        ("identical", {"shadow": 15, "canary_50": 1, "canary_100": 4}),
    ],
)
@pytest.mark.parametrize("scores", [400, 60])  # of 60 none is of the hour of the look before
def test_a_log_that_is_read_in_parts_gives_the_verdict_of_the_whole(
    home: Settings,
    monkeypatch: pytest.MonkeyPatch,
    held: list[int],
    kind: str,
    steps: dict[str, int],
    scores: int,
) -> None:
    monkeypatch.setattr(look, "SCORES_AT_MOST", scores)
    step = list(steps)[-1]
    started = promoted(home, kind, steps)
    whole = all_at_once(home, step, started)
    requests = requests_in(whole.challenger) + requests_in(whole.champion)
    assert max(held) >= requests >= RATE * APPENDED_SECONDS * steps[step]
    assert judge(gathered(home, step, started), DEMO).checks == judge(whole, DEMO).checks, "in one part"
    held.clear()
    monkeypatch.setattr(evidence, "ROWS_AT_ONCE", AT_ONCE)
    monkeypatch.setattr(evidence, "WALK", timedelta(seconds=3))
    parts = gathered(home, step, started)
    assert judge(parts, DEMO).checks == judge(whole, DEMO).checks
    assert judge(parts, DEMO).outcome is not Outcome.PASS or kind != "blind"
    assert len(held) > 3
    assert max(held) < 0.7 * requests
    assert requests_in(parts.challenger) + requests_in(parts.champion) == requests
    assert len(parts.challenger) < len(whole.challenger), "what need not be told apart is summed"


def test_the_windows_of_a_step_hold_every_second_once() -> None:
    rows = np.array([3, 0, 4, 9, 1, 1, 0, 5])
    assert windows(rows, 7) == [(0.0, 3.0), (3.0, 4.0), (4.0, float("inf"))]
    assert windows(np.zeros(0, dtype=np.int64), 7) == [(0.0, float("inf"))]
