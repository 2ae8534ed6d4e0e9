"""Labels as of an instant, and the split by time."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pydantic import ValidationError

from jobs.conf.settings import Settings
from jobs.core import SluiceError
from jobs.lake.store import Lake
from jobs.lake.tables import LABELS, LANDED_FILES, TRANSACTIONS
from jobs.training import frame as frame_job
from jobs.training import labels as labels_job
from tests.training_support import DAY, SPLIT_POLICY, made_rows


def at(day: int, hour: int = 0) -> pd.Timestamp:
    return pd.Timestamp(datetime(2026, 1, day, hour, tzinfo=UTC))


def known_labels(*rows: tuple[int, pd.Timestamp, int]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["transaction_id", "available_at", "is_fraud"])


def transactions(*ids: int) -> pd.DataFrame:
    return pd.DataFrame({"transaction_id": ids, "day": [date(2026, 1, 1)] * len(ids)})


def test_a_label_that_became_available_at_the_instant_itself_is_not_known_yet() -> None:
    labels = known_labels((1, at(5), 1), (2, at(4, 23), 1))
    found = labels_job.snapshot(transactions(1, 2, 3), labels, at(5))
    assert found["is_fraud"].tolist() == [0, 1, 0]


def test_the_latest_label_wins_whatever_the_order_of_the_rows() -> None:
    labels = known_labels((1, at(4), 0), (1, at(3), 1), (2, at(3), 0), (2, at(4), 1))
    for rows in (labels, labels.iloc[::-1]):
        assert labels_job.snapshot(transactions(1, 2), rows, at(9))["is_fraud"].tolist() == [0, 1]


def test_a_correction_that_comes_later_than_the_instant_is_not_seen() -> None:
    labels = known_labels((1, at(3), 1), (1, at(8), 0))
    assert labels_job.snapshot(transactions(1), labels, at(5))["is_fraud"].tolist() == [1]


def write_day(settings: Settings, day: date, ids: list[int]) -> None:
    rows = pa.table(
        {
            "day": [day] * len(ids),
            "transaction_id": ids,
            "event_time": [datetime(day.year, day.month, day.day, 12, tzinfo=UTC)] * len(ids),
            "customer_id": ids,
            "terminal_id": ids,
            "amount_minor": [100] * len(ids),
        }
    )
    Lake(settings.lake).replace(TRANSACTIONS, rows.cast(TRANSACTIONS.schema), day)


def write_labels(settings: Settings, day: date, ids: list[int], *, landed: bool = True) -> None:
    lake = Lake(settings.lake)
    rows = pa.table(
        {
            "day": [day] * len(ids),
            "transaction_id": ids,
            "available_at": [datetime(day.year, day.month, day.day, 6, tzinfo=UTC)] * len(ids),
            "is_fraud": [1] * len(ids),
        }
    )
    lake.replace(LABELS, rows.cast(LABELS.schema), day)
    if landed:
        empty = {"int32": 0, "int64": 0, "string": ""}
        file = {field.name: empty.get(str(field.type)) for field in LANDED_FILES.schema}
        file |= {"day": day, "feed": "labels"}
        table = pa.Table.from_pylist([file], schema=LANDED_FILES.schema)
        lake.replace(LANDED_FILES, table, day)


def test_young_transactions_are_left_out_also_those_already_known_as_fraud(home: Settings) -> None:
    days = [date(2026, 1, number) for number in range(1, 8)]
    for number, day in enumerate(days):
        write_day(home, day, [number * 10 + 1, number * 10 + 2])
    write_labels(home, days[5], [11, 41])  # 11 is of the 2nd, 41 of the 5th
    write_labels(home, days[6], [12])
    receipt = labels_job.run(labels_job.Params(day=days[6], run="r"), home)
    found = pd.read_parquet(home.work / "training" / "r" / "labels.parquet")
    assert found["day"].max() == date(2026, 1, 4)  # three days of maturity before the 7th
    assert found.loc[found["is_fraud"] == 1, "transaction_id"].tolist() == [11, 12]
    assert (receipt.rows, receipt.facts["positives"]) == (8, 2)


def test_the_snapshot_does_not_change_when_later_labels_arrive(home: Settings) -> None:
    for number in range(1, 8):
        write_day(home, date(2026, 1, number), [number])
    write_labels(home, date(2026, 1, 6), [1])
    params = labels_job.Params(day=date(2026, 1, 6), run="r")
    before = labels_job.run(params, home).digest
    write_labels(home, date(2026, 1, 7), [2])
    assert labels_job.run(params, home).digest == before


@pytest.mark.parametrize("landed", [True, False])
def test_a_chargeback_feed_that_lags_behind_is_an_error_and_not_a_day_without_fraud(
    home: Settings, landed: bool
) -> None:
    for number in range(1, 8):
        write_day(home, date(2026, 1, number), [number])
    write_labels(home, date(2026, 1, 5), [1], landed=landed)
    with pytest.raises(SluiceError, match="newest chargeback file"):
        labels_job.run(labels_job.Params(day=date(2026, 1, 7), run="r"), home)


def test_no_matured_transactions_is_an_error_with_the_days(home: Settings) -> None:
    with pytest.raises(SluiceError, match="no matured transactions between"):
        labels_job.run(labels_job.Params(day=date(2026, 1, 7), run="r"), home)


@pytest.mark.parametrize("run", ["", "..", "a/b", "a b", "x" * 121, "../up"])
def test_a_run_name_that_could_leave_its_folder_is_refused(run: str) -> None:
    with pytest.raises(ValidationError):
        labels_job.Params(day=DAY, run=run)


def test_airflow_run_ids_name_a_run() -> None:
    assert labels_job.Params(day=DAY, run="manual__2026-01-31T00:00:00+00:00").run


def test_the_parts_of_the_split_never_touch() -> None:
    last = date(2026, 2, 26)
    split = frame_job.split_days(last, SPLIT_POLICY, embargo_days=3)
    assert split.test_first == date(2026, 2, 19)
    assert (split.test_first - split.fit_last).days == 3 + 1
    assert (split.validation_first - split.tuning_last).days == 3 + 1
    assert (split.fit_last - split.validation_first).days + 1 == 5
    assert (split.test_last - split.fit_first).days + 1 == 40
    roles = [split.role(split.fit_first + timedelta(days=offset)) for offset in range(40)]
    assert roles == ["tuning"] * 21 + ["gap"] * 3 + ["validation"] * 5 + ["embargo"] * 3 + ["test"] * 8


def test_shuffled_labels_keep_the_truth_beside_them_and_spare_the_test_rows() -> None:
    rows = made_rows(50)
    split = frame_job.split_days(rows["day"].max(), SPLIT_POLICY, 3)
    rows["role"] = [split.role(day) for day in rows["day"]]
    drilled = frame_job.with_training_labels(rows, "shuffled_labels", seed=7)
    fit, test = frame_job.fit_rows(drilled), frame_job.role_rows(drilled, "test")
    assert fit["training_label"].sum() == fit["is_fraud"].sum()
    assert (fit["training_label"] != fit["is_fraud"]).any()
    assert (test["training_label"] == test["is_fraud"]).all()
    honest = frame_job.with_training_labels(rows, "none", seed=7)
    assert (honest["training_label"] == honest["is_fraud"]).all()


@pytest.mark.parametrize("sign", [1, -1])
def test_a_planted_feature_that_knows_the_label_is_found(sign: int) -> None:
    rows = made_rows(50)
    noise = np.random.default_rng(0).normal(size=len(rows))
    rows["terminal_risk_1d"] = sign * (rows["is_fraud"] * 10 + noise)
    features = ("terminal_risk_1d", "amount", "hour")
    verdict = frame_job.leak_verdict(frame_job.single_feature_auc(rows, features))
    assert verdict.outcome == "fail"
    assert "terminal_risk_1d" in verdict.reason
    assert "amount" not in verdict.reason


def test_a_part_without_fraud_is_an_error_that_names_it() -> None:
    rows = made_rows(50)
    split = frame_job.split_days(rows["day"].max(), SPLIT_POLICY, 3)
    rows["role"] = [split.role(day) for day in rows["day"]]
    rows.loc[rows["role"] == "validation", "is_fraud"] = 0
    with pytest.raises(SluiceError, match="validation rows have 0 frauds"):
        frame_job.check_roles(rows, split)
