"""Labels as of an instant, and the split by time."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from jobs.conf.contract import LabelFeed
from jobs.conf.policy import WEEKLY, load_policy, policy_of
from jobs.conf.settings import Settings
from jobs.core import NotEnoughData, NothingToDo, SluiceError, midnight
from jobs.evaluation.labels import of_known_cards
from jobs.lake.store import lake_of
from jobs.lake.tables import LABELS, LANDED_FILES, MERGED_LABELS, TRANSACTIONS
from jobs.promotion.state import TAG_DAY
from jobs.training import frame as frame_job
from jobs.training import labels as labels_job
from tests.served_bundles import register, registry_in
from tests.training_support import DAY, LAST, SPLIT_POLICY, made_rows


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


def write_day(settings: Settings, day: date, ids: list[int], *, file_day: date | None = None) -> None:
    rows = pa.table(
        {
            "day": [day] * len(ids),
            "transaction_id": ids,
            "event_time": [datetime(day.year, day.month, day.day, 12, tzinfo=UTC)] * len(ids),
            "customer_id": ids,
            "terminal_id": ids,
            "amount_minor": [100] * len(ids),
            "available_at": [midnight((file_day or day) + timedelta(days=1))] * len(ids),
            "file_day": [file_day or day] * len(ids),
        }
    )
    lake_of(settings).replace(TRANSACTIONS, rows.cast(TRANSACTIONS.schema), day)


def land_labels(settings: Settings, day: date, digest: str = "a") -> None:
    empty = {"int32": 0, "int64": 0, "string": ""}
    file = {field.name: empty.get(str(field.type)) for field in LANDED_FILES.schema}
    file |= {"day": day, "feed": "labels", "digest": digest}
    lake_of(settings).replace(LANDED_FILES, pa.Table.from_pylist([file], schema=LANDED_FILES.schema), day)


def write_labels(
    settings: Settings, day: date, ids: list[int], *, landed: bool = True, merged: bool = True
) -> None:
    lake = lake_of(settings)
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
        land_labels(settings, day)
    if merged:
        row = {"day": day, "digest": "a", "rows": len(ids)}
        lake.replace(MERGED_LABELS, pa.Table.from_pylist([row], schema=MERGED_LABELS.schema), day)


def write_days(settings: Settings, labels: dict[int, list[int]], last: int = 7) -> None:
    """Transactions 11, 12 of the 1st, 21, 22 of the 2nd …, and chargebacks by day of report."""
    for number in range(1, 8):
        write_day(settings, date(2026, 1, number), [number * 10 + 1, number * 10 + 2])
    for number in range(3, last + 1):
        write_labels(settings, date(2026, 1, number), labels.get(number, []))


def test_young_transactions_are_left_out_also_those_already_known_as_fraud(home: Settings) -> None:
    write_days(home, {6: [21, 51], 7: [22]})
    receipt = labels_job.run(labels_job.Params(day=date(2026, 1, 7), run="r"), home)
    found = pd.read_parquet(home.work / "training" / "r" / "labels.parquet")
    assert found["day"].max() == date(2026, 1, 4)  # three days of maturity before the 7th
    assert found.loc[found["is_fraud"] == 1, "transaction_id"].tolist() == [21, 22]
    assert (receipt.rows, receipt.facts["positives"]) == (8, 2)


def test_a_day_that_was_never_delivered_is_left_out_though_a_later_file_brought_rows_of_it(
    home: Settings,
) -> None:
    write_days(home, {6: [11]})
    day = date(2026, 1, 3)
    write_day(home, day, [31], file_day=day + timedelta(days=1))
    labels_job.run(labels_job.Params(day=date(2026, 1, 7), run="r"), home)
    found = pd.read_parquet(home.work / "training" / "r" / "labels.parquet")
    assert found["transaction_id"].tolist() == [11, 12, 21, 22, 41, 42]


def test_the_snapshot_does_not_change_when_later_labels_arrive(home: Settings) -> None:
    write_days(home, {6: [11]}, last=6)
    params = labels_job.Params(day=date(2026, 1, 6), run="r")
    before = labels_job.run(params, home).digest
    write_labels(home, date(2026, 1, 7), [12])
    assert labels_job.run(params, home).digest == before


def test_a_chargeback_feed_that_lags_behind_is_an_error_and_not_a_day_without_fraud(home: Settings) -> None:
    write_days(home, {5: [11]}, last=5)
    with pytest.raises(NotEnoughData, match="chargebacks of 2026-01-06 are not merged"):
        labels_job.run(labels_job.Params(day=date(2026, 1, 7), run="r"), home)


@pytest.mark.parametrize("landed", [True, False])
def test_a_day_that_is_missing_in_the_middle_of_the_chargebacks_is_an_error_that_names_it(
    home: Settings, landed: bool
) -> None:
    for number in range(1, 8):
        write_day(home, date(2026, 1, number), [number])
    for number in (3, 5, 6, 7):
        write_labels(home, date(2026, 1, number), [1])
    write_labels(home, date(2026, 1, 4), [], landed=landed, merged=False)
    with pytest.raises(NotEnoughData, match="chargebacks of 2026-01-04 are not merged.*merge_labels"):
        labels_job.run(labels_job.Params(day=date(2026, 1, 7), run="r"), home)


def test_a_chargeback_file_that_was_landed_again_counts_once_it_is_merged(home: Settings) -> None:
    write_days(home, {5: [11]})
    land_labels(home, date(2026, 1, 5), digest="b")
    with pytest.raises(NotEnoughData, match="chargebacks of 2026-01-05 are not merged"):
        labels_job.run(labels_job.Params(day=date(2026, 1, 7), run="r"), home)


def test_no_chargeback_file_at_all_is_an_error(home: Settings) -> None:
    write_days(home, {}, last=2)
    with pytest.raises(NotEnoughData, match="chargebacks of 2026-01-03, .* are not merged"):
        labels_job.run(labels_job.Params(day=date(2026, 1, 7), run="r"), home)


@pytest.mark.parametrize("maturity", [3, 7, 30, 60])
def test_the_shipped_window_leaves_days_to_tune_on_whatever_the_maturity(maturity: int) -> None:
    training = load_policy().training
    feed = LabelFeed(origin="feed", delay_days=maturity, maturity_days=maturity, horizon_days=maturity)
    first, last = labels_job.training_window(date(2026, 9, 1), feed, training)
    split = frame_job.split_days(last, training, maturity)
    assert split.fit_first == first
    assert (split.fit_last - split.fit_first).days + 1 == training.window_days
    frame_job.check_days(first, split, training, maturity)
    few = split.tuning_last
    frame_job.check_days(few, split, training, maturity)
    needed = 1 + 2 * maturity + training.validation_days + training.test_days + maturity
    with pytest.raises(
        NotEnoughData, match=f"{needed} days of transactions are needed.*there are {needed - 1}"
    ):
        frame_job.check_days(few + timedelta(days=1), split, training, maturity)


def test_a_window_that_no_maturity_of_this_length_fits_in_says_how_long_it_must_be() -> None:
    split = frame_job.split_days(date(2026, 9, 1), SPLIT_POLICY, embargo_days=60)
    with pytest.raises(SluiceError, match=r"training\.window_days is 40 and must be at least 66"):
        frame_job.check_days(date(2025, 1, 1), split, SPLIT_POLICY, 60)


def trained(home: Settings, day: date, minimum_new_rows: int) -> Settings:
    """Days of two transactions each, and a version trained as of one of them."""
    write_days(home, {6: [21, 51], 7: [22]})
    overlay, bundle = home.home / "overlay.yaml", home.home / "bundle"
    overlay.write_text(f"retrain: {{minimum_new_rows: {minimum_new_rows}}}\n")
    bundle.mkdir()
    (bundle / "empty").touch()
    ours = home.model_copy(
        update={"mlflow_uri": registry_in(home.home / "registry"), "policy_overlay": str(overlay)}
    )
    register(ours, bundle, {TAG_DAY: str(day)})
    return ours


WEEKLY_ON_THE_7TH = labels_job.Params(day=date(2026, 1, 7), run="r", reason=WEEKLY)


def test_a_weekly_training_waits_until_enough_has_matured_since_the_last_one(home: Settings) -> None:
    ours = trained(home, date(2026, 1, 5), minimum_new_rows=5)
    with pytest.raises(NothingToDo, match="as of 2026-01-07: 4 new matured rows, needed 5"):
        labels_job.run(WEEKLY_ON_THE_7TH, ours)
    (home.home / "overlay.yaml").write_text("retrain: {minimum_new_rows: 4}\n")
    policy_of.cache_clear()
    assert labels_job.run(WEEKLY_ON_THE_7TH, ours).rows == 8


def test_a_weekly_training_waits_for_the_cooldown_and_one_that_has_begun_goes_on(home: Settings) -> None:
    ours = trained(home, date(2026, 1, 7), minimum_new_rows=0)
    with pytest.raises(NothingToDo, match="0 h since the last one, cooldown 24 h"):
        labels_job.run(WEEKLY_ON_THE_7TH, ours)
    # whoever asks for a training gets it; the run is then killed, and run again as it began
    assert labels_job.run(WEEKLY_ON_THE_7TH.model_copy(update={"reason": "a new pattern"}), ours).rows == 8
    assert labels_job.run(WEEKLY_ON_THE_7TH, ours).rows == 8


def test_the_first_model_is_always_due(home: Settings) -> None:
    write_days(home, {6: [21, 51], 7: [22]})
    ours = home.model_copy(update={"mlflow_uri": registry_in(home.home / "registry")})
    assert labels_job.run(WEEKLY_ON_THE_7TH, ours).rows == 8


def test_no_matured_transactions_is_an_error_with_the_days(home: Settings) -> None:
    with pytest.raises(NotEnoughData, match="no matured transactions between"):
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
    assert (split.fit_last - split.fit_first).days + 1 == 40
    roles = [split.role(split.fit_first + timedelta(days=offset)) for offset in range(51)]
    assert roles == ["tuning"] * 32 + ["gap"] * 3 + ["validation"] * 5 + ["embargo"] * 3 + ["test"] * 8


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
    with pytest.raises(NotEnoughData, match="validation rows have 0 frauds"):
        frame_job.check_roles(rows, split)


def test_rows_of_cards_that_were_known_to_be_compromised_judge_no_model() -> None:
    split = frame_job.split_days(LAST, SPLIT_POLICY, 3)
    test, fit = split.test_first, split.validation_first

    def event(number: int, card: int, day: date, fraud: int, known: str | None) -> dict[str, object]:
        known_at = None if known is None else pd.Timestamp(known, tz="UTC")
        return {
            "transaction_id": number,
            "customer_id": card,
            "day": day,
            "is_fraud": fraud,
            "known_at": known_at,
        }

    midnight = str(test)
    events = pd.DataFrame([
        event(1, 7, split.fit_last, 1, midnight),  # became known with the midnight that begins the test
        event(2, 7, test, 1, str(test + timedelta(days=5))),
        event(3, 8, split.fit_last, 1, f"{test} 00:00:01"),  # a second too late for the first day
        event(4, 8, test, 0, None),
        event(5, 8, test + timedelta(days=1), 0, None),
        event(6, 9, split.fit_first, 1, str(test - timedelta(days=15))),  # longer ago: the card is a new one
        event(7, 9, test, 0, None),
        event(8, 9, fit, 0, None),
        event(9, 5, split.tuning_last, 1, str(fit - timedelta(days=1))),
        event(10, 5, fit, 0, None),
        event(11, 6, split.tuning_last, 0, str(fit)),  # taken back: no fraud
        event(12, 6, fit, 0, None),
    ])  # fmt: skip
    found = dict(zip(events["transaction_id"], frame_job.roles(events, split, 14), strict=True))
    assert {number for number, role in found.items() if role == "test of known cards"} == {2, 5}
    assert {number for number, role in found.items() if role == "validation of known cards"} == {8, 10}
    fitted = frame_job.fit_rows(events.assign(role=found.values()))
    assert 10 in set(fitted["transaction_id"]), "it is fitted on all the same"


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 3), st.integers(0, 40)), max_size=12),
    st.lists(st.tuples(st.integers(1, 3), st.integers(0, 40 * 24)), max_size=8),
)
def test_known_cards_are_those_a_loop_finds(
    rows: list[tuple[int, int]], frauds: list[tuple[int, int]]
) -> None:
    first = date(2026, 1, 1)
    events = pd.DataFrame(
        [{"customer_id": card, "day": first + timedelta(days=day)} for card, day in rows],
        columns=["customer_id", "day"],
    )
    start = pd.Timestamp(first, tz="UTC")
    known = pd.DataFrame(
        {
            "customer_id": pd.Series([card for card, _ in frauds], dtype="int64"),
            "known_at": pd.Series([start + pd.Timedelta(hours=hour) for _, hour in frauds],
                                  dtype="datetime64[us, UTC]"),
        }
    )  # fmt: skip
    expected = [
        any(owner == card and day * 24 - 14 * 24 <= hour <= day * 24 for owner, hour in frauds)
        for card, day in rows
    ]
    events["customer_id"] = events["customer_id"].astype("int64")
    assert of_known_cards(events, known, 14).tolist() == expected


def test_a_fraud_is_known_from_its_first_word_however_often_it_is_reported() -> None:
    labels = known_labels((1, at(8), 1), (1, at(25), 1), (2, at(8), 1), (2, at(9), 0))
    found = labels_job.snapshot(transactions(1, 2), labels, at(30)).set_index("transaction_id")
    assert found.loc[1, "known_at"] == at(8)
    assert pd.isna(found.loc[2, "known_at"]), "it was taken back"
