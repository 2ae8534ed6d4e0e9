"""Evidence of a promotion step, read from the prediction log and the versions' own test rows.

In: the promotion's version and times, chargebacks that are known by now. Out: `StepEvidence`. Times are wall
time (`served_at`): the events' own days say nothing about when a model answered.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from datetime import datetime

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from jobs.conf.settings import Settings
from jobs.core import SluiceError
from jobs.lake.store import Lake, lake_of
from jobs.lake.tables import LABELS, PREDICTIONS
from jobs.monitoring.reference import load_reference
from jobs.monitoring.statistics import Floats, as_floats
from jobs.promotion.customer_checks import BLOCK
from jobs.promotion.look import StepEvidence
from jobs.promotion.state import SHADOW_STEP, VersionState

COLUMNS = ["request_id", "transaction_id", "customer_id", "model_version", "variant", "step", "score",
           "decision", "rule", "error", "latency_ms", "served_at"]  # fmt: skip
SHADOW, HOLDOUT = "shadow", "holdout"


def log_since(lake: Lake, since: datetime) -> pd.DataFrame:
    """Rows of promotions in the prediction log that were served at or after an instant.

    Without what is shadowed beside a canary: it would grow between two planned looks.
    """
    if not lake.exists(PREDICTIONS):
        return pd.DataFrame(PREDICTIONS.schema.empty_table().select(COLUMNS).to_pandas())
    start = pa.scalar(since, pa.timestamp("us", tz="UTC"))
    # the files' own minima and maxima of served_at keep the log's older files closed
    with lake.explained(PREDICTIONS):
        log = lake.delta(PREDICTIONS).to_pyarrow_dataset()
        in_step = (pc.field("step") == SHADOW_STEP) | (pc.field("variant") != SHADOW)
        wanted = (pc.field("served_at") >= start) & (pc.field("step") != "") & in_step
        found = log.to_table(columns=COLUMNS, filter=wanted)
    return pd.DataFrame(found.to_pandas())


def known_frauds(lake: Lake, transactions: pd.Series) -> set[int]:
    """Those of the transactions that somebody has disputed by now; a later correction counts."""
    if transactions.empty or not lake.exists(LABELS):
        return set()
    asked = pa.array(transactions.unique(), pa.int64())
    with lake.explained(LABELS):
        labels = lake.delta(LABELS).to_pyarrow_dataset()
        found = labels.to_table(
            columns=["transaction_id", "available_at", "is_fraud"],
            filter=pc.field("transaction_id").isin(asked),
        ).to_pandas()
    latest = found.sort_values("available_at", kind="stable").drop_duplicates("transaction_id", keep="last")
    return {int(number) for number in latest.loc[latest["is_fraud"].eq(1), "transaction_id"]}


def prepared(rows: pd.DataFrame, since: datetime, frauds: Collection[int] = ()) -> pd.DataFrame:
    """The columns that the verdict needs, see look.no_rows."""
    error = rows["error"].fillna("").astype(str)
    score = as_floats(rows["score"])
    # a block that was let through to learn from it is a block all the same: that is what was decided
    held_out = rows["variant"].eq(HOLDOUT)
    decision = rows["decision"].fillna("").astype(str).mask(held_out, BLOCK)
    return rows.assign(
        score=np.where(error.eq(""), score, np.nan),
        failed=(error.ne("") | np.isnan(score)).astype(float),
        seconds=(rows["served_at"] - since).dt.total_seconds(),
        decision=decision,
        ruled=rows["rule"].fillna("").astype(str).ne("").astype(float),
        passed=(decision.ne(BLOCK) | held_out).astype(float),
        disputed=rows["transaction_id"].isin(frauds).astype(float),
    )


def scores_of(settings: Settings, state: VersionState | None) -> Floats | None:
    """Offline scores of a version on its own test rows; None where it has none."""
    if state is None:
        return None
    try:
        reference = load_reference(settings, state.run_id)
    except SluiceError:
        return None  # a champion of an older store: the verdict does without this comparison
    if reference is None or "score" not in reference or len(reference) == 0:
        return None
    return as_floats(reference["score"])


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
        log: COLUMNS, as `log_since` the promotion's begin gives them.
        frauds: transactions of the step that are known as such.
        champion: the version beside it, None where there is none.
    """
    rows = prepared(log, step_started, frauds)
    # a holdout row belongs to the version that scored it
    own, in_shadow = rows["model_version"].eq(version), rows["variant"].eq(SHADOW)
    shadow = rows[in_shadow & own]
    present = rows["step"].eq(step) & (rows["seconds"] >= 0)
    mine = rows[present & own & ~in_shadow]
    # where the canary failed, the champion answered in its place: that row is the canary's doing
    answers = rows[present & ~own & ~in_shadow & ~rows["request_id"].isin(mine["request_id"])]
    earlier = rows[rows["step"].ne(step) & ~own & ~in_shadow]
    if champion is not None:
        answers = answers[answers["model_version"].eq(champion)]
        earlier = earlier[earlier["model_version"].eq(champion)]
    if step == SHADOW_STEP:
        mine = shadow[shadow["seconds"] >= 0]
    return StepEvidence(
        step=step,
        elapsed_minutes=(now - step_started).total_seconds() / 60,
        has_champion=champion is not None,
        challenger=mine,
        champion=answers,
        champion_before=earlier,
        shadow=shadow,
    )


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
    log = log_since(lake, promotion_started)
    found = evidence_of(
        log,
        known_frauds(lake, log.loc[log["step"].eq(step), "transaction_id"]),
        version=state.version,
        champion=champion.version if champion is not None else None,
        step=step,
        step_started=step_started,
        now=now,
    )
    return replace(
        found,
        challenger_reference=scores_of(settings, state),
        champion_reference=scores_of(settings, champion),
    )
