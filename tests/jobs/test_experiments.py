"""Experiments on tables: who counts in which arm, what a look says, and how many customers one needs."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from jobs.conf.settings import Settings, load_settings
from jobs.core import Receipt, SluiceError, midnight
from jobs.experiments import read_out, size
from jobs.experiments.customers import assign_arms, before_start, per_customer
from jobs.experiments.metrics import METRICS
from jobs.lake.store import lake_of
from jobs.lake.tables import (
    EXPERIMENT_READOUTS,
    EXPERIMENT_SIZES,
    LABELS,
    LANDED_FILES,
    MERGED_LABELS,
    PREDICTIONS,
    TRANSACTIONS,
)
from jobs.serving.routing import in_canary

FIRST, DAYS, MATURITY = date(2026, 2, 1), 10, 3
LAST = FIRST + timedelta(days=DAYS - 1)
BEFORE = 5  # days of transactions before the experiment
PERCENT = 25


def answer(
    number: int, customer: int, variant: str, version: str, decision: str, **more: Any
) -> dict[str, Any]:
    """A row of the prediction log."""
    return {
        "request_id": f"r{number}", "transaction_id": number, "customer_id": customer, "amount_minor": 1_000,
        "model_version": version, "variant": variant, "step": "canary_25", "score": 0.1, "decision": decision,
        "rule": "", "served_at": pd.Timestamp("2026-02-01", tz="UTC") + pd.Timedelta(seconds=number),
    } | more  # fmt: skip


def test_only_who_was_assigned_and_seen_counts() -> None:
    log = pd.DataFrame(
        [
            answer(1, 10, "champion", "1", "approve"),
            answer(2, 20, "canary", "2", "approve"),
            # the canary failed and the champion answered: the customer stays in the treatment
            answer(3, 30, "canary", "2", "", score=None),
            answer(3, 30, "champion", "1", "challenge"),
            # rules alone answered somebody who met neither arm, and somebody who did
            answer(4, 40, "rules", "", "approve", score=None),
            answer(5, 10, "rules", "", "approve", score=None),
            answer(6, 50, "shadow", "2", "block"),
            answer(7, 60, "holdout", "2", "approve"),
        ]
    )
    found = assign_arms(log, "champion", "canary")
    arms = found.answers.set_index("transaction_id")["treated"].to_dict()
    assert arms == {1: False, 2: True, 3: True, 5: False, 7: True}
    assert (found.customers, found.outside, found.crossed) == ((1, 3), 1, 0)
    assert found.versions == ("1", "2")


def test_a_customer_whom_both_arms_answered_is_noticed() -> None:
    log = pd.DataFrame([answer(1, 10, "champion", "1", "approve"), answer(2, 10, "canary", "2", "approve")])
    assert assign_arms(log, "champion", "canary").crossed == 1


def test_an_arm_of_two_versions_is_refused() -> None:
    log = pd.DataFrame(
        [
            answer(1, 10, "champion", "1", "approve"),
            answer(2, 20, "canary", "2", "approve"),
            answer(3, 20, "canary", "3", "approve"),
        ]
    )
    with pytest.raises(SluiceError, match="canary answered by 2, 3"):
        assign_arms(log, "champion", "canary")


@pytest.mark.parametrize(("held_out", "unknown"), [(0, True), (29, True), (30, False)])
def test_a_few_held_out_rows_stand_for_no_blocks(held_out: int, unknown: bool) -> None:
    rows = [answer(1, 10, "champion", "1", "approve"), answer(2, 20, "canary", "2", "block")]
    rows += [answer(100 + number, 20, "holdout", "2", "approve") for number in range(held_out)]
    assert assign_arms(pd.DataFrame(rows), "champion", "canary").unknown_blocks == (False, unknown)


def test_the_held_out_stand_for_all_that_would_have_been_blocked() -> None:
    log = pd.DataFrame(
        [
            answer(1, 10, "champion", "1", "approve"),
            answer(2, 20, "canary", "2", "approve"),
            *(answer(number, 20, "canary", "2", "block") for number in range(3, 9)),
            answer(9, 20, "canary", "2", "block", rule="deny_customer"),
            answer(10, 21, "holdout", "2", "approve"),
            answer(11, 22, "holdout", "2", "approve"),
            answer(12, 11, "champion", "1", "block"),
        ]
    )
    found = assign_arms(log, "champion", "canary")
    weights = found.answers.set_index("transaction_id")["weight"].to_dict()
    assert weights == {1: 1.0, 2: 1.0, **dict.fromkeys(range(3, 10), 0.0), 10: 4.0, 11: 4.0, 12: 0.0}
    assert found.unknown_blocks == (True, True), "two are too few, and the control has none"
    customers = per_customer(found.answers, {2, 10})
    assert customers.loc[20, ["fraud_lost", "let_through", "let_through_frauds"]].tolist() == [1_000, 1, 1]
    assert customers.loc[21, ["fraud_lost", "honest", "honest_stopped"]].tolist() == [0, 0, 0], (
        "a fraud, stopped"
    )
    assert customers.loc[22, ["honest", "honest_stopped"]].tolist() == [4, 4], "an honest one, of four"


def test_figures_from_before_are_a_customers_own() -> None:
    rows = pd.DataFrame(
        {"transaction_id": [1, 2, 3], "customer_id": [7, 7, 8], "amount_minor": [100, 50, 30]}
    )
    found = before_start(rows, {2}, pd.Index([7, 9]))
    assert found.tolist() == [[2, 150, 50], [0, 0, 0]]


def write(settings: Settings, table: Any, rows: list[dict[str, Any]]) -> None:
    lake_of(settings).append(table, pa.Table.from_pylist(rows, schema=table.schema))


def fill(
    settings: Settings, *, people: int = 1_600, catches: float = 0.4, percent: int = PERCENT, seed: int = 4
) -> None:
    """An experiment of DAYS days: the champion challenges 40 % of the frauds, the canary `catches` of them.

    Some customers are in more frauds than others, before and during it. `percent` is what the routing splits.
    """
    generator = np.random.default_rng(seed)
    risk = generator.beta(0.4, 2.0, people)
    number = 0
    for offset in range(-BEFORE, DAYS):
        day = FIRST + timedelta(days=offset)
        payments, log, frauds = [], [], []
        for customer in np.flatnonzero(generator.random(people) < 0.6):
            number += 1
            moment = datetime(day.year, day.month, day.day, 12, tzinfo=UTC)
            amount = int(generator.integers(500, 6_000))
            fraud = bool(generator.random() < 0.5 * risk[customer])
            frauds += [number] * fraud
            payments.append(
                {"day": day, "transaction_id": number, "event_time": moment, "customer_id": int(customer)}
                | {"terminal_id": 1, "amount_minor": amount, "file_day": day}
                | {"available_at": midnight(day + timedelta(days=1))}
            )
            if offset >= 0:
                log.append(_logged(payments[-1], fraud, percent, catches, generator))
        write(settings, TRANSACTIONS, payments)
        known = day + timedelta(days=2)
        words = [
            {"day": known, "transaction_id": fraud, "available_at": midnight(known), "is_fraud": 1}
            for fraud in frauds
        ]
        write(settings, LABELS, words)
        merge(settings, known)
        if log:
            write(settings, PREDICTIONS, log)
    for late in range(1, MATURITY + 1):
        merge(settings, LAST + timedelta(days=2 + late))


def merge(settings: Settings, day: date) -> None:
    """The chargebacks of a day have come."""
    blank: dict[str, Any] = {
        "feed": "labels",
        "sequence": 1,
        "address": "",
        "path": "",
        "size_bytes": 1,
        "rows": 1,
    }
    write(settings, LANDED_FILES, [blank | {"day": day, "digest": "a", "arrived_at": midnight(day)}])
    write(settings, MERGED_LABELS, [{"day": day, "digest": "a", "rows": 1}])


def _logged(
    payment: dict[str, Any], fraud: bool, percent: int, catches: float, generator: np.random.Generator
) -> dict[str, Any]:
    mine = in_canary(payment["customer_id"], percent, "sluice")
    caught = generator.random() < (catches if mine else 0.4) if fraud else generator.random() < 0.01
    score = 0.5 * caught + 0.4 * generator.random()
    return {name: payment[name] for name in ("day", "transaction_id", "event_time", "customer_id")} | {
        "request_id": f"r{payment['transaction_id']}", "terminal_id": 1,
        "amount_minor": payment["amount_minor"],
        "model_version": "2" if mine else "1", "variant": "canary" if mine else "champion",
        "step": "canary_25", "score": float(score), "decision": "challenge" if caught else "approve",
        "rule": "", "error": "", "latency_ms": 1.0, "served_at": payment["event_time"],
    }  # fmt: skip


def look(settings: Settings, day: date, **more: Any) -> Receipt:
    given: dict[str, Any] = {"name": "trees", "first": FIRST, "last": LAST} | more
    return read_out.run(read_out.Params(day=day, **given), settings)


def rows_of(settings: Settings) -> pd.DataFrame:
    return lake_of(settings).read(EXPERIMENT_READOUTS).to_pandas().sort_values(["day", "metric"])


@pytest.fixture(scope="module")
def better(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A canary that catches far more."""
    settings = load_settings({"SLUICE_HOME": str(tmp_path_factory.mktemp("better"))})
    fill(settings, catches=0.8)
    return settings


