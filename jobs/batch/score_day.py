"""Job score_day: scores of all transactions of a day by one version, without anybody waiting for them.

In: transactions of the day, feature tables (through Feast); the champion's bundle or the named version's.
Out: table scores, partition of the day: calibrated score and the policy's decision. Rules take no part.
The day goes through in slices of time, each kept as soon as it is scored: a run that was killed goes on
with the next one, as long as it would read the same files and score by the same model and policy; otherwise
it starts again. The partition is replaced in one commit when all slices are there, so a reader sees the old
day or the new one.
Errors: SluiceError where there is no champion, no such version, or no transaction of that day.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date, timedelta

import numpy as np
import pandas as pd
import pyarrow as pa
from pydantic import Field

from jobs.batch.chunks import Pieces, Plan, Slice, events_of, slices_of
from jobs.conf.contract import contract_of
from jobs.conf.policy import policy_of
from jobs.conf.settings import Settings
from jobs.core import DayParams, Receipt, SluiceError, Stopwatch
from jobs.features.declarations import FEATURE_VERSION
from jobs.features.definitions import feature_views
from jobs.features.history import NEEDED, TABLES, historical_features
from jobs.features.tables import BUILT_TABLES, TRANSACTION_VELOCITY
from jobs.lake.at import LakeAt, versions_of
from jobs.lake.store import ContentDigest, Lake, conform, lake_of
from jobs.lake.tables import SCORES, TRANSACTIONS, Table
from jobs.locks import file_lock
from jobs.promotion.state import read_routing, registry_client
from jobs.serving.bundle import ModelBundle, decide_all
from jobs.serving.bundles import fetch_bundle

LOGGER = logging.getLogger("sluice.batch")
READS = ("transactions", "customer_features", "terminal_features", "transaction_velocity")
WRITES = ("scores",)

CHUNK = 50_000


class Params(DayParams):
    """Which day, by which version."""

    version: str = Field("", pattern=r"^\d*$", description="version of the registered model, empty: champion")
    chunk_rows: int = Field(
        CHUNK, ge=1, description="transactions that are scored at once: bounds memory, and what a kill costs"
    )


def champion_version(settings: Settings) -> str:
    """The version that serves.

    Raises:
        SluiceError: there is none, or the alias points at one that may not serve.
    """
    routing = read_routing(registry_client(settings), settings.model_name)
    if routing.champion is None:
        why = "; ".join(routing.alerts) or "no version has the alias champion"
        raise SluiceError(f"score_day: {why}; name a version, or promote one")
    return routing.champion


def inputs_digest(lake: Lake, day: date, bundle: ModelBundle, version: str, settings: Settings) -> str:
    """Digest of all that the scores depend on: model, bands, features' declarations, and the tables' files.

    A table's version would change with every other day that is written; files of these days do not.
    """
    reach: list[tuple[Table, date]] = [(TRANSACTIONS, day)]
    # a row is known at the end of its day at the latest
    reach += [
        (TABLES[view.batch_source.name], day - view.ttl - timedelta(days=1))
        for view in feature_views(settings)
    ]
    files = {}
    for table, first in reach:
        with lake.explained(table):
            bounds = [("day", ">=", str(first)), ("day", "<=", str(day))]
            files[table.name] = sorted(lake.delta(table).file_uris(file_pruning_predicate=bounds))
    declared = [FEATURE_VERSION, contract_of(settings).published_after_hours]
    parts = [version, bundle.version_info.files, bundle.decisions.model_dump(), declared, files]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def score_rows(events: pd.DataFrame, day: date, bundle: ModelBundle, version: str) -> pa.Table:
    """The table's rows of events that have their features."""
    matrix = np.ascontiguousarray(events[list(bundle.features)].to_numpy(dtype=np.float32))
    scores = bundle.score(matrix)
    return conform(
        SCORES,
        pa.table(
            {
                "day": pa.array([day] * len(events), pa.date32()),
                "transaction_id": events["transaction_id"].to_numpy(),
                "model_version": [version] * len(events),
                "score": scores,
                "decision": decide_all(scores, bundle.decisions),
            }
        ),
    )


@contextmanager
def shown(day: date, slices: tuple[Slice, ...], missing: list[int]) -> Iterator[Callable[[int], None]]:
    """A bar over the day's transactions on a terminal, and a line of the log for each slice.

    Call it with how many more are scored.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    total = sum(each.rows for each in slices)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        before = done = total - sum(slices[number].rows for number in missing)
        task, watch = bar.add_task(f"scores of {day}", total=total, completed=done), Stopwatch()

        def advance(rows: int) -> None:
            nonlocal done
            done += rows
            bar.advance(task, rows)
            rate = (done - before) / max(watch.seconds, 0.001)
            LOGGER.info("scores of %s: %d of %d transactions, %.0f a second", day, done, total, rate)

        yield advance


def publish(lake: Lake, day: date, pieces: Pieces) -> tuple[int, str, dict[str, int]]:
    """Replace the day's partition by all pieces in one commit; gives version, digest and decisions."""
    digest, decisions = ContentDigest(), dict[str, int]()

    def counted() -> Iterator[pa.RecordBatch]:
        for batch in pieces.batches():
            digest.add(batch)
            for each in batch["decision"].value_counts().to_pylist():
                decisions[each["values"]] = decisions.get(each["values"], 0) + each["counts"]
            yield batch

    reader = pa.RecordBatchReader.from_batches(SCORES.schema, counted())
    written = lake.replace_where(SCORES, reader, f"day = '{day}'", str(day))
    return written, digest.hexdigest(), decisions


def run(params: Params, settings: Settings) -> Receipt:
    watch, day = Stopwatch(), params.day
    lake = lake_of(settings)
    # what is written meanwhile is in none of the slices
    noted = LakeAt(lake, versions_of(lake, (TRANSACTIONS, *BUILT_TABLES)))
    slices = slices_of(noted, day, params.chunk_rows) if noted.exists(TRANSACTIONS) else ()
    if not slices:
        raise SluiceError(f"score_day: no transactions of {day}; run the ingestion of that day first")
    version = params.version or champion_version(settings)
    bundle = ModelBundle.load(fetch_bundle(settings, version), policy_of(settings).decisions)
    if str(day) not in lake.partitions(TRANSACTION_VELOCITY):
        raise SluiceError(
            f"score_day: no features of {day}; run `sluice build_features --day {day}` (DAG "
            "fraud_features) first"
        )
    plan = Plan(inputs=inputs_digest(noted, day, bundle, version, settings), slices=slices)
    folder = settings.work / "scores" / str(day)
    with file_lock(folder.parent / f".{day}.lock"):
        pieces = Pieces(folder, plan, SCORES.schema)
        missing = pieces.missing()
        with shown(day, slices, missing) as advance:
            for number in missing:
                events = events_of(noted, day, slices[number], list(NEEDED))
                joined = historical_features(events, settings, noted.versions)
                pieces.write(number, score_rows(joined, day, bundle, version))
                advance(len(events))
        written, digest, decisions = publish(lake, day, pieces)
        pieces.drop()
    return Receipt(
        job="score_day",
        table=SCORES.name,
        partition=str(day),
        version=written,
        rows=sum(each.rows for each in slices),
        digest=digest,
        seconds=watch.seconds,
        facts={
            "model_version": version,
            "decisions": decisions,
            "chunks": len(slices),
            "resumed": len(slices) - len(missing),
        },
    )
