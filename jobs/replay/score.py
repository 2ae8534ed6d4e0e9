"""What a policy did to people and money, from the log that it left and the labels that came in the end.

In: the answer to each transaction of the scored days, the last word on each label, the contract's costs. Out:
figures a day, and of the whole period with intervals. Money in minor units.
    saved, and what an alert is: jobs/evaluation/money.py; a false decline is a block of an honest payment
    a bad day has frauds, and decisions that saved nothing
Intervals: percentile bootstrap over days, or over weeks where there are at least WEEKS of them; every policy
is drawn on the same days, so that differences are paired (Efron and Tibshirani, 1993, chapter 13).
Days whose labels are still to come are left out. A blocked payment is labelled as if it had gone through: the
history knows, a running system would not.
"""

from __future__ import annotations

from datetime import date

import numpy as np
import numpy.typing as npt
import pandas as pd

from jobs.conf.contract import ErrorCosts
from jobs.conf.settings import Settings
from jobs.core import StrictModel
from jobs.evaluation.money import saved_minor
from jobs.lake.store import Lake, lake_of
from jobs.lake.tables import LABELS, PREDICTIONS

SHADOW = "shadow"
WEEKS = 8
SEED = 7
LEVEL = 0.95
LOGGED = ["day", "transaction_id", "variant", "model_version", "score", "decision", "error", "amount_minor"]
COUNTED = (
    "rows", "frauds", "fraud_amount", "alerts", "caught", "stopped_amount", "false_alarms", "false_declines",
    "saved", "bad",
)  # fmt: skip
# figure of a period -> (numerator, denominator, factor); None counts days
RATIOS: dict[str, tuple[str, str | None, float]] = {
    "fraud_caught_per_100_alerts": ("caught", "alerts", 100.0),
    "share_of_fraud_amount_stopped": ("stopped_amount", "fraud_amount", 1.0),
    "saved_a_day": ("saved", None, 0.01),
    "alerts_a_day": ("alerts", None, 1.0),
    "false_alarms_a_day": ("false_alarms", None, 1.0),
    "false_declines_a_day": ("false_declines", None, 1.0),
    "share_of_bad_days": ("bad", None, 1.0),
}
Floats = npt.NDArray[np.float64]


class Estimate(StrictModel):
    """A figure with the interval that holds it; nothing where it is not defined."""

    value: float | None
    low: float | None
    high: float | None


def truth_of(lake: Lake) -> pd.Series:
    """is_fraud by transaction_id: the last word on each transaction that anybody reported."""
    labels = lake.read(LABELS, columns=["transaction_id", "available_at", "is_fraud"]).to_pandas()
    labels = labels.sort_values("available_at", kind="stable").drop_duplicates("transaction_id", keep="last")
    return pd.Series(labels["is_fraud"].to_numpy(dtype=np.float64), labels["transaction_id"])


def answers_of(settings: Settings, first: date, last: date, truth: pd.Series) -> pd.DataFrame:
    """The answer to each transaction of the days, with its label."""
    rows = pd.DataFrame(
        lake_of(settings).read(PREDICTIONS, first=first, last=last, columns=LOGGED).to_pandas()
    )
    rows = rows[rows["variant"].ne(SHADOW) & rows["error"].eq("")]
    return rows.assign(is_fraud=rows["transaction_id"].map(truth).fillna(0.0)).reset_index(drop=True)


def day_figures(answers: pd.DataFrame, days: list[date], costs: ErrorCosts) -> pd.DataFrame:
    """COUNTED by day, a row for each of the days."""
    fraud = answers["is_fraud"].eq(1.0)
    alert, amount = answers["decision"].ne("approve"), answers["amount_minor"].astype(float)
    parts = pd.DataFrame(
        {
            "day": answers["day"],
            "rows": 1.0,
            "frauds": fraud.astype(float),
            "fraud_amount": amount * fraud,
            "alerts": alert.astype(float),
            "caught": (alert & fraud).astype(float),
            "stopped_amount": amount * (alert & fraud),
            "false_alarms": (alert & ~fraud).astype(float),
            "false_declines": (answers["decision"].eq("block") & ~fraud).astype(float),
            "saved": saved_minor(alert, fraud, amount, costs),
        }
    )
    found = parts.groupby("day").sum().reindex(days, fill_value=0.0)
    found["bad"] = ((found["frauds"] > 0) & (found["saved"] <= 0)).astype(float)
    return found[list(COUNTED)]


def drawn_days(days: list[date], samples: int, seed: int = SEED) -> Floats:
    """How often each day is drawn in each sample, [samples, days]: days one by one, or weeks as a whole."""
    weeks = np.array([(day - days[0]).days // 7 for day in days])
    blocks = weeks if weeks.max(initial=0) + 1 >= WEEKS else np.arange(len(days))
    count = int(blocks.max(initial=0)) + 1
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1.0 / count), size=samples)
    return drawn[:, blocks].astype(np.float64)


def ratio(figures: pd.DataFrame, name: str, weights: Floats) -> Floats:
    """A figure of the period under each row of weights; NaN where nothing is there to divide by."""
    above, below, factor = RATIOS[name]
    top = weights @ figures[above].to_numpy(dtype=np.float64)
    bottom = weights @ figures[below].to_numpy(dtype=np.float64) if below else weights.sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where(bottom > 0, factor * top / bottom, np.nan))


def estimate(value: float, drawn: Floats) -> Estimate:
    """The figure with the percentiles of its draws."""
    drawn = drawn[np.isfinite(drawn)]
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]) if len(drawn) else (np.nan, np.nan)
    return Estimate(value=finite(value), low=finite(float(low)), high=finite(float(high)))


def finite(value: float) -> float | None:
    return round(float(value), 6) if np.isfinite(value) else None


def estimates(figures: pd.DataFrame, samples: int) -> dict[str, Estimate]:
    """Every figure of a period."""
    drawn, whole = drawn_days(list(figures.index), samples), np.ones((1, len(figures)))
    return {
        name: estimate(float(ratio(figures, name, whole)[0]), ratio(figures, name, drawn)) for name in RATIOS
    }


def differences(one: pd.DataFrame, other: pd.DataFrame, samples: int) -> dict[str, Estimate]:
    """Every figure of the first policy less the other's, both drawn on the same days."""
    drawn, whole = drawn_days(list(one.index), samples), np.ones((1, len(one)))
    return {
        name: estimate(
            float((ratio(one, name, whole) - ratio(other, name, whole))[0]),
            ratio(one, name, drawn) - ratio(other, name, drawn),
        )
        for name in RATIOS
    }