def test_looks_go_on_until_the_plan_is_over_and_a_better_version_shows(better: Settings) -> None:
    days = [FIRST + timedelta(days=MATURITY + matured - 1) for matured in (3, 6, DAYS)]
    receipts = [look(better, day) for day in days]
    assert [each.facts["look"] for each in receipts] == [1, 2, 3]
    final = receipts[-1]
    assert final.facts["verdict"] == "better", final.facts
    assert final.facts["effects"]["fraud_lost"] < 0
    rows = rows_of(better)
    assert len(rows) == 3 * (1 + len(METRICS))
    last = rows[rows["day"].eq(days[-1])].set_index("metric")
    assert last.loc["fraud_lost", "adjusted_p_value"] <= 0.05
    assert last.loc["fraud_lost", "high"] < 0
    assert (
        last["p_value"].drop("sample_ratio") <= last["adjusted_p_value"].drop("sample_ratio") + 1e-9
    ).all()
    assert last["time"].unique().tolist() == [1.0]
    page = Path(final.facts["report"]).read_text()
    assert "data:image/png;base64," in page
    assert "Verdict: <span class='pass'>better" in page
    assert "<script" not in page
    with pytest.raises(SluiceError, match="was the last of the plan"):
        look(better, days[-1] + timedelta(days=1))
    again = look(better, days[-1])
    assert again.digest == final.digest, "a look of the same day is the same look"
    assert len(rows_of(better)) == len(rows)
    with pytest.raises(SluiceError, match="looks go forward"):
        look(better, days[0] + timedelta(days=1))


