"""A day's traffic in the replay against the scoring service's own code on the same requests."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from jobs.conf.policy import Policy, load_policy
from jobs.conf.settings import Settings, load_settings
from jobs.experiments.customers import assign_arms, one_step
from jobs.experiments.inputs import log_of
from jobs.features.declarations import FEATURE_VERSION, MODEL_FEATURES
from jobs.features.velocity_store import Event
from jobs.lake.store import lake_of
from jobs.lake.tables import PREDICTIONS
from jobs.monitoring import drift, matured, service
from jobs.monitoring.compare_served import first_answers
from jobs.monitoring.interval import Interval
from jobs.promotion.state import Routing
from jobs.replay.score import answers_of
from jobs.replay.traffic import PLAIN_MS, SLOW_MS, Day, Served, load
from jobs.serving.bundle import ModelBundle
from jobs.serving.follower import ServingState
from jobs.serving.loading import ServedModel
from jobs.serving.log_rows import Prediction, encode
from jobs.serving.messages import ScoreRequest
from jobs.serving.scoring import Scorer
from tests.served_bundles import PlainFeatures, constant_graph, logistic_graph, slow_graph, write_bundle

COLUMNS = len(MODEL_FEATURES)
START = datetime(2026, 1, 31, tzinfo=UTC)
# every other block is let through, so that some are
POLICY = load_policy()
POLICY = POLICY.model_copy(update={"serving": POLICY.serving.model_copy(update={"holdout_share": 0.5})})


class Kept:
    """The queue of the prediction log without what stands behind it."""

    def __init__(self) -> None:
        self.rows: list[Prediction] = []

    def put(self, prediction: Prediction) -> None:
        self.rows.append(prediction)


class Known(PlainFeatures):
    """Features that are known beforehand."""

    names = MODEL_FEATURES
    version = FEATURE_VERSION

    def __init__(self, events: pd.DataFrame) -> None:
        super().__init__()
        values = events[list(MODEL_FEATURES)].to_numpy().tolist()
        self.known = dict(zip(events["transaction_id"], values, strict=True))

    async def vector(self, event: Event) -> list[float]:
        return self.known[event.transaction_id]


def events_of(rows: int) -> pd.DataFrame:
    generator = np.random.default_rng(3)
    events = pd.DataFrame(
        {
            "transaction_id": np.arange(1, rows + 1),
            "event_time": pd.to_datetime([START + timedelta(seconds=17 * row) for row in range(rows)]),
            "customer_id": generator.integers(1, 60, rows),
            "terminal_id": generator.integers(1, 9, rows),
            "amount_minor": generator.integers(100, 900_000, rows),
        }
    )
    values = pd.DataFrame(generator.normal(0, 2, (rows, COLUMNS)), columns=list(MODEL_FEATURES))
    values.iloc[::7, 3] = math.nan
    return pd.concat([events, values], axis=1)


def bundle_in(folder: Path, graph: Any) -> Path:
    return write_bundle(folder, MODEL_FEATURES, graph, feature_version=FEATURE_VERSION)


async def answers_of_the_service(
    events: pd.DataFrame, state: ServingState, policy: Policy
) -> list[Prediction]:
    log = Kept()
    scorer = Scorer(lambda: state, Known(events), log, policy)  # type: ignore[arg-type]
    scorer.start()
    for row in events.to_dict("records"):
        names = ("transaction_id", "customer_id", "terminal_id", "amount_minor")
        request = ScoreRequest(
            event_time=row["event_time"].isoformat(), **{name: int(row[name]) for name in names}
        )
        await scorer.answer(request)
    await asyncio.sleep(0)
    scorer.stop()
    return log.rows


def told(rows: list[Prediction]) -> list[tuple[Any, ...]]:
    """What must be the same: everything but the request's id, how long it took and when it was."""
    return sorted(
        (
            row.transaction_id, row.variant, row.customer_id, row.terminal_id, row.amount_minor,
            row.event_time, row.model_version, row.step, row.score, row.decision, row.rule, row.error,
            str(list(row.features or ())), row.names, row.feature_version, row.would_be,
        )
        for row in rows
    )  # fmt: skip


