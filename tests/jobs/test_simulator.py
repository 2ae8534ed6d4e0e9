"""The simulator: the same days from the same seed, about 1 % fraud, faults where they are asked for."""

from __future__ import annotations

import io
import time
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xgboost as xgb
from sklearn.metrics import average_precision_score

from jobs.conf.contract import load_contract
from jobs.conf.settings import Settings, load_settings
from jobs.core import SluiceError, days_between
from jobs.simulator.simulate import (
    Params,
    labels_file,
    labels_of,
    run,
    simulate_day,
    transactions_file,
)
from jobs.simulator.world import SimulatorConfig

FIRST = date(2026, 1, 1)
CONFIG = SimulatorConfig(seed=7)
CONTRACT = load_contract("simulated")


def file_of(config: SimulatorConfig, day: date) -> bytes:
    return transactions_file(config, day, CONTRACT.transactions)


def text_of(config: SimulatorConfig, day: date) -> pd.DataFrame:
    return pd.read_csv(io.BytesIO(file_of(config, day)), dtype=str, keep_default_na=False)


def test_a_day_alone_equals_the_same_day_after_others() -> None:
    alone = file_of(CONFIG, FIRST + timedelta(days=9))
    for day in days_between(FIRST, FIRST + timedelta(days=8)):
        file_of(CONFIG, day)
    assert file_of(SimulatorConfig(seed=7), FIRST + timedelta(days=9)) == alone
    assert file_of(SimulatorConfig(seed=8), FIRST + timedelta(days=9)) != alone


def test_a_file_has_the_columns_of_the_contract_and_nothing_that_gives_the_answer_away() -> None:
    text = text_of(CONFIG, FIRST)
    assert list(text.columns) == [
        "transaction_id", "event_time", "customer_id", "terminal_id", "amount",
    ]  # fmt: skip
    assert text["transaction_id"].is_unique
    assert text["event_time"].is_monotonic_increasing


def test_about_one_percent_of_a_month_is_fraud_and_the_volume_is_as_asked() -> None:
    days = [simulate_day(CONFIG, day).transactions for day in days_between(FIRST, date(2026, 2, 4))]
    rows = pd.concat(days)
    assert 0.008 < rows["is_fraud"].mean() < 0.015
    assert set(rows["pattern"]) == {"none", "terminal", "card", "night"}
    assert 2400 < len(rows) / len(days) < 2650
    assert rows["transaction_id"].is_unique


def test_every_fraud_is_reported_once_one_to_three_days_later_and_nothing_else_is() -> None:
    for day in days_between(FIRST, FIRST + timedelta(days=9)):
        simulated = simulate_day(CONFIG, day)
        frauds = simulated.transactions.query("is_fraud == 1")["transaction_id"]
        reported = pd.concat(simulated.labels.values())
        assert sorted(reported["transaction_id"]) == sorted(frauds)
        for report_day, labels in simulated.labels.items():
            assert 1 <= (report_day - day).days <= 3
            assert set(labels["reported_at"].dt.date) <= {report_day}


def test_the_label_file_of_a_day_gathers_the_reports_of_three_days_of_events() -> None:
    day = FIRST + timedelta(days=6)
    ids = set(labels_of(CONFIG, day, FIRST)["transaction_id"])
    expected: set[int] = set()
    for back in (1, 2, 3):
        expected |= set(simulate_day(CONFIG, day - timedelta(days=back)).labels[day]["transaction_id"])
    assert ids == expected
    assert ids


def test_before_the_source_begins_nothing_is_reported() -> None:
    assert labels_file(CONFIG, FIRST, FIRST, CONTRACT) == b"transaction_id,reported_at,is_fraud\n"


def test_a_broken_day_has_about_two_percent_bad_rows_of_four_kinds() -> None:
    text = text_of(CONFIG.model_copy(update={"broken_day": FIRST}), FIRST)
    kinds = {
        "negative": text["amount"].str.startswith("-"),
        "garbled": pd.to_datetime(text["event_time"], errors="coerce", utc=True).isna(),
        "missing": text["customer_id"] == "",
        "worded": text["amount"] == "twelve",
    }
    shares = {kind: found.mean() for kind, found in kinds.items()}
    assert all(0.003 < share < 0.008 for share in shares.values()), shares
    assert 0.015 < sum(shares.values()) < 0.025


def test_a_failing_feed_has_five_percent_copies_and_a_third_without_customer() -> None:
    text = text_of(CONFIG.model_copy(update={"failing_day": FIRST}), FIRST)
    assert 0.04 < text["transaction_id"].duplicated().mean() < 0.055
    assert 0.30 < (text["customer_id"] == "").mean() < 0.36


def test_the_new_pattern_adds_rows_from_its_day_on_and_leaves_the_others_alone() -> None:
    new = CONFIG.model_copy(update={"new_pattern_from": FIRST + timedelta(days=1)})
    before = simulate_day(new, FIRST).transactions
    pd.testing.assert_frame_equal(before, simulate_day(CONFIG, FIRST).transactions)
    day = FIRST + timedelta(days=1)
    with_pattern = simulate_day(new, day).transactions
    old = with_pattern.query("pattern != 'testing'").drop(columns="transaction_id")
    plain = simulate_day(CONFIG, day).transactions.drop(columns="transaction_id")
    pd.testing.assert_frame_equal(old.reset_index(drop=True), plain)
    tested = with_pattern.query("pattern == 'testing'")
    assert 0.003 < len(tested) / len(plain) < 0.014
    assert tested["amount_minor"].max() <= 400
    assert tested["event_time"].dt.hour.between(1, 5).all()


