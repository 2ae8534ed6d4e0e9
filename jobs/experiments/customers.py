"""Who was in an experiment, in which arm, and what each customer's answers came to.

In: rows of the prediction log of one step, labels of transactions. Out: a frame of answers with their arm
and weight, and a frame of one row per customer.
A customer is the unit: routing draws customers, so answers of one are no fresh draws. In the experiment is
who was assigned and seen, in the arm that was drawn: where the treatment failed and the control answered,
the customer stays in the treatment. Who met neither arm (rules alone, another step) is outside, not
control.
A blocked payment never shows whether it was a fraud. The holdout lets a random few of what a model would
block pass: these stand for all of their arm's, weighted by (blocked + held out) / held out, and the blocked
ones count nowhere (Horvitz and Thompson, 1952, with the share as it came out). Blocks by a rule are outside
both. Fewer than HELD_OUT_MIN of them stand for nothing: what rests on them is unknown then.
Errors: SluiceError where the rows are of several steps, or an arm of several model versions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from jobs.core import SluiceError
from jobs.serving.routing import in_canary

HOLDOUT, SHADOW = "holdout", "shadow"
HELD_OUT_MIN = 30  # in an arm: a mean of fewer, each with the weight of hundreds, is far from normal
SALT = "size"  # of the split that is only tried out
LOG_COLUMNS = ["request_id", "transaction_id", "customer_id", "amount_minor", "model_version", "variant",
               "step", "score", "decision", "rule", "served_at"]  # fmt: skip


@dataclass(frozen=True)
class Assigned:
    """Answers of everybody in the experiment.

    answers: one per transaction: customer_id, treated, amount_minor, score, decision, held_out, weight.
    """

    answers: pd.DataFrame
    versions: tuple[str, str]  # of control and treatment
    customers: tuple[int, int]
    outside: int  # customers seen in neither arm
    crossed: int  # customers whom both arms answered: the split was not sticky
    unknown_blocks: tuple[bool, bool]  # an arm has blocks, and too small a holdout to stand for them


def one_step(log: pd.DataFrame, step: str) -> tuple[pd.DataFrame, str]:
    """The rows of a step, of the only one where none is named.

    Raises:
        SluiceError: several steps, or none: the split differs between them.
    """
    if step:
        return log[log["step"].eq(step)], step
    steps = sorted(set(log["step"].fillna("")) - {""})
    if len(steps) != 1:
        named = ", ".join(steps) or "none"
        raise SluiceError(f"experiment: the log of these days has the steps {named}; name one with --step")
    return log[log["step"].eq(steps[0])], steps[0]


def assign_arms(log: pd.DataFrame, control: str, treatment: str) -> Assigned:
    """Everybody in one of two variants; `log` has LOG_COLUMNS and rows of one step."""
    log = log[log["variant"].ne(SHADOW)]
    versions = (_version(log, control), _version(log, treatment))
    held = log["variant"].eq(HOLDOUT)
    by_treatment = log["variant"].eq(treatment) | (held & log["model_version"].eq(versions[1]))
    by_control = log["variant"].eq(control) | (held & log["model_version"].eq(versions[0]))
    return _assigned(log, by_control, by_treatment, versions)


def halves(log: pd.DataFrame, variant: str, percent: int) -> Assigned:
    """A variant's customers split at random as an experiment would split them: both arms are the same.

    Any step and any version counts; what differs between the arms is chance.
    """
    log = log[log["variant"].isin([variant, HOLDOUT])]
    drawn = log["customer_id"].map({each: in_canary(each, percent, SALT) for each in set(log["customer_id"])})
    chosen = drawn.astype(bool)
    return _assigned(log, ~chosen, chosen, ("", ""))


def _assigned(
    log: pd.DataFrame, by_control: pd.Series, by_treatment: pd.Series, versions: tuple[str, str]
) -> Assigned:
    # where the treatment failed, the control answered in its place: that is the treatment's doing
    by_control = by_control & ~log["request_id"].isin(log.loc[by_treatment, "request_id"])
    treated = set(log.loc[by_treatment, "customer_id"])
    controls = set(log.loc[by_control, "customer_id"])
    inside = log["customer_id"].isin(treated | controls)
    answers = log[inside & log["decision"].fillna("").ne("")]  # a failed model's row decides nothing
    answers = answers.sort_values("served_at").drop_duplicates("transaction_id", keep="last")
    answers = answers.assign(
        treated=answers["customer_id"].isin(treated), held_out=answers["variant"].eq(HOLDOUT)
    ).reset_index(drop=True)
    weights, unknown = _weights(answers)
    return Assigned(
        answers=answers.assign(weight=weights),
        versions=versions,
        customers=(len(controls - treated), len(treated)),
        outside=int(log.loc[~inside, "customer_id"].nunique()),
        crossed=len(controls & treated),
        unknown_blocks=unknown,
    )


def _version(log: pd.DataFrame, variant: str) -> str:
    if variant in (SHADOW, HOLDOUT):
        raise SluiceError(f"experiment: {variant} is no arm, its answers belong to the versions beside it")
    found = sorted(
        {str(each) for each in log.loc[log["variant"].eq(variant), "model_version"].dropna()} - {""}
    )
    if len(found) != 1:
        named = ", ".join(found) or "no version at all"
        raise SluiceError(
            f"experiment: {variant} answered by {named} in this step and these days; an arm is one version: "
            "name the days or the step in which it was"
        )
    return found[0]


def _weights(answers: pd.DataFrame) -> tuple[pd.Series, tuple[bool, bool]]:
    blocked = answers["decision"].eq("block") & ~answers["held_out"]
    by_model = blocked & answers["rule"].fillna("").eq("")
    weights = pd.Series(1.0, index=answers.index).mask(blocked, 0.0)
    unknown = []
    for arm in (False, True):
        mine = answers["treated"].eq(arm)
        held, stopped = int((mine & answers["held_out"]).sum()), int((mine & by_model).sum())
        if held:
            weights = weights.mask(mine & answers["held_out"], (held + stopped) / held)
        unknown.append(stopped > 0 and held < HELD_OUT_MIN)
    return weights, (unknown[0], unknown[1])


def per_customer(answers: pd.DataFrame, frauds: set[int]) -> pd.DataFrame:
    """One row per customer, by customer_id: treated and the sums that the metrics are made of.

    fraud_lost: minor units of frauds that were let through (neither challenged nor blocked nor held out);
    let_through, let_through_frauds: transactions; honest, honest_stopped: weighted transactions that were no
    frauds, those of them that were or would have been challenged or blocked; defrauded, challenged: 0 or 1.
    """
    fraud = answers["transaction_id"].isin(frauds)
    passed = answers["decision"].isin(["approve", "review"]) & ~answers["held_out"]
    challenged = answers["decision"].eq("challenge") & ~answers["held_out"]
    stopped = ~passed
    honest = answers["weight"] * ~fraud
    rows = pd.DataFrame(
        {
            "customer_id": answers["customer_id"],
            "treated": answers["treated"],
            "fraud_lost": answers["amount_minor"].astype(float) * (passed & fraud),
            "let_through": passed.astype(float),
            "let_through_frauds": (passed & fraud).astype(float),
            "honest": honest,
            "honest_stopped": honest * stopped,
            "defrauded": fraud.astype(float),
            "challenged": challenged.astype(float),
        }
    )
    grouped = rows.groupby("customer_id", sort=True)
    found = grouped.sum()
    found["treated"] = grouped["treated"].first()
    for name in ("defrauded", "challenged"):
        found[name] = found[name].gt(0).astype(float)
    return found


def before_start(transactions: pd.DataFrame, frauds: set[int], customers: pd.Index) -> np.ndarray:
    """[customers, 3]: each one's transactions, minor units and minor units of known frauds before the start.

    `transactions` are those before the experiment, `frauds` those known before it; a new customer has zeros.
    """
    rows = transactions[["customer_id"]].assign(
        count=1.0,
        amount=transactions["amount_minor"].astype(float),
        fraud=transactions["amount_minor"].astype(float) * transactions["transaction_id"].isin(frauds),
    )
    sums = rows.groupby("customer_id").sum().reindex(customers, fill_value=0.0)
    return sums[["count", "amount", "fraud"]].to_numpy(dtype=np.float64)
