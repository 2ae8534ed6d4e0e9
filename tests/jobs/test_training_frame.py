"""From tables to a training frame, and scores of a day, by Feast's definitions on a real Spark."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest
import yaml

from jobs.batch import score_day
from jobs.conf.policy import FOLDER
from jobs.conf.settings import Settings
from jobs.core import GateClosed, SluiceError
from jobs.features.declarations import MODEL_FEATURES
from jobs.features.definitions import TICK, feature_views, publication
from jobs.features.history import historical_features
from jobs.features.store import feature_store
from jobs.features.tables import FEATURE_TABLES
from jobs.lake.store import lake_of
from jobs.lake.tables import TRANSACTIONS
from jobs.training import frame, labels, rebuild_frame
from tests.frame_data import DAYS, FIRST, LAST, PEOPLE, PER_DAY

pytest_plugins = ("tests.filled_lake",)


def test_the_frame_holds_each_matured_transaction_once_with_features_and_role(filled: Settings) -> None:
    labels.run(labels.Params(day=LAST, run="r"), filled)
    receipt = frame.run(frame.Params(day=LAST, run="r"), filled)
    found = pd.read_parquet(filled.work / "training" / "r" / "frame.parquet")
    assert receipt.rows == len(found) == (DAYS - 3 - 3) * PER_DAY, "matured, and not in the embargo"
    assert found["transaction_id"].is_unique
    assert found["day"].max() == LAST - timedelta(days=3)
    assert set(found["role"]) == {
        "tuning", "gap", "validation", "validation of known cards", "test", "test of known cards",
    }  # fmt: skip
    assert {str(found[name].dtype) for name in MODEL_FEATURES} == {"float32"}
    facts = frame.FrameFacts.model_validate_json((filled.work / "training" / "r" / "frame.json").read_text())
    assert sum(facts.rows.values()) == len(found)
    assert set(facts.table_versions) == {
        "transactions",
        "labels",
        "landed_files",
        "merged_labels",
        "customer_features",
        "terminal_features",
        "transaction_velocity",
    }
    without = found[found["customer_id"] == PEOPLE]
    assert (without["customer_missing"] == 1).all()
    assert without["customer_count_30d"].isna().all()


def test_good_rows_that_only_fit_are_drawn_by_the_policys_number_and_the_frame_can_be_built_again(
    filled: Settings, tmp_path: Path
) -> None:
    overlay = tmp_path / "two.yaml"
    shipped = yaml.safe_load((FOLDER / "overlays" / "demo.yaml").read_text())
    shipped["training"]["good_rows_per_fraud"] = 2
    overlay.write_text(yaml.safe_dump(shipped))
    counts = []
    for settings in (filled, filled.model_copy(update={"policy_overlay": str(overlay)})):
        labels.run(labels.Params(day=LAST, run="r"), settings)
        frame.run(frame.Params(day=LAST, run="r"), settings)
        found = pd.read_parquet(filled.work / "training" / "r" / "frame.parquet")
        fitted = found["role"].isin(frame.FITTED_ON)
        counts.append(found.groupby([fitted, "is_fraud"])["weight"].agg(["size", "sum"]))
    everything, sample = counts
    assert sample.loc[False].equals(everything.loc[False]), "what judges is all there"
    assert sample.loc[(True, 1)].equals(everything.loc[(True, 1)]), "and so is every fraud"
    assert sample["size"][True, 0] == 2 * sample["size"][True, 1] < everything["size"][True, 0]
    assert sample["sum"][True, 0] == pytest.approx(everything["sum"][True, 0])
    rebuilt = rebuild_frame.run(rebuild_frame.Params(day=LAST, run="r"), settings)
    assert rebuilt.rows == len(found)
    with pytest.raises(GateClosed, match="good_rows_per_fraud: was 2, is 30"):
        rebuild_frame.run(rebuild_frame.Params(day=LAST, run="r"), filled)


def test_the_join_gives_what_feasts_own_duckdb_store_gives(filled: Settings) -> None:
    """Where it is right: no two rows of one key and instant (of such it takes any).

    It knows nothing of publication, so each view is asked for the moment that much before the event.
    """
    events = lake_of(filled).read(TRANSACTIONS).to_pandas()
    ours = historical_features(events, filled).set_index("transaction_id")
    store = feature_store(filled)
    for view in feature_views(filled):
        entities = events[["transaction_id", "customer_id", "terminal_id"]].assign(
            event_timestamp=events["event_time"] - publication(view) - TICK
        )
        names = [field.name for field in view.features]
        asked = [f"{view.name}:{name}" for name in names]
        theirs = store.get_historical_features(entity_df=entities, features=asked).to_df()
        found = theirs.set_index("transaction_id").loc[ours.index, names]
        pd.testing.assert_frame_equal(ours[names], found, check_exact=True, check_index_type=False)
    assert 0 < ours["customer_missing"].sum() < len(ours)
    assert not ours["velocity_missing"].any()


def test_building_the_frame_again_gives_the_same_frame(filled: Settings) -> None:
    for run in ("a", "b"):
        labels.run(labels.Params(day=LAST, run=run), filled)
        frame.run(frame.Params(day=LAST, run=run), filled)
    first, second = (pd.read_parquet(filled.work / "training" / run / "frame.parquet") for run in "ab")
    pd.testing.assert_frame_equal(first, second)


def test_a_leak_in_a_feature_table_closes_the_gate_and_leaves_no_frame(filled: Settings) -> None:
    labels.run(labels.Params(day=LAST, run="r"), filled)
    folder = filled.work / "training" / "r"
    known = pd.read_parquet(folder / "labels.parquet")
    lake = lake_of(filled)
    payer = lake.read(TRANSACTIONS).to_pandas().set_index("transaction_id")["customer_id"]
    # fraud is made a matter of who pays, and and these persons' feature tells it
    known["is_fraud"] = known["transaction_id"].map(payer).lt(30).astype("int8")
    known.to_parquet(folder / "labels.parquet", index=False)
    table = FEATURE_TABLES["customer"]
    for day in lake.partitions(table):
        rows = lake.read(table, first=day, last=day).to_pandas()
        rows["customer_amount_mean_1d"] = rows["customer_id"].lt(30).astype(float) * 9
        lake.replace(table, pa.Table.from_pandas(rows, schema=table.schema, preserve_index=False), day)
    with pytest.raises(GateClosed, match="customer_amount_mean_1d alone"):
        frame.run(frame.Params(day=LAST, run="r"), filled)
    assert not (folder / "frame.parquet").exists()
    assert (folder / "frame.json").exists(), "the evidence stays"


def test_a_transaction_of_two_files_is_an_error_that_names_the_file_to_run_again(
    filled: Settings,
) -> None:
    lake, day = lake_of(filled), FIRST + timedelta(days=10)
    rows = lake.read(TRANSACTIONS, first=day, last=day).to_pandas()
    rows.loc[0, "transaction_id"] = 7  # of the first day
    lake.replace(TRANSACTIONS, pa.Table.from_pandas(rows, schema=TRANSACTIONS.schema), day)
    labels.run(labels.Params(day=LAST, run="r"), filled)
    files = f"7 by the files of {FIRST} and {day}; run fraud_ingest for {day} again, that day alone"
    with pytest.raises(SluiceError, match=f"1 transaction ids are .* {files}"):
        frame.run(frame.Params(day=LAST, run="r"), filled)


def test_too_few_days_are_an_error_that_says_how_many_are_needed(filled: Settings) -> None:
    shipped = filled.model_copy(update={"policy_overlay": ""})
    labels.run(labels.Params(day=FIRST + timedelta(days=40), run="r"), shipped)
    with pytest.raises(SluiceError, match="45 days of transactions are needed.*there are 41"):
        frame.run(frame.Params(day=FIRST + timedelta(days=40), run="r"), shipped)


def test_scoring_a_day_without_transactions_or_without_a_champion_says_so(
    filled: Settings, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with pytest.raises(SluiceError, match="no transactions of 2027-01-01"):
        score_day.run(score_day.Params(day=date(2027, 1, 1)), filled)
    registry = tmp_path_factory.mktemp("registry")
    settings = filled.model_copy(update={"mlflow_uri": f"sqlite:///{registry / 'mlflow.db'}"})
    with pytest.raises(SluiceError, match="no version has the alias champion"):
        score_day.run(score_day.Params(day=LAST), settings)