def test_a_plan_is_not_changed_between_looks(better: Settings) -> None:
    look(better, FIRST + timedelta(days=5), name="fixed")
    with pytest.raises(SluiceError, match="a plan is not changed between looks"):
        look(better, FIRST + timedelta(days=8), name="fixed", last=LAST + timedelta(days=4))


def test_another_split_than_the_intended_one_blocks_the_readout(better: Settings) -> None:
    receipt = look(better, LAST + timedelta(days=MATURITY), name="ratio", percent=40)
    assert receipt.facts["verdict"] == "blocked"
    assert "sample-ratio mismatch" in receipt.facts["reason"]
    rows = rows_of(better)
    rows = rows[rows["experiment"].eq("ratio")]
    assert rows["metric"].tolist() == ["sample_ratio"], "no figure is shown"
    assert rows["look"].tolist() == [0], "and no alpha is spent"
    assert "data:image" not in Path(receipt.facts["report"]).read_text()


def test_missing_chargebacks_block_the_readout(better: Settings) -> None:
    later = LAST + timedelta(days=8)
    receipt = look(better, later, name="silent", last=LAST + timedelta(days=5))
    assert receipt.facts["verdict"] == "blocked"
    assert "are not merged; run fraud_labels" in receipt.facts["reason"]


def test_a_day_too_early_and_a_step_that_is_not_there_are_errors(better: Settings) -> None:
    with pytest.raises(SluiceError, match="no day since 2026-02-01 has labels that are 3 days old"):
        look(better, FIRST + timedelta(days=2))
    with pytest.raises(SluiceError, match="no version at all"):
        look(better, LAST + timedelta(days=3), name="other", step="canary_50")
    with pytest.raises(ValueError, match="lies before the first"):
        read_out.Params(day=LAST, name="x", first=LAST, last=FIRST)
    with pytest.raises(ValueError, match="string_pattern_mismatch|should match pattern"):
        read_out.Params(day=LAST, name="../x", first=FIRST, last=LAST)


def test_too_few_customers_block_the_readout(home: Settings) -> None:
    fill(home, people=300)
    receipt = look(home, LAST + timedelta(days=MATURITY))
    assert receipt.facts["verdict"] == "blocked"
    assert "needed 200 in each" in receipt.facts["reason"]


def test_two_versions_that_are_alike_are_not_told_apart(home: Settings) -> None:
    fill(home, catches=0.4)
    receipt = look(home, LAST + timedelta(days=MATURITY))
    assert receipt.facts["verdict"] == "no difference found", receipt.facts
    rows = rows_of(home).set_index("metric")
    assert rows.loc["fraud_lost", "low"] < 0 < rows.loc["fraud_lost", "high"]
    assert json.loads(rows.loc["fraud_lost", "plan"])["treatment"] == "canary 2"


def test_a_plan_is_sized_by_what_customers_came_to_before(better: Settings) -> None:
    day = LAST + timedelta(days=MATURITY)
    receipt = size.run(size.Params(day=day, days=DAYS, change=0.2, percent=50), better)
    rows = lake_of(better).read(EXPERIMENT_SIZES).to_pandas().set_index("metric")
    assert receipt.rows == len(rows) == len(METRICS)
    lost = rows.loc["fraud_lost"]
    log = lake_of(better).read(PREDICTIONS).to_pandas()
    log = log[log["variant"].eq("champion")]
    frauds = set(lake_of(better).read(LABELS).to_pandas()["transaction_id"])
    passed = log["decision"].eq("approve") & log["transaction_id"].isin(frauds)
    total = (log["amount_minor"] * passed).groupby(log["customer_id"]).sum()
    assert lost["base"] == pytest.approx(total.mean())
    assert 0.6 * total.std() < lost["deviation"] < total.std(), "less what the time before explains"
    halved = size.run(size.Params(day=day, days=DAYS, change=0.1, percent=50), better)
    ours, twice = receipt.facts["customers"]["fraud_lost"], halved.facts["customers"]["fraud_lost"]
    assert twice[0] == pytest.approx(4 * ours[0], rel=0.01)
    with pytest.raises(SluiceError, match="canary_x answered 0 customers"):
        size.run(size.Params(day=day, days=DAYS, variant="canary_x"), better)
