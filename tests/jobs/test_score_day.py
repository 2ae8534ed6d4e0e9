"""Scores of a day in slices: whole or not at all, also when the run is killed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from jobs.batch import score_day
from jobs.batch.chunks import Pieces, Plan, Slice, events_of, slices_of
from jobs.conf.policy import load_policy
from jobs.conf.settings import Settings
from jobs.core import SluiceError, midnight
from jobs.features.declarations import MODEL_FEATURES
from jobs.lake.store import content_digest, lake_of
from jobs.lake.tables import SCORES, TRANSACTIONS
from jobs.serving.bundle import ModelBundle, decide, decide_all
from jobs.serving.bundles import bundles_folder
from tests.frame_data import LAST, PER_DAY
from tests.served_bundles import logistic_graph, write_bundle

pytest_plugins = ("tests.filled_lake",)

CHUNK_ROWS = 15  # of 40: three slices, or four


def with_bundle(settings: Settings, version: str, weight: float) -> None:
    """A version whose bundle has been fetched."""
    column = MODEL_FEATURES.index("amount")
    graph = logistic_graph({column: weight}, -2.0, len(MODEL_FEATURES))
    write_bundle(bundles_folder(settings) / version, MODEL_FEATURES, graph)


def stored(settings: Settings) -> pd.DataFrame:
    rows = lake_of(settings).read(SCORES, first=LAST, last=LAST).to_pandas()
    return rows.sort_values("transaction_id", ignore_index=True)


def killed_once(settings: Settings, chunks: int) -> int:
    """Score the day in a process that is killed once so many slices are there; gives how many are."""
    folder = settings.work / "scores" / str(LAST)
    environment = {
        **os.environ,
        "SLUICE_HOME": str(settings.home),
        "SLUICE_SPARK_REMOTE": settings.spark_remote,
        "SLUICE_POLICY_OVERLAY": settings.policy_overlay,
    }
    command = [sys.executable, "-m", "jobs", "score_day", "--day", str(LAST), "--version", "1"]
    with subprocess.Popen(
        [*command, "--chunk-rows", str(CHUNK_ROWS)], env=environment, stdout=subprocess.DEVNULL
    ) as process:
        deadline = time.monotonic() + 240
        while len(list(folder.glob("chunk-*"))) < chunks:
            assert process.poll() is None, "it ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.002)
        process.kill()
    return len(list(folder.glob("chunk-*")))


def test_a_killed_run_goes_on_where_it_stopped_and_a_reader_never_sees_half_a_day(filled: Settings) -> None:
    with_bundle(filled, "1", 0.01)
    row = {"day": LAST, "transaction_id": 7, "model_version": "0", "score": 0.2, "decision": "approve"}
    lake_of(filled).replace(SCORES, pa.Table.from_pylist([row], SCORES.schema), LAST)
    old = stored(filled)
    kept = killed_once(filled, chunks=1)
    pd.testing.assert_frame_equal(stored(filled), old)
    total = len(slices_of(lake_of(filled), LAST, CHUNK_ROWS))
    assert 1 <= kept < total
    killed_once(filled, chunks=total)  # while it publishes, or just before
    found = stored(filled)
    again = score_day.run(score_day.Params(day=LAST, version="1", chunk_rows=CHUNK_ROWS), filled)
    assert again.facts["resumed"] in (total, 0), "all slices were there, or it was done already"
    in_slices = stored(filled)
    assert found.equals(old) or found.equals(in_slices)
    whole = score_day.run(score_day.Params(day=LAST, version="1"), filled)
    assert (whole.rows, whole.facts["chunks"], whole.facts["resumed"]) == (PER_DAY, 1, 0)
    assert (again.rows, again.digest) == (whole.rows, whole.digest)
    assert again.facts["decisions"] == whole.facts["decisions"]
    pd.testing.assert_frame_equal(stored(filled), in_slices)
    assert len(in_slices) == PER_DAY
    assert not list((filled.work / "scores").glob("20*")), "nothing is left behind"


def test_each_slice_is_a_line_of_the_tasks_log(caplog: pytest.LogCaptureFixture) -> None:
    start = midnight(LAST)
    slices = tuple(Slice(start=start, end=start + timedelta(days=1), rows=rows) for rows in (15, 15, 10))
    with caplog.at_level("INFO", "sluice.batch"), score_day.shown(LAST, slices, [1, 2]) as advance:
        time.sleep(0.01)
        advance(15)
        advance(10)
    lines = [record.getMessage().rsplit(", ", 1) for record in caplog.records]
    # what a run before this one has scored is done, and says nothing of the rate of this one
    assert [told for told, _ in lines] == [
        f"scores of {LAST}: {done} of 40 transactions" for done in (30, 40)
    ]
    assert 0 < float(lines[0][1].removesuffix(" a second")) <= 1500


def test_slices_of_another_model_or_of_other_files_are_not_used(filled: Settings) -> None:
    with_bundle(filled, "1", 0.01)
    lake, bundle = lake_of(filled), ModelBundle.load(bundles_folder(filled) / "1")
    inputs = score_day.inputs_digest(lake, LAST, bundle, "1", filled)
    assert inputs == score_day.inputs_digest(lake, LAST, bundle, "1", filled)
    before = LAST - timedelta(days=20)
    lake.replace(TRANSACTIONS, lake.read(TRANSACTIONS, first=before, last=before), before)
    assert inputs == score_day.inputs_digest(lake, LAST, bundle, "1", filled), "another day is another day"
    with_bundle(filled, "1", 0.02)
    other = ModelBundle.load(bundles_folder(filled) / "1")
    assert inputs != score_day.inputs_digest(lake, LAST, other, "1", filled)
    lake.replace(TRANSACTIONS, lake.read(TRANSACTIONS, first=LAST, last=LAST), LAST)
    assert inputs != score_day.inputs_digest(lake, LAST, bundle, "1", filled)


def put_times(settings: Settings, seconds: list[float]) -> None:
    """Transactions of LAST at these seconds of the day."""
    rows = [
        {"day": LAST, "transaction_id": number, "event_time": midnight(LAST) + timedelta(seconds=second)}
        | {"customer_id": 1, "terminal_id": 1, "amount_minor": 100, "file_day": LAST}
        | {"available_at": midnight(LAST)}
        for number, second in enumerate(seconds)
    ]
    lake_of(settings).replace(TRANSACTIONS, pa.Table.from_pylist(rows, schema=TRANSACTIONS.schema), LAST)


@pytest.mark.parametrize("chunk_rows", [1, 3, 100])
def test_every_transaction_is_in_one_slice_and_no_slice_is_larger_than_asked(
    home: Settings, chunk_rows: int
) -> None:
    put_times(home, [0, 0.5, 0.9, 7, 8, 8.000001, 9, 86_399, 86_399.999999, 40_000])
    lake = lake_of(home)
    slices = slices_of(lake, LAST, chunk_rows)
    assert all(part.rows <= max(chunk_rows, 3) for part in slices), "three happened within the first second"
    assert all(first.end <= second.start for first, second in pairwise(slices))
    found = [events_of(lake, LAST, part, ["transaction_id"])["transaction_id"] for part in slices]
    assert sorted(pd.concat(found)) == list(range(10))


def test_a_transaction_of_another_day_is_an_error(home: Settings) -> None:
    put_times(home, [5, 86_400])
    with pytest.raises(SluiceError, match="one happened on another day"):
        slices_of(lake_of(home), LAST, 10)
    assert slices_of(lake_of(home), LAST + timedelta(days=1), 10) == ()


def test_a_damaged_piece_is_made_again_and_another_plan_throws_all_away(tmp_path: Path) -> None:
    start = datetime(2026, 2, 1, tzinfo=UTC)
    slices = tuple(
        {"start": start + timedelta(hours=hour), "end": start + timedelta(hours=hour + 1), "rows": 2}
        for hour in range(3)
    )
    plan = Plan.model_validate({"inputs": "a", "slices": slices})
    rows = SCORES.schema.empty_table().to_pylist() + [
        {
            "day": start.date(),
            "transaction_id": number,
            "model_version": "1",
            "score": 0.1,
            "decision": "approve",
        }
        for number in (1, 2)
    ]
    table = pa.Table.from_pylist(rows, schema=SCORES.schema)
    pieces = Pieces(tmp_path / "day", plan, SCORES.schema)
    assert pieces.missing() == [0, 1, 2]
    for number in (0, 1):
        pieces.write(number, table)
    (tmp_path / "day" / "chunk-00001.parquet").write_bytes(b"PAR1 torn")
    assert Pieces(tmp_path / "day", plan, SCORES.schema).missing() == [1, 2]
    pieces.write(1, table.slice(0, 1))
    assert pieces.missing() == [1, 2], "a piece has all rows of its slice"
    for number in (1, 2):
        pieces.write(number, table)
    assert content_digest(pa.Table.from_batches(pieces.batches())) == content_digest(
        pa.concat_tables([table] * 3)
    )
    other = Plan.model_validate({"inputs": "b", "slices": slices})
    assert Pieces(tmp_path / "day", other, SCORES.schema).missing() == [0, 1, 2]


def test_many_decisions_are_those_of_one_each() -> None:
    decisions = load_policy().decisions
    edges = [decisions.review_above, decisions.challenge_above, decisions.block_above]
    scores = np.concatenate([np.linspace(0, 1, 101), edges, np.nextafter(edges, 1), np.nextafter(edges, 0)])
    assert decide_all(scores, decisions).tolist() == [decide(float(score), decisions) for score in scores]
    for wrong in (np.nan, -0.1, 1.1):
        with pytest.raises(SluiceError, match="1 scores are no probability"):
            decide_all(np.array([0.5, wrong]), decisions)
