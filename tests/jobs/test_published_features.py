"""The 14 features of the Fraud Detection Handbook: its rules on a few rows, and its own figures."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path

import pandas as pd
import pytest

from jobs.conf.settings import Settings
from jobs.features.published import published_features
from jobs.spark import spark_session

pytest_plugins = ("tests.spark_server",)
HANDBOOK = Path(__file__).parents[3] / "shared" / "data" / "handbook"
HISTORY = timedelta(days=7 + 30)  # the delay of labels and the longest window


def features_of(rows: list[tuple[object, ...]], settings: Settings) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=["TRANSACTION_ID", "TX_DATETIME", "CUSTOMER_ID", "TERMINAL_ID",
                                        "TX_AMOUNT", "TX_FRAUD"])  # fmt: skip
    frame["TX_DATETIME"] = pd.to_datetime(frame["TX_DATETIME"])
    answer = published_features(spark_session(settings).createDataFrame(frame)).toPandas()
    return answer.set_index("TRANSACTION_ID").sort_index()


def test_a_customers_window_holds_the_current_payment_and_its_mean_amount(spark_home: Settings) -> None:
    found = features_of(
        [
            (1, "2026-03-01 10:00:00", 7, 1, 10.0, 0),
            (2, "2026-03-02 10:00:00", 7, 1, 30.0, 0),  # exactly one day later: the first has just left
            (3, "2026-03-02 10:00:01", 8, 1, 99.0, 0),  # another customer
        ],
        spark_home,
    )
    assert found["CUSTOMER_ID_NB_TX_1DAY_WINDOW"].tolist() == [1, 1, 1]
    assert found["CUSTOMER_ID_NB_TX_7DAY_WINDOW"].tolist() == [1, 2, 1]
    assert found["CUSTOMER_ID_AVG_AMOUNT_7DAY_WINDOW"].tolist() == [10.0, 20.0, 99.0]


def test_of_two_payments_of_one_instant_the_first_does_not_count_the_second(spark_home: Settings) -> None:
    found = features_of(
        [(1, "2026-03-01 10:00:00", 7, 1, 10.0, 0), (2, "2026-03-01 10:00:00", 7, 1, 30.0, 0)], spark_home
    )
    assert found["CUSTOMER_ID_NB_TX_1DAY_WINDOW"].tolist() == [1, 2]
    assert found["CUSTOMER_ID_AVG_AMOUNT_1DAY_WINDOW"].tolist() == [10.0, 20.0]


def test_a_terminals_risk_knows_a_fraud_seven_days_later_and_no_sooner(spark_home: Settings) -> None:
    found = features_of(
        [
            (1, "2026-03-01 10:00:00", 1, 7, 10.0, 1),
            (2, "2026-03-08 09:59:59", 2, 7, 10.0, 0),
            (3, "2026-03-08 10:00:00", 3, 7, 10.0, 0),
            (4, "2026-03-09 10:00:00", 4, 7, 10.0, 0),
        ],
        spark_home,
    )
    assert found["TERMINAL_ID_NB_TX_1DAY_WINDOW"].tolist() == [0, 0, 1, 0]
    assert found["TERMINAL_ID_RISK_1DAY_WINDOW"].tolist() == [0.0, 0.0, 1.0, 0.0]
    assert found["TERMINAL_ID_RISK_7DAY_WINDOW"].tolist() == [0.0, 0.0, 1.0, 1.0]


def test_weekends_and_nights_are_the_books(spark_home: Settings) -> None:
    found = features_of(
        [
            (1, "2026-03-06 06:59:59", 1, 1, 1.0, 0),  # a Friday, still night
            (2, "2026-03-07 07:00:00", 1, 1, 1.0, 0),  # a Saturday, no longer
        ],
        spark_home,
    )
    assert found["TX_DURING_NIGHT"].tolist() == [1, 0]
    assert found["TX_DURING_WEEKEND"].tolist() == [0, 1]


@pytest.mark.skipif(not HANDBOOK.exists(), reason="the handbook data set is not beside the project")
@pytest.mark.parametrize("day", [date(2018, 5, 15), date(2018, 7, 25), date(2018, 8, 14)])
@pytest.mark.usefixtures("generated_code")
def test_every_figure_of_a_published_day_comes_out(spark_home: Settings, day: date) -> None:
    days = [day - timedelta(days=back) for back in range(HISTORY.days + 1)]
    rows = spark_session(spark_home).read.parquet(
        *(f"{HANDBOOK}/transactions/{each}.parquet" for each in days)
    )
    published = pd.read_parquet(HANDBOOK / "features_published" / f"{day}.parquet")
    published = published.set_index("TRANSACTION_ID").sort_index()
    found = published_features(rows).toPandas().set_index("TRANSACTION_ID").loc[published.index]
    columns = [name for name in found.columns if name in published.columns]
    assert len(columns) == 14
    pd.testing.assert_frame_equal(
        found[columns], published[columns], check_dtype=False, check_index_type=False, rtol=1e-9, atol=1e-9
    )
