"""Evidence of a promotion step, read from the prediction log and the versions' own test rows.

In: the promotion's version and times. Out: `StepEvidence`. Times are wall time (`served_at`): the events'
own days say nothing about when a model answered.
"""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from jobs.conf.settings import Settings
from jobs.core import SluiceError
from jobs.lake.store import Lake, lake_of
from jobs.lake.tables import PREDICTIONS
from jobs.monitoring.reference import load_reference
from jobs.monitoring.statistics import Floats, as_floats
from jobs.promotion.state import SHADOW_STEP, VersionState
from jobs.promotion.verdict import StepEvidence

COLUMNS = ["request_id", "customer_id", "model_version", "variant", "step", "score", "error",
           "latency_ms", "served_at"]  # fmt: skip
SHADOW, CANARY = "shadow", "canary"


def log_since(lake: Lake, since: datetime) -> pd.DataFrame:
    """Rows of the prediction log that were served at or after an instant."""
    if not lake.exists(PREDICTIONS):
        return pd.DataFrame(PREDICTIONS.schema.empty_table().select(COLUMNS).to_pandas())
    start = pa.scalar(since, pa.timestamp("us", tz="UTC"))
    # the files' own minima and maxima of served_at keep the log's older files closed
    with lake.explained(PREDICTIONS):
        log = lake.delta(PREDICTIONS).to_pyarrow_dataset()
        found = log.to_table(columns=COLUMNS, filter=pc.field("served_at") >= start)
    return pd.DataFrame(found.to_pandas())


def prepared(rows: pd.DataFrame, since: datetime) -> pd.DataFrame:
    """The columns that the verdict needs."""
    error = rows["error"].fillna("").astype(str)
    score = as_floats(rows["score"])
    return rows.assign(
        score=np.where(error.eq(""), score, np.nan),
        failed=(error.ne("") | np.isnan(score)).astype(float),
        seconds=(pd.to_datetime(rows["served_at"], utc=True) - since).dt.total_seconds(),
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
    rows = prepared(log_since(lake_of(settings), promotion_started), step_started)
    rows = rows[rows["step"].ne("")]
    shadow = rows[rows["variant"].eq(SHADOW) & rows["model_version"].eq(state.version)]
    here = rows[rows["step"].eq(step) & (rows["seconds"] >= 0)]
    mine = here[here["variant"].eq(CANARY)]
    # where the canary failed, the champion answered in its place: that row is the canary's doing
    others = ~here["variant"].isin([SHADOW, CANARY]) & ~here["request_id"].isin(mine["request_id"])
    answers = here[others]
    earlier = rows[~rows["step"].eq(step) & ~rows["variant"].isin([SHADOW, CANARY])]
    if champion is not None:
        answers = answers[answers["model_version"].eq(champion.version)]
        earlier = earlier[earlier["model_version"].eq(champion.version)]
    if step == SHADOW_STEP:
        mine = shadow[shadow["step"].eq(step) & (shadow["seconds"] >= 0)]
    return StepEvidence(
        step=step,
        elapsed_minutes=(now - step_started).total_seconds() / 60,
        has_champion=champion is not None,
        challenger=mine,
        champion=answers,
        champion_before=earlier,
        shadow=shadow,
        challenger_reference=scores_of(settings, state),
        champion_reference=scores_of(settings, champion),
    )


def utc_now() -> datetime:
    """Wall time: here it is the matter, a step lasts as long as people wait."""
    return datetime.now(UTC)
