"""Evidence of a promotion step, from the prediction log and the versions' own test rows.

In: the promotion's version and times, chargebacks that are known by now. Out: `StepEvidence`. However long
the step, memory holds a part of its log at a time, and of what that part says as many rows as `reduced`
leaves: the verdict is the same.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from math import inf

import numpy as np
import pandas as pd

from jobs.conf.policy import policy_of
from jobs.conf.settings import Settings
from jobs.core import SluiceError
from jobs.lake.store import Lake, lake_of
from jobs.monitoring.interval import event_times
from jobs.monitoring.reference import load_reference
from jobs.monitoring.statistics import as_floats
from jobs.promotion.customer_checks import BLOCK
from jobs.promotion.look import (
    StepEvidence,
    covers,
    has_latencies,
    joined,
    latest_latencies,
    latest_look,
    latest_of_hours,
    latest_scores,
    no_rows,
    reduced,
)
from jobs.promotion.sequential import look_number, look_size
from jobs.promotion.state import SHADOW_STEP, VersionState
from jobs.promotion.step_log import SHADOW, Counts, StepLog, after, known_frauds, windows

HOLDOUT = "holdout"
ROWS_AT_ONCE = 100_000  # of a step's log in memory, besides what is served so near to them:
TOGETHER = timedelta(minutes=1)  # in which the rows of one request come: a shadow waits for its turn
WALK = timedelta(hours=1)  # of what was served before the step, read first
WIDER = 8  # times as long is the part before it, where few paid: each part opens the log's files again
Said = Callable[[pd.DataFrame, Collection[int]], StepEvidence]  # `evidence_of` of one step at one instant


def prepared(log: pd.DataFrame, since: datetime, frauds: Collection[int] = ()) -> pd.DataFrame:
    """The columns that the verdict needs, see look.no_rows."""
    raised = log["error"].fillna("").ne("")
    score = np.where(raised, np.nan, as_floats(log["score"]))
    # a block that was let through to learn from it is a block all the same: that is what was decided
    held_out = log["variant"].eq(HOLDOUT)
    decision = log["decision"].fillna("").mask(held_out, BLOCK)
    return pd.DataFrame(
        {
            "request_id": log["request_id"],
            "decision": decision,
            "customer_id": log["customer_id"],
            "score": score,
            "failed": np.isnan(score).astype(np.int8),
            "latency_ms": log["latency_ms"],
            "seconds": (log["served_at"] - since).dt.total_seconds(),
            "hour": log["event_time"].dt.hour,
            "compared": log["rule"].fillna("").eq("").astype(np.int8),
            "passed": (decision.ne(BLOCK) | held_out).astype(np.int8),
            "disputed": log["transaction_id"].isin(frauds).astype(np.int8),
            "requests": 1.0,
        }
    )


def paired(mine: pd.DataFrame, others: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Both with the mark `compared` on those requests only that have it on both sides."""
    both = set.intersection(*(set(rows.loc[rows["compared"].eq(1), "request_id"]) for rows in (mine, others)))
    first, second = (
        rows.assign(compared=rows["request_id"].isin(both).astype(np.int8)) for rows in (mine, others)
    )
    return first, second


def scores_of(settings: Settings, state: VersionState | None) -> pd.DataFrame | None:
    """Score and hour of the day of a version's own test rows; None where it has none."""
    if state is None:
        return None
    try:
        reference = load_reference(settings, state.run_id)
    except SluiceError:
        return None  # a champion of an older store: the verdict does without this comparison
    if reference is None or not {"score", "event_time"} <= set(reference) or len(reference) == 0:
        return None
    return pd.DataFrame({"score": as_floats(reference["score"]), "hour": event_times(reference).dt.hour})


def evidence_of(
    log: pd.DataFrame,
    frauds: Collection[int],
    *,
    version: str,
    champion: str | None,
    step: str,
    step_started: datetime,
    now: datetime,
) -> StepEvidence:
    """What a promotion's log says about a step, without the versions' offline scores.

    Args:
        log: as StepLog gives it.
        frauds: transactions of the step that are known as such.
        champion: the version beside it, None where there is none.
    """
    rows = prepared(log, step_started, frauds)
    # a holdout row belongs to the version that scored it
    own, in_shadow = log["model_version"].eq(version), log["variant"].eq(SHADOW)
    shadow = rows[in_shadow & own]
    present = log["step"].eq(step) & (rows["seconds"] >= 0)
    mine = rows[present & own & ~in_shadow]
    # where the canary failed, the champion answered in its place: that row is the canary's doing
    others = ~own & ~in_shadow & (log["model_version"].eq(champion) if champion is not None else True)
    answers = rows[present & others & ~rows["request_id"].isin(mine["request_id"])]
    earlier = rows[log["step"].ne(step) & others]
    if step == SHADOW_STEP:
        mine, answers = paired(shadow[shadow["seconds"] >= 0], answers)
    return StepEvidence(
        step=step,
        elapsed_minutes=(now - step_started).total_seconds() / 60,
        has_champion=champion is not None,
        challenger=mine,
        champion=answers,
        champion_before=earlier,
        shadow=shadow,
    )