@pytest.mark.parametrize(
    ("step", "percent", "graph"),
    [
        ("", 0, None),
        ("shadow", 0, logistic_graph({0: 1.0, 5: -1.0}, 0.5, COLUMNS)),
        ("canary_25", 25, logistic_graph({0: 1.0, 5: -1.0}, 0.5, COLUMNS)),
        ("canary_50", 50, constant_graph(math.nan, COLUMNS)),
    ],
)
def test_a_batch_of_traffic_is_answered_as_the_service_answers_it(
    tmp_path: Path, step: str, percent: int, graph: Any
) -> None:
    events = events_of(300)
    folders = {"1": bundle_in(tmp_path / "1", logistic_graph({0: 2.0, 1: 1.0}, 0.0, COLUMNS))}
    if graph is not None:
        folders["2"] = bundle_in(tmp_path / "2", graph)

    def served(version: str) -> ServedModel | None:
        if version not in folders:
            return None
        return ServedModel(version, ModelBundle.load(folders[version], POLICY.decisions))

    if graph is not None and step == "canary_50":
        # the service tries a model before it serves it, and this one would not pass
        broken = served("1")
        assert broken is not None
        broken.version, broken.bundle = "2", ModelBundle.load(folders["2"], POLICY.decisions)
        challenger: ServedModel | None = broken
    else:
        challenger = served("2")
    state = ServingState(champion=served("1"), challenger=challenger, step=step, percent=percent)
    theirs = asyncio.run(answers_of_the_service(events, state, POLICY))

    routing = Routing(champion="1", challenger="2" if graph is not None else None, step=step, percent=percent)
    models = {
        version: Served(version, ModelBundle.load(folder, POLICY.decisions), PLAIN_MS)
        for version, folder in folders.items()
    }
    day = Day(events, POLICY)
    ours = [*day.answers(0, 120, routing, models), *day.answers(120, 300, routing, models)]
    assert told(ours) == told(theirs)
    assert {row.variant for row in ours} >= ({"champion", "holdout"})


def test_a_slow_version_takes_longer_and_time_is_the_events_own(tmp_path: Path) -> None:
    policy = load_policy()
    slow = load("2", bundle_in(tmp_path / "2", slow_graph(COLUMNS, size=512, rounds=40)), policy)
    plain = load("1", bundle_in(tmp_path / "1", constant_graph(0.2, COLUMNS)), policy)
    assert plain.latency_ms == PLAIN_MS
    assert slow.latency_ms == PLAIN_MS + SLOW_MS
    rows = Day(events_of(5), policy).answers(0, 5, Routing(champion="1"), {"1": plain})
    assert [row.served_at for row in rows] == [row.event_time.timestamp() for row in rows]


def test_without_a_champion_the_rules_answer() -> None:
    none: dict[str, Served] = {}
    rows = Day(events_of(4), POLICY).answers(0, 4, Routing(), none)
    assert {row.variant for row in rows} == {"rules"}
    assert all((row.rule == "no_model") == (row.decision == "approve") for row in rows)


READERS: dict[str, Callable[[Settings], Any]] = {
    "drift": lambda home: drift.live_rows(lake_of(home), Interval(START.date()), "1"),
    "performance": lambda home: matured.live_rows(lake_of(home), "2", START.date()),
    "service": lambda home: service.read_log(lake_of(home), Interval(START.date()), 1).rows,
    "hour": lambda home: service.read_log(lake_of(home), Interval(START.date(), 0), 1).rows,
    "compare_served": lambda home: first_answers(lake_of(home).read(PREDICTIONS).to_pandas()),
    "replay": lambda home: answers_of(home, START.date(), START.date(), pd.Series(dtype="float64")),
    "experiment": lambda home: (
        assign_arms(
            one_step(log_of(lake_of(home), START.date(), START.date()), "canary_25")[0], "champion", "canary"
        ).answers
    ),
}


@pytest.mark.parametrize("reader", READERS)
def test_what_is_shadowed_beside_a_canary_is_an_answer_to_nobody_who_reads_the_log(
    tmp_path: Path, reader: str
) -> None:
    models = {
        version: Served(
            version, ModelBundle.load(bundle_in(tmp_path / version, graph), POLICY.decisions), 2.0
        )
        for version, graph in (("1", constant_graph(0.95, COLUMNS)), ("2", constant_graph(0.2, COLUMNS)))
    }
    day = Day(events_of(200), POLICY)
    canary = Routing(champion="1", challenger="2", step="canary_25", percent=25)
    rows = day.answers(0, 150, canary, models) + day.answers(150, 200, Routing(champion="2"), models)
    answers = [row for row in rows if row.variant != "shadow"]
    assert len(rows) > len(answers) + 100
    found = []
    for name, kept in (("all", rows), ("answers", answers)):
        home = load_settings({"SLUICE_HOME": str(tmp_path / name)})
        lake_of(home).append(PREDICTIONS, pa.Table.from_batches([encode(kept)]))
        read = READERS[reader](home)
        found.append(read.reset_index(drop=True))
    assert len(found[0])
    pd.testing.assert_frame_equal(*found)


def test_rows_are_counted_up_to_an_instant_and_not_with_it() -> None:
    day = Day(events_of(4), POLICY)
    at = (START + timedelta(seconds=17)).timestamp()
    assert [day.rows_until(at - 0.5), day.rows_until(at), day.rows_until(at + 0.5)] == [1, 1, 2]