def test_a_compromised_terminal_sees_fraud_on_several_days() -> None:
    days = [simulate_day(CONFIG, day).transactions for day in days_between(FIRST, date(2026, 1, 30))]
    frauds = pd.concat(days).query("pattern == 'terminal'")
    seen = frauds.groupby("terminal_id")["event_time"].agg(lambda times: times.dt.date.nunique())
    assert seen.median() >= 6


def test_a_day_takes_less_than_a_tenth_of_a_second() -> None:
    simulate_day(CONFIG, FIRST)
    start = time.process_time()  # its own work, however busy the machine is
    for day in days_between(FIRST, FIRST + timedelta(days=19)):
        file_of(CONFIG, day)
    assert (time.process_time() - start) / 20 < 0.1


def test_the_job_writes_both_feeds_and_repeats_itself(tmp_path: Path) -> None:
    settings = load_settings({"SLUICE_HOME": str(tmp_path / "home")})
    params = Params.model_validate(
        {"first_day": "2026-01-01", "last_day": "2026-01-04", "rows_per_day": 200,
         "destination": str(tmp_path / "t"), "labels_destination": str(tmp_path / "l")}
    )  # fmt: skip
    first, second = run(params, settings), run(params, settings)
    assert first.digest == second.digest
    assert sorted(path.name for path in (tmp_path / "t").iterdir()) == [
        "2026-01-01.csv", "2026-01-02.csv", "2026-01-03.csv", "2026-01-04.csv",
    ]  # fmt: skip
    assert len(list((tmp_path / "l").iterdir())) == 4


def test_repairing_one_day_leaves_its_label_file_as_it_was(tmp_path: Path) -> None:
    settings = load_settings({"SLUICE_HOME": str(tmp_path / "home")})
    common = {"rows_per_day": 400, "destination": str(tmp_path / "t"),
              "labels_destination": str(tmp_path / "l")}  # fmt: skip
    whole = {"first_day": "2026-01-01", "last_day": "2026-01-05", "failing_day": "2026-01-04"}
    run(Params.model_validate(common | whole), settings)
    labels = (tmp_path / "l" / "2026-01-04.csv").read_bytes()
    failing = (tmp_path / "t" / "2026-01-04.csv").read_bytes()
    run(Params.model_validate(common | {"first_day": "2026-01-04", "last_day": "2026-01-04"}), settings)
    assert (tmp_path / "l" / "2026-01-04.csv").read_bytes() == labels
    assert (tmp_path / "t" / "2026-01-04.csv").read_bytes() != failing


def test_a_period_that_ends_before_it_begins_is_refused(home: Settings) -> None:
    params = Params.model_validate(
        {"first_day": "2026-01-02", "last_day": "2026-01-01", "destination": "unused"}
    )
    with pytest.raises(SluiceError, match="lies before first_day"):
        run(params, home)


@pytest.fixture(scope="module")
def history() -> pd.DataFrame:
    """74 days with simple features by day, the new pattern in the last 14."""
    config = CONFIG.model_copy(update={"new_pattern_from": FIRST + timedelta(days=60)})
    frames, labels = [], []
    for index in range(74):
        simulated = simulate_day(config, FIRST + timedelta(days=index))
        frames.append(simulated.transactions.assign(day=index))
        for day, rows in simulated.labels.items():
            labels.append(rows[["transaction_id"]].assign(known=(day - FIRST).days))
    rows = pd.concat(frames).merge(pd.concat(labels), on="transaction_id", how="left")
    rows["amount"] = rows["amount_minor"] / 100
    return pd.concat([with_features(rows, day) for day in range(10, 74)])


def with_features(rows: pd.DataFrame, day: int) -> pd.DataFrame:
    today = rows[rows["day"] == day].copy()
    for window in (1, 7, 30):
        past = rows[rows["day"].between(day - window, day - 1)].groupby("customer_id")["amount"]
        today[f"customer_count_{window}"] = today["customer_id"].map(past.size())
        today[f"customer_mean_{window}"] = today["customer_id"].map(past.mean())
        older = rows[rows["day"].between(day - 2 - window, day - 3)]
        risk = (older["known"] < day).groupby(older["terminal_id"])
        today[f"terminal_count_{window}"] = today["terminal_id"].map(risk.size())
        today[f"terminal_risk_{window}"] = today["terminal_id"].map(risk.mean())
    today["hour"] = today["event_time"].dt.hour
    today["ratio"] = today["amount"] / today["customer_mean_30"]
    return today


def model_of(rows: pd.DataFrame) -> tuple[xgb.XGBClassifier, list[str]]:
    columns = [name for name in rows.columns if name.startswith(("customer_c", "customer_m"))]
    columns += [name for name in rows.columns if name.startswith(("terminal_c", "terminal_r"))]
    columns += ["hour", "ratio", "amount"]
    model = xgb.XGBClassifier(n_estimators=100, max_depth=4, learning_rate=0.1, n_jobs=2, seed=1)
    return model.fit(rows[columns], rows["is_fraud"]), columns


def precision(model: xgb.XGBClassifier, columns: list[str], rows: pd.DataFrame) -> float:
    scores = model.predict_proba(rows[columns])[:, 1]
    return float(average_precision_score(rows["is_fraud"], np.asarray(scores)))


def test_a_model_is_good_but_not_perfect_misses_the_new_pattern_and_learns_it(
    history: pd.DataFrame,
) -> None:
    old, columns = model_of(history.query("10 <= day < 45"))
    assert 0.45 < precision(old, columns, history.query("46 <= day < 60")) < 0.75
    after = history.query("65 <= day")
    assert precision(old, columns, after) < 0.42
    new, columns = model_of(history.query("20 <= day < 64"))
    assert precision(new, columns, after) > precision(old, columns, after) + 0.2