def _of_step(
    lake: Lake, log: StepLog, said_by: Said, *, version: str, step: str, started: datetime, now: datetime
) -> StepEvidence:
    """What a step's own rows say, read one window of time after the other."""
    by_second, own = log.by_second(step, started, now, version)
    parts = windows(by_second, ROWS_AT_ONCE)
    silent = max((now - started).total_seconds() - len(by_second), 0.0) / 60
    if len(parts) == 1:
        rows = log.between(started, None, step)
        seen = said_by(rows, known_frauds(lake, rows["transaction_id"]))
        return replace(seen, silent_minutes=silent)
    look_end = _look_end(log, said_by, own, step, started)
    found = replace(said_by(log.between(started, started), ()), silent_minutes=silent)
    mine, others = _Reduced(found.challenger, look_end), _Reduced(found.champion, look_end)
    for begin, end in parts:
        early, late = started - TOGETHER + timedelta(seconds=begin), after(started + TOGETHER, end)
        rows = log.between(early, late, step)
        seen = said_by(rows, known_frauds(lake, rows["transaction_id"]))
        for arm, its in ((mine, seen.challenger), (others, seen.champion)):
            arm.add(its[its["seconds"].ge(begin) & its["seconds"].lt(end)])
    return replace(found, challenger=mine.rows(), champion=others.rows())


class _Reduced:
    """Rows of an arm, reduced whenever they have become twice as many as the last time."""

    def __init__(self, rows: pd.DataFrame, look_end: float) -> None:
        self._parts, self._held, self._allowed = [rows], 0, ROWS_AT_ONCE
        self._look_end = look_end

    def add(self, rows: pd.DataFrame) -> None:
        self._parts.append(rows)
        self._held += len(rows)
        if self._held > self._allowed:
            self.rows()

    def rows(self) -> pd.DataFrame:
        found = reduced(joined(*self._parts), self._look_end)
        self._parts, self._held = [found], len(found)
        self._allowed = max(ROWS_AT_ONCE, 2 * len(found))
        return found


def _look_end(log: StepLog, said_by: Said, own: Counts, step: str, started: datetime) -> float:
    """The second of the step at which the latest planned look ends, as jobs/promotion/look.py has it."""
    so_far = own.cumsum()
    number = look_number(int(so_far[-1])) if len(own) else 0
    if number == 0:
        return inf
    whole = int(np.searchsorted(so_far, look_size(number)))
    end = inf if whole == len(own) - 1 else whole + 1
    rows = log.between(started + timedelta(seconds=whole), after(started, end), step)
    seconds = said_by(rows, ()).challenger["seconds"].sort_values()
    return float(seconds.iloc[look_size(number) - 1 - int(so_far[whole] - own[whole])])


def _before(
    log: StepLog,
    said_by: Said,
    step: str,
    begin: datetime,
    end: datetime,
    *,
    hours: set[int],
    stands_alone: bool,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """What an estimate needs of what was served before the step: of the challenger's shadow, of the champion.

    Scores at these hours of the day, and the champion's latest latencies where none answers beside the step.
    """

    def seen_in(rows: pd.DataFrame) -> list[pd.DataFrame]:
        seen = said_by(rows[rows["step"].ne(step)], ())
        return [seen.shadow, seen.champion_before]

    latest, covered = partial(_latest, begin=begin, end=end), partial(covers, hours=hours)
    shadow, champion = latest(partial(log.batches, hours=hours), seen_in, latest_of_hours, covered, arms=2)
    if stands_alone:
        alone = latest(log.batches, lambda rows: seen_in(rows)[1:], latest_latencies, has_latencies, arms=1)
        champion = joined(champion, *alone).drop_duplicates("request_id")
    return shadow, champion


def _latest(
    asked: Callable[[datetime, datetime], Iterator[pd.DataFrame]],
    seen_in: Callable[[pd.DataFrame], list[pd.DataFrame]],
    kept: Callable[[pd.DataFrame], pd.DataFrame],
    is_enough: Callable[[pd.DataFrame], bool],
    *,
    begin: datetime,
    end: datetime,
    arms: int,
) -> list[pd.DataFrame]:
    """What `kept` leaves of what was served in [begin, end), read from its end on until that is enough."""
    found, span = [no_rows()] * arms, WALK
    while end > begin and not all(map(is_enough, found)):
        early, read = max(begin, end - span), 0
        for rows in _in_parts(asked(early, end)):
            found = [kept(joined(*pair)) for pair in zip(found, seen_in(rows), strict=True)]
            read += len(rows)
        end = early
        span = span if read > ROWS_AT_ONCE else WIDER * span
    return found


def _in_parts(batches: Iterator[pd.DataFrame]) -> Iterator[pd.DataFrame]:
    """Fewer and larger frames: the log has a file for every few seconds."""
    held, count = list[pd.DataFrame](), 0
    for rows in batches:
        held.append(rows)
        count += len(rows)
        if count >= ROWS_AT_ONCE:
            yield joined(*held)
            held, count = [], 0
    if held:
        yield joined(*held)


def gather(
    settings: Settings,
    *,
    state: VersionState,
    champion: VersionState | None,
    step: str,
    step_started: datetime,
    promotion_started: datetime,
    now: datetime,
) -> StepEvidence:
    """What is known about a step now."""
    lake = lake_of(settings)
    log = StepLog(lake)
    said_by = partial(
        evidence_of,
        version=state.version,
        champion=champion.version if champion is not None else None,
        step=step,
        step_started=step_started,
        now=now,
    )
    found = _of_step(lake, log, said_by, version=state.version, step=step, started=step_started, now=now)
    if step != SHADOW_STEP:
        look = latest_look(found, policy_of(settings))
        asked = latest_scores(look.evidence.challenger) if look.number else no_rows()
        hours = set(asked["hour"].astype(int))
        end = step_started + TOGETHER
        alone = not found.side_by_side
        shadow, before = _before(log, said_by, step, promotion_started, end, hours=hours, stands_alone=alone)
        found = replace(found, shadow=shadow, champion_before=before)
    return replace(
        found,
        challenger_reference=scores_of(settings, state),
        champion_reference=scores_of(settings, champion),
    )
