"""Feast: strict point-in-time joins, materialisation in any order, and online equal to offline."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from jobs.conf.contract import contract_of
from jobs.conf.policy import load_policy
from jobs.conf.settings import PROJECT_ROOT, Settings
from jobs.core import SluiceError
from jobs.features import materialize
from jobs.features.declarations import MODEL_FEATURES, STORED_FEATURES
from jobs.features.definitions import VIEWS, publication
from jobs.features.history import historical_features
from jobs.features.online import OnlineFeatures
from jobs.features.request import assemble
from jobs.features.store import feast_home, feature_store, repo_config
from jobs.features.tables import TRANSACTION_VELOCITY
from jobs.lake.store import lake_of
from tests.features_data import DAY, moment, put_features

pytest_plugins = ("tests.spark_server",)

BEFORE = DAY - timedelta(days=1)  # as of 2026-02-28 00:00


def events(*rows: tuple[str, int, int]) -> pd.DataFrame:
    """event_time, customer_id, terminal_id; the amount is 20.00."""
    return pd.DataFrame(
        {
            "transaction_id": range(len(rows)),
            "event_time": pd.to_datetime([moment(when) for when, _, _ in rows], utc=True),
            "customer_id": [customer for _, customer, _ in rows],
            "terminal_id": [terminal for _, _, terminal in rows],
            "amount_minor": 2000,
            "kept": [f"row {n}" for n in range(len(rows))],
        }
    )


def two_days(home: Settings) -> None:
    """Customer 1 has 1.0 as of 02-28 and 2.0 as of 03-01; terminal 10 has 0.25 and 0.5."""
    put_features(home, "customer", [(BEFORE, 1, 1.0), (BEFORE, 2, 7.0), (DAY, 1, 2.0)])
    put_features(home, "terminal", [(BEFORE, 10, 0.25), (DAY, 10, 0.5)])
    lake_of(home).replace(TRANSACTION_VELOCITY, TRANSACTION_VELOCITY.schema.empty_table(), DAY)


def with_due_hours(home: Settings, transactions: float, labels: float) -> Settings:
    """The installation with a contract whose files are due at other hours."""
    contract = contract_of(home).model_dump(mode="json")
    contract["transactions"]["due_hours"], contract["labels"]["due_hours"] = transactions, labels
    home.home.mkdir(parents=True, exist_ok=True)
    path = home.home / "contract.yaml"
    path.write_text(yaml.safe_dump(contract, sort_keys=False))
    return home.model_copy(update={"contract": str(path)})


def materialized(home: Settings, *days: date) -> None:
    for day in days:
        materialize.run(materialize.Params(day=day), home)


def test_a_row_of_midnight_serves_events_strictly_after_the_hour_at_which_it_is_due(
    spark_home: Settings,
) -> None:
    two_days(spark_home)
    asked = events(
        ("2026-02-28 04:00:00", 1, 10),
        ("2026-02-28 04:00:00.000001", 1, 10),
        ("2026-03-01 04:00:00", 1, 10),
        ("2026-03-01 04:00:00.000001", 1, 10),
    )
    answer = historical_features(asked, spark_home)
    assert answer["customer_count_7d"].tolist()[1:] == [1.0, 1.0, 2.0]
    assert math.isnan(answer["customer_count_7d"][0])
    assert answer["customer_missing"].tolist() == [1.0, 0.0, 0.0, 0.0]
    assert answer["terminal_risk_7d"].tolist()[1:] == [0.25, 0.25, 0.5]


def test_a_row_older_than_its_ttl_is_missing_and_not_zero(spark_home: Settings) -> None:
    two_days(spark_home)
    asked = events(("2026-03-02 00:00:00", 2, 10), ("2026-03-02 00:00:01", 2, 10))
    answer = historical_features(asked, spark_home)
    assert answer["customer_count_30d"].tolist()[0] == 7.0
    assert math.isnan(answer["customer_count_30d"][1])
    assert answer["customer_missing"].tolist() == [0.0, 1.0]
    assert answer["terminal_missing"].tolist() == [0.0, 0.0]


def test_no_event_is_dropped_doubled_or_moved(spark_home: Settings) -> None:
    two_days(spark_home)
    asked = events(
        ("2026-03-01 10:00:00", 1, 10),
        ("2026-02-28 10:00:00", 999, 10),  # an unknown customer
        ("2026-03-01 10:00:00", 1, 10),  # the same entities at the same time: a second row
        ("2026-02-28 09:00:00", 1, 999),  # an unknown terminal
        ("2030-01-01 00:00:00", 1, 10),  # long after everything
    )
    asked.index = pd.Index([7, 3, 3, 1, 0])  # an index that is neither sorted nor unique
    answer = historical_features(asked, spark_home)
    pd.testing.assert_frame_equal(answer[list(asked.columns)], asked)
    assert list(answer.columns) == [*asked.columns, *MODEL_FEATURES]
    assert answer["customer_missing"].tolist() == [0.0, 1.0, 0.0, 0.0, 1.0]
    assert answer["terminal_missing"].tolist() == [0.0, 0.0, 0.0, 1.0, 1.0]
    assert answer["customer_count_1d"].iloc[[0, 2, 3]].tolist() == [2.0, 2.0, 1.0]


def test_no_events_give_no_rows_and_a_missing_column_is_named(home: Settings) -> None:
    two_days(home)
    empty = historical_features(events().astype({"customer_id": "int64"}), home)
    assert len(empty) == 0
    assert set(MODEL_FEATURES) <= set(empty.columns)
    with pytest.raises(SluiceError, match="no column terminal_id"):
        historical_features(events().drop(columns="terminal_id"), home)


def test_days_may_be_materialized_in_any_order_and_again(home: Settings) -> None:
    two_days(home)
    materialized(home, DAY)
    materialized(home, BEFORE)  # older: adds customer 2, leaves customer 1 alone
    materialized(home, BEFORE, DAY, BEFORE)
    online = OnlineFeatures(home)
    assert online.read(1, 10)["customer_count_1d"] == 2.0
    assert online.read(2, 10)["customer_count_1d"] == 7.0
    assert online.read(1, 10)["terminal_risk_30d"] == 0.5
    assert online.read(404, 404) == dict.fromkeys(STORED_FEATURES)


def test_days_brought_online_together_leave_what_one_after_the_other_leaves(
    home: Settings, tmp_path: Path
) -> None:
    other = home.model_copy(update={"home": tmp_path / "other"})
    gap = DAY + timedelta(days=2)
    for place in (home, other):
        two_days(place)
        put_features(place, "customer", [(gap, 2, 9.0)])
        put_features(place, "terminal", [(gap, 11, 0.75)])
    materialized(home, BEFORE, DAY, gap)
    days = ",".join(map(str, (gap, BEFORE, DAY)))
    receipt = materialize.run(materialize.Params(day=DAY, days=days), other)
    assert (receipt.rows, receipt.facts["days"]) == (7, 3)
    for customer, terminal in ((1, 10), (2, 11), (2, 10)):
        assert OnlineFeatures(other).read(customer, terminal) == OnlineFeatures(home).read(customer, terminal)
    assert OnlineFeatures(other).read(2, 11)["terminal_risk_7d"] == 0.75


def test_a_rebuilt_day_replaces_its_own_values_online(home: Settings) -> None:
    two_days(home)
    materialized(home, BEFORE, DAY)
    put_features(home, "customer", [(DAY, 1, 5.0)])
    materialized(home, DAY)
    assert OnlineFeatures(home).read(1, 10)["customer_amount_mean_7d"] == 5.0


def test_a_null_stays_null_online(home: Settings) -> None:
    put_features(home, "customer", [(DAY, 1, None)])
    put_features(home, "terminal", [(DAY, 10, 0.0)])
    materialized(home, DAY)
    found = OnlineFeatures(home).read(1, 10)
    assert found["customer_amount_mean_1d"] is None
    assert found["terminal_risk_1d"] == 0.0


def test_a_day_without_features_is_an_error_for_a_person(home: Settings) -> None:
    with pytest.raises(SluiceError, match="build_features --day 2026-02-28"):
        materialized(home, DAY)


def test_online_equals_offline_for_the_same_entities_and_time(spark_home: Settings) -> None:
    two_days(spark_home)
    materialized(spark_home, DAY, BEFORE)
    asked = events(
        ("2026-03-01 08:30:00", 1, 10),
        ("2026-03-01 23:59:59", 2, 10),  # in yesterday's rows only, still within the ttl
        ("2026-03-01 06:59:59", 3, 10),
        ("2026-03-02 00:00:00.000002", 2, 404),  # customer 2 has expired
        ("2026-03-03 00:00:00.000001", 1, 10),  # the last microsecond of the ttl
        ("2026-03-03 00:00:00.000002", 1, 10),
    )
    offline = historical_features(asked, spark_home)[list(MODEL_FEATURES)].to_numpy()
    online = OnlineFeatures(spark_home)
    served = []
    for row in asked.itertuples():
        stored = online.read(row.customer_id, row.terminal_id, row.event_time)
        served.append(assemble(row.amount_minor, row.event_time, stored, None))
    np.testing.assert_array_equal(np.array(served), offline)
    assert np.isnan(offline[3]).any()


def test_the_direct_read_gives_what_feasts_own_call_gives(home: Settings) -> None:
    two_days(home)
    materialized(home, DAY)
    store = feature_store(home)
    views = [store.get_feature_view(name) for name in VIEWS.values()]
    answer = store.get_online_features(
        features=[f"{view.name}:{field.name}" for view in views for field in view.features],
        entity_rows=[{"customer_id": 1, "terminal_id": 10}],
    ).to_dict()
    ours = OnlineFeatures(home).read(1, 10)
    assert {name: answer[name][0] for name in STORED_FEATURES} == ours


def test_whoever_opens_the_store_at_once_applies_it_once(home: Settings) -> None:
    with ThreadPoolExecutor(4) as pool:
        stores = list(pool.map(feature_store, [home] * 4))
    assert [len(store.list_feature_views()) for store in stores] == [3, 3, 3, 3]
    registry = feast_home(home) / "registry.db"
    before = registry.stat().st_mtime_ns
    feature_store(home)
    assert registry.stat().st_mtime_ns == before


def test_the_views_have_the_policys_ttl_and_the_hour_at_which_the_contracts_last_file_is_due(
    home: Settings,
) -> None:
    hours = load_policy().features.batch_ttl_hours
    store = feature_store(with_due_hours(home, transactions=1.5, labels=6.25))
    for name in VIEWS.values():
        view = store.get_feature_view(name)
        assert (view.ttl, publication(view)) == (timedelta(hours=hours), timedelta(hours=6.25))
    assert publication(store.get_feature_view(TRANSACTION_VELOCITY.name)) == timedelta(0)


def test_other_due_hours_are_other_definitions(home: Settings) -> None:
    feature_store(home)
    store = feature_store(with_due_hours(home, transactions=2, labels=3))
    assert publication(store.get_feature_view(VIEWS["customer"])) == timedelta(hours=3)


def test_rows_that_expire_before_they_are_published_are_refused_with_what_to_do(home: Settings) -> None:
    with pytest.raises(SluiceError, match=r"due 48 hours after .* raise features\.batch_ttl_hours"):
        feature_store(with_due_hours(home, transactions=48, labels=3))


def test_the_feast_command_line_reads_the_same_configuration() -> None:
    repository = PROJECT_ROOT / "feature_repo"
    written = yaml.safe_load((repository / "feature_store.yaml").read_text())
    config = repo_config(Settings())
    assert written["project"] == config.project
    assert written["offline_store"] == {"type": config.offline_store.type}
    assert written["online_store"]["type"] == config.online_store.type
    assert written["batch_engine"] == config.batch_engine_config
    assert written["entity_key_serialization_version"] == config.entity_key_serialization_version
    for given, used in (
        (written["online_store"]["path"], config.online_store.path),
        (written["registry"]["path"], config.registry.path),
    ):
        assert (repository / given).resolve() == Path(used)
