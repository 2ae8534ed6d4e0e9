"""A monitored day on a real registry, real tables and a real report: drift, performance, reaction."""

from __future__ import annotations

import json
import shutil
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from deltalake import write_deltalake

from jobs.conf.policy import load_policy
from jobs.conf.settings import Settings
from jobs.core import SluiceError
from jobs.features.declarations import FEATURE_VERSION, MODEL_FEATURES
from jobs.lake.store import Lake, lake_of
from jobs.lake.tables import (
    LABELS,
    LANDED_FILES,
    MERGED_LABELS,
    MONITORING,
    PREDICTIONS,
    REACTIONS,
    TRANSACTIONS,
)
from jobs.monitoring import comparison, drift, matured, performance, reaction, service
from jobs.monitoring.figures import Figure, read_figures, write_figures
from jobs.monitoring.interval import Interval
from jobs.promotion.state import read_version, registry_client
from jobs.training import due
from tests.served_bundles import register

pytest_plugins = ("tests.promotion_support",)

DEMO = load_policy("demo")
START = date(2026, 1, 1)
DAY = date(2026, 3, 10)  # a Tuesday
ROWS = 900


@pytest.fixture
def place(place: Settings) -> Settings:
    """An installation that draws no pictures of drift."""
    return place.model_copy(update={"drift_report": False})


@pytest.fixture
def with_report(place: Settings) -> Settings:
    """The same, with the Evidently report of a day, which takes seconds."""
    return place.model_copy(update={"drift_report": True})


def rows_of(day: date, rows: int = ROWS, *, missed: float = 0.1) -> pd.DataFrame:
    """A day's transactions: features, label, and a score that misses a share of the frauds."""
    generator = np.random.default_rng(day.toordinal())
    frame = pd.DataFrame({name: generator.gamma(2.0, 1.0, rows) for name in MODEL_FEATURES})
    for name in MODEL_FEATURES:
        if name.endswith("_missing") or name.startswith("is_"):
            frame[name] = (generator.random(rows) < 0.1).astype(float)
    frame["customer_count_1d"] += {5: 1.5, 6: 1.5}.get(day.weekday(), 0.0)
    frame["is_weekend"] = float(day.weekday() >= 5)
    fraud = generator.random(rows) < 0.03
    found = fraud & (generator.random(rows) >= missed)
    score = np.where(found, generator.beta(8, 2, rows), generator.beta(1, 30, rows))
    times = pd.Timestamp(day, tz="UTC") + pd.to_timedelta(np.arange(rows) * 20, unit="s")
    return frame.assign(
        is_fraud=fraud.astype(int), score=score, amount_minor=generator.integers(100, 9000, rows),
        event_time=times, day=day, transaction_id=np.arange(rows) + day.toordinal() * 10_000,
        file_day=day, available_at=pd.Timestamp(day + timedelta(days=1), tz="UTC"),
    )  # fmt: skip


def champion(settings: Settings, tmp_path: Path, days: int = 14, **more: str) -> str:
    """A champion whose reference are the days of February that end on the 14th."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "note.txt").write_text("no bundle is needed here")
    tags = {"sluice.promotion": "completed", "sluice.day": "2026-02-20", **more}
    client, version = register(settings, tmp_path / "model", tags)
    frames = [rows_of(date(2026, 2, 14) - timedelta(days=back)) for back in range(days)]
    columns = [*MODEL_FEATURES, "score", "is_fraud", "amount_minor", "event_time"]
    pd.concat(frames)[columns].to_parquet(tmp_path / "reference.parquet")
    state = read_version(client, settings.model_name, version)
    assert state is not None
    client.log_artifact(state.run_id, str(tmp_path / "reference.parquet"), "reference")
    client.set_registered_model_alias(settings.model_name, "champion", version)
    lake = lake_of(settings)
    write(lake, TRANSACTIONS, rows_of(START, 3).assign(customer_id=1, terminal_id=1))
    return version


def write(lake: Lake, table: object, frame: pd.DataFrame) -> None:
    lake.append(table, pa.Table.from_pandas(frame, preserve_index=False))  # type: ignore[arg-type]


def serve(settings: Settings, version: str, *each_day: pd.DataFrame, merged: bool = True) -> None:
    """Rows of the prediction log, a frame for each day, and their chargebacks two days later."""
    lake, rows = lake_of(settings), pd.concat(each_day, ignore_index=True)
    log = rows.assign(
        request_id=[f"r{each}" for each in rows["transaction_id"]], terminal_id=1,
        customer_id=rows.get("customer_id", rows["transaction_id"]),
        model_version=version, variant="champion", step="", decision="approve", rule="",
        error=rows.get("error", ""), latency_ms=1.0, served_at=rows["event_time"],
        feature_version=FEATURE_VERSION, would_be="",
        features=rows[list(MODEL_FEATURES)].to_numpy().tolist(),
    )  # fmt: skip
    write(lake, PREDICTIONS, log)
    write(lake, TRANSACTIONS, log)
    known = [day["day"].iloc[0] + timedelta(days=2) for day in each_day]
    landed = pd.DataFrame({name: [0] * len(known) for name in LANDED_FILES.schema.names}).assign(
        day=known, feed="labels", address="", path="", digest="a"
    )
    write(lake, LANDED_FILES, landed)
    if not merged:
        return
    frauds = [
        day[day["is_fraud"] == 1].assign(day=when, available_at=pd.Timestamp(when, tz="UTC"))
        for day, when in zip(each_day, known, strict=True)
    ]
    merges = pd.DataFrame({"day": known, "digest": "a", "rows": [len(each) for each in frauds]})
    write(lake, MERGED_LABELS, merges)
    write(lake, LABELS, pd.concat(frauds)[["day", "transaction_id", "available_at", "is_fraud"]])


def days(last: date, count: int) -> list[date]:
    return [last - timedelta(days=back) for back in range(count)]


def react(settings: Settings, day: date = DAY, run: str = "") -> dict[str, object]:
    return reaction.run(reaction.Params(day=day, run=run), settings).facts


def measured(settings: Settings, day: date = DAY) -> dict[str, Figure]:
    drift.run(drift.Params(day=day), settings)
    performance.run(performance.Params(day=day), settings)
    service.run(service.Params(day=day), settings)
    figures = read_figures(lake_of(settings), day)
    return {f"{each.metric} {each.subject}": each for each in figures}


def test_a_quiet_fortnight_leads_to_nothing(with_report: Settings, tmp_path: Path) -> None:
    place = with_report
    version = champion(place, tmp_path)
    serve(place, version, *map(rows_of, days(DAY, 14)))
    figures = measured(place)
    assert figures["psi amount"].status == "ok"
    assert figures["pr_auc all"].status == "ok"
    assert figures["pr_auc all"].value is not None
    assert figures["fraud_share all"].status == "ok"
    assert {name: figures[f"{name} all"].status for name in ("answers", "error_share", "alert_share")} == {
        "answers": "ok", "error_share": "ok", "alert_share": "ok",
    }  # fmt: skip
    assert react(place)["decision"] == "nothing"
    assert (place.reports / "drift" / f"{DAY}.html").stat().st_size > 10_000
    assert not (place.home / "alerts.jsonl").exists()
    state = read_version(registry_client(place), place.model_name, version)
    assert state is not None
    (point,) = registry_client(place).get_metric_history(state.run_id, "monitoring/largest_psi")
    psi = [each.value for each in figures.values() if each.metric == "psi"]
    assert (point.step, point.value) == ((DAY - date(1970, 1, 1)).days, max(value or 0 for value in psi))
    assert state.tag("sluice.monitored") == f"{DAY}: nothing; {place.airflow_uri}/reports/drift/{DAY}.html"


def test_measuring_again_gives_the_same_rows_and_no_second_alert(
    with_report: Settings, tmp_path: Path
) -> None:
    place = with_report
    version = champion(place, tmp_path)
    serve(place, version, rows_of(DAY).assign(amount=lambda rows: rows["amount"] + 9))
    measured(place)
    react(place)
    first = lake_of(place).read(MONITORING).to_pylist()
    alerts = (place.home / "alerts.jsonl").read_text()
    measured(place)
    react(place)
    again = lake_of(place).read(MONITORING).to_pylist()
    assert sorted(map(str, again)) == sorted(map(str, first))
    assert (place.home / "alerts.jsonl").read_text() == alerts
    assert {"cause", "owner", "action"} <= set(json.loads(alerts.splitlines()[0]))


def test_a_shifted_feature_retrains_on_its_second_day(place: Settings, tmp_path: Path) -> None:
    version = champion(place, tmp_path)
    yesterday = DAY - timedelta(days=1)
    shifted = [rows_of(day).assign(amount=lambda rows: rows["amount"] * 2.5) for day in days(DAY, 10)]
    serve(place, version, *shifted)
    assert measured(place, yesterday)["psi amount"].status == "retrain"
    assert react(place, yesterday)["decision"] == "alert"
    assert measured(place)["psi amount"].status == "retrain"
    decided = react(place)
    assert decided["decision"] == "retrain"
    assert "psi of amount" in str(decided["reason"])
    assert react(place)["repeated"] is True
    table = lake_of(place).read(REACTIONS).to_pylist()
    assert [row["decision"] for row in sorted(table, key=lambda row: row["day"])] == ["alert", "retrain"]


def test_a_new_pattern_that_the_model_misses_retrains_by_performance(place: Settings, tmp_path: Path) -> None:
    version = champion(place, tmp_path)
    serve(place, version, *(rows_of(day, missed=0.6) for day in days(DAY, 10)))
    figures = measured(place)
    assert figures["pr_auc all"].status == "page"
    decided = react(place, run="scheduled__1")
    assert (decided["decision"], decided["repeated"]) == ("retrain", False)
    assert "pr_auc" in str(decided["reason"])
    again = react(place, run="scheduled__1")
    assert (again["decision"], again["repeated"]) == ("retrain", False), "killed before it could ask"
    assert react(place, run="scheduled__2")["repeated"] is True
    assert react(place)["repeated"] is True


def test_one_that_is_champion_already_is_not_under_way(place: Settings, tmp_path: Path) -> None:
    version, client = champion(place, tmp_path), registry_client(place)
    assert reaction.version_under_way(place) == ""
    client.set_registered_model_alias(place.model_name, "challenger", version)
    assert reaction.version_under_way(place) == ""


def test_who_answered_counts_answers_of_champions_by_day_and_no_answer_of_the_rules(place: Settings) -> None:
    first, second = DAY - timedelta(days=1), DAY
    rows = rows_of(first, ROWS)
    serve(place, "1", rows.iloc[:5])
    serve(place, "2", rows.iloc[5:10], rows_of(second))
    log = lake_of(place).read(PREDICTIONS, first=second, last=second)
    by_rules = log.set_column(
        log.schema.get_field_index("model_version"), "model_version", pa.nulls(len(log), pa.string())
    )
    lake_of(place).append(PREDICTIONS, by_rules)
    found = matured.answers_by_day(lake_of(place), first, second)
    assert found == {first: {"1": 5, "2": 5}, second: {"2": ROWS}}


@pytest.mark.parametrize(("asked", "before"), [("3", "1"), ("1", "2"), ("2", "1")])
def test_of_two_versions_with_as_many_answers_the_first_is_the_one_before(
    place: Settings, asked: str, before: str
) -> None:
    day = DAY - timedelta(days=5)
    rows = rows_of(day)
    serve(place, "2", rows.iloc[:5])
    serve(place, "1", rows.iloc[5:10])
    assert matured.Matured(place, DAY).served_before(asked) == before


def promoted(settings: Settings, *replaced: str) -> str:
    """The next version, champion with the reference of the one before it."""
    client = registry_client(settings)
    state = read_version(client, settings.model_name, replaced[-1])
    assert state is not None
    found = client.create_model_version(
        settings.model_name, source=state.source, run_id=state.run_id, tags={"sluice.promotion": "completed"}
    )
    client.set_registered_model_alias(settings.model_name, "champion", found.version)
    return str(found.version)


def test_of_a_new_champion_nothing_has_matured_and_the_one_before_it_is_measured(
    place: Settings, tmp_path: Path
) -> None:
    old = champion(place, tmp_path)
    new = promoted(place, old)
    serve(place, old, *(rows_of(day, missed=0.6) for day in days(DAY - timedelta(days=2), 8)))
    serve(place, new, *map(rows_of, days(DAY, 2)))
    figures = measured(place)
    assert figures["pr_auc all"].status == "investigate"
    assert f"version {new} serves too short: 0 matured answers" in figures["pr_auc all"].detail
    assert figures[f"pr_auc version {old}"].status == "alert"
    decided = react(place)
    assert decided["decision"] == "alert", "the version that fell is replaced already"
    lines = [json.loads(each) for each in (place.home / "alerts.jsonl").read_text().splitlines()]
    causes = {each["key"]: each["facts"]["cause"] for each in lines}
    assert causes[f"{DAY}/pr_auc version {old}"] == "replaced version"


def test_a_first_champion_whose_answers_are_too_young_raises_nothing(place: Settings, tmp_path: Path) -> None:
    version = champion(place, tmp_path)
    serve(place, version, *map(rows_of, days(DAY, 2)))
    figures = {f"{each.metric} {each.subject}": each.status for each in performance_of(place)}
    assert figures == {"pr_auc all": "investigate"}


def test_a_champion_that_does_not_answer_is_unknown(place: Settings, tmp_path: Path) -> None:
    old = champion(place, tmp_path)
    promoted(place, old)
    serve(place, old, *map(rows_of, days(DAY, 10)))
    assert [each.status for each in performance_of(place)] == ["unknown"]


def performance_of(settings: Settings) -> list[Figure]:
    performance.run(performance.Params(day=DAY), settings)
    return read_figures(lake_of(settings), DAY, "performance")


def test_what_a_kill_kept_back_after_a_decision_is_told_by_the_same_run(
    place: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = champion(place, tmp_path)
    serve(place, version, *map(rows_of, days(DAY, 10)))
    fell = Figure(metric="pr_auc", subject="all", value=0.4, status="page", detail="a fall")
    for group in ("drift", "performance", "service"):
        write_figures(lake_of(place), DAY, group, [fell] if group == "performance" else [])
    with monkeypatch.context() as cut:
        cut.setattr(reaction, "tell", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            react(place, run="scheduled__1")
    assert not (place.home / "alerts.jsonl").exists()
    again = react(place, run="scheduled__1")
    assert (again["decision"], again["repeated"]) == ("retrain", False)
    keys = [json.loads(each)["key"] for each in (place.home / "alerts.jsonl").read_text().splitlines()]
    assert f"{DAY}/pr_auc all" in keys
    state = read_version(registry_client(place), place.model_name, version)
    assert state is not None
    points = registry_client(place).get_metric_history(state.run_id, "monitoring/pr_auc")
    assert [point.value for point in points] == [0.4]
    evidence = json.loads(lake_of(place).read(REACTIONS).to_pylist()[0]["evidence"])
    assert evidence["actions"] == {"performance fall": "roll back", "not measured": "repair"}


def test_a_weekday_without_any_value_is_unknown_where_other_days_have_some() -> None:
    kept = [rows_of(day) for day in days(date(2026, 2, 14), 14)]
    kept = [each.assign(amount=np.nan) if each["day"].iloc[0].weekday() == DAY.weekday() else each
            for each in kept]  # fmt: skip
    found = comparison.measure(pd.concat(kept), rows_of(DAY), DAY, START, 2, DEMO.drift)
    assert next(each for each in found if each.subject == "amount").status == "unknown"


def test_rows_of_cards_that_were_known_to_be_compromised_are_not_judged_by(
    place: Settings, tmp_path: Path
) -> None:
    version, served = champion(place, tmp_path), []
    for day in days(DAY, 10):
        rows = rows_of(day)
        # the first payer of every day is one card, and its payment of the oldest day was a fraud
        card = np.where(np.arange(len(rows)) == 0, 7, rows["transaction_id"])
        fraud = rows["is_fraud"].where(card != 7, int(day == DAY - timedelta(days=9)))
        served.append(rows.assign(customer_id=card, is_fraud=fraud))
    serve(place, version, *served)
    receipt = performance.run(performance.Params(day=DAY), place)
    # seven of the ten days have matured; that fraud became known with the beginning of the third
    assert receipt.facts["rows"] == 7 * ROWS - 5


def test_a_chargeback_feed_that_went_silent_is_unknown_and_not_a_collapse(
    place: Settings, tmp_path: Path
) -> None:
    version = champion(place, tmp_path)
    served, silent = days(DAY - timedelta(days=6), 4), days(DAY, 6)
    serve(place, version, *map(rows_of, served))
    serve(place, version, *map(rows_of, silent), merged=False)
    figures = measured(place)
    assert {key: each.status for key, each in figures.items() if each.metric == "pr_auc"} == {
        "pr_auc all": "unknown"
    }
    assert "chargebacks of 2026-03-07, 2026-03-08, 2026-03-09 are not merged" in figures["pr_auc all"].detail
    assert react(place)["decision"] == "alert"


def test_a_fire_drill_is_no_training(place: Settings, tmp_path: Path) -> None:
    champion(place, tmp_path, **{"sluice.drill": "none"})
    assert due.last_training(place) == date(2026, 2, 20)
    client = registry_client(place)
    client.set_model_version_tag(place.model_name, "1", "sluice.drill", "slow")
    assert due.last_training(place) is None


def test_a_long_reason_is_cut_to_what_the_register_takes(place: Settings, tmp_path: Path) -> None:
    champion(place, tmp_path)
    figures = [Figure(metric="pr_auc", subject="all", status="page", detail="x" * 900)]
    write_figures(lake_of(place), DAY, "performance", figures)
    decided = react(place)
    assert len(str(decided["reason"])) == 450
    kept = lake_of(place).read(REACTIONS).to_pylist()[0]
    assert kept["reason"] == decided["reason"]
    assert "x" * 900 in kept["evidence"]


def test_a_weekend_is_compared_with_weekends(place: Settings, tmp_path: Path) -> None:
    version = champion(place, tmp_path)
    sunday = date(2026, 3, 8)
    serve(place, version, rows_of(sunday))
    assert measured(place, sunday)["psi customer_count_1d"].status == "ok"


def test_windows_that_were_not_full_in_the_reference_are_not_compared() -> None:
    reference = pd.concat([rows_of(day) for day in days(date(2026, 1, 25), 14)])
    current = rows_of(DAY).assign(customer_count_30d=lambda rows: rows["customer_count_30d"] * 3)
    found = comparison.measure(reference, current, DAY, START, 2, DEMO.drift)
    figure = next(each for each in found if each.subject == "customer_count_30d")
    assert figure.status == "investigate"
    assert "full window" in figure.detail
    full = next(each for each in found if each.subject == "customer_count_7d")
    assert full.status == "ok"


def test_no_reference_and_no_traffic_are_unknown_and_alert(place: Settings, tmp_path: Path) -> None:
    assert measured(place)["psi all"].status == "unknown"
    assert react(place)["decision"] == "alert"
    champion(place, tmp_path)
    later = DAY + timedelta(days=1)
    assert measured(place, later)["psi all"].status == "unknown"
    assert measured(place, later)["pr_auc all"].status == "unknown"
    alerts = [json.loads(line) for line in (place.home / "alerts.jsonl").read_text().splitlines()]
    assert {each["status"] for each in alerts} == {"unknown"}


def test_a_day_that_nobody_measured_is_an_alert(place: Settings, tmp_path: Path) -> None:
    champion(place, tmp_path)
    decided = react(place)
    assert decided["decision"] == "alert"
    assert "not measured" in str(decided["reason"])


def test_an_all_null_feature_is_unknown() -> None:
    reference = pd.concat([rows_of(day) for day in days(date(2026, 2, 14), 7)])
    found = comparison.measure(reference, rows_of(DAY).assign(amount=np.nan), DAY, START, 2, DEMO.drift)
    assert next(each for each in found if each.subject == "amount").status == "unknown"


def test_labels_that_are_not_known_yet_are_not_used_and_a_correction_counts() -> None:
    answers = pd.DataFrame({"transaction_id": [1, 2, 3]})
    labels = pd.DataFrame(
        {
            "transaction_id": [1, 2, 2, 3],
            "available_at": pd.to_datetime(
                ["2026-03-01", "2026-03-01", "2026-03-02", "2026-03-05"], utc=True
            ),
            "is_fraud": [1, 1, 0, 1],
        }
    )
    found = matured.labelled(answers, matured.latest_word(labels, pd.Timestamp("2026-03-05", tz="UTC")))
    assert found["is_fraud"].tolist() == [1, 0, 0]


def test_of_two_labels_of_one_instant_the_fraud_counts_as_in_training() -> None:
    at = pd.to_datetime(["2026-03-01", "2026-03-01"], utc=True)
    for truth in ([0, 1], [1, 0]):
        labels = pd.DataFrame({"transaction_id": [1, 1], "available_at": at, "is_fraud": truth})
        found = matured.labelled(
            pd.DataFrame({"transaction_id": [1]}), matured.latest_word(labels, pd.Timestamp(DAY, tz="UTC"))
        )
        assert found["is_fraud"].tolist() == [1]


def test_a_log_from_before_features_were_lists_says_how_it_gets_its_columns(place: Settings) -> None:
    serve(place, "1", rows_of(DAY).head(1))
    lake = lake_of(place)
    old = lake.read(PREDICTIONS).drop_columns(["features", "feature_version"])
    shutil.rmtree(lake.path(PREDICTIONS))
    write_deltalake(lake.path(PREDICTIONS), old, partition_by=["day"])
    with pytest.raises(SluiceError, match="keeps the features as an older version of Sluice did"):
        drift.live_rows(lake, Interval(DAY), "1")


def test_a_price_is_the_same_one_in_the_log_and_in_a_reference_of_half_its_digits(place: Settings) -> None:
    def priced(day: date) -> pd.DataFrame:
        rows = rows_of(day)
        return rows.assign(amount=np.array([4.99, 9.99, 19.99])[np.arange(len(rows)) % 3])

    kept = pd.concat([priced(day) for day in days(date(2026, 2, 14), 7)])
    kept[list(MODEL_FEATURES)] = kept[list(MODEL_FEATURES)].astype(np.float32)  # as a training keeps it
    serve(place, "1", priced(DAY))
    live = drift.live_rows(lake_of(place), Interval(DAY), "1")
    found = comparison.measure(kept, live, DAY, START, 2, DEMO.drift)
    assert next(each for each in found if each.subject == "amount" and each.metric == "psi").status == "ok"


def test_a_subgroup_that_collapses_alerts_while_the_whole_holds() -> None:
    reference = pd.concat([rows_of(day, 3000) for day in days(date(2026, 2, 14), 14)])
    live = pd.concat([rows_of(day, 3000) for day in days(DAY, 10)])
    every_third = live["transaction_id"] % 3 == 0
    night = (live["is_night"] == 1) & (live["is_fraud"] == 1) & every_third
    live = live.assign(score=live["score"].where(~night, 0.01))
    found = performance.measure_window(live, reference, ("night", "amount_small"), DEMO)
    by_subject = {each.subject: each.status for each in found if each.metric == "pr_auc"}
    assert by_subject["night"] == "alert"
    assert by_subject["all"] not in ("retrain", "page")


@pytest.mark.parametrize(
    ("hours", "rows", "word"), [(23.0, 99_999, "cooldown"), (48.0, 10, "new matured rows")]
)
def test_cooldown_and_too_few_new_rows_turn_a_retraining_into_an_alert(
    hours: float, rows: int, word: str
) -> None:
    today = [Figure(metric="pr_auc", subject="all", status="retrain", detail="a drop")]
    decision = reaction.decide(today, [], hours, rows, DEMO.retrain)
    assert decision.decision == "alert"
    assert word in decision.reason


def test_no_retraining_begins_beside_a_promotion_and_the_cause_asks_again_after_it(
    place: Settings, tmp_path: Path
) -> None:
    version = champion(place, tmp_path)
    serve(place, version, *(rows_of(day, missed=0.6) for day in days(DAY, 10)))
    client, yesterday = registry_client(place), DAY - timedelta(days=1)
    state = read_version(client, place.model_name, version)
    assert state is not None
    other = client.create_model_version(place.model_name, source=state.source, run_id=state.run_id).version
    client.set_registered_model_alias(place.model_name, "challenger", other)
    assert measured(place, yesterday)["pr_auc all"].status == "page"
    decided = react(place, yesterday)
    assert decided["decision"] == "alert"
    assert str(decided["reason"]).startswith(f"no retraining: version {other} is the challenger")
    client.delete_registered_model_alias(place.model_name, "challenger")
    measured(place)
    assert react(place)["decision"] == "retrain"


def test_retraining_is_the_most_that_a_figure_can_lead_to() -> None:
    today = [Figure(metric="pr_auc", subject="all", status="page", detail="a fall")]
    assert reaction.decide(today, [], None, 99_999, DEMO.retrain).decision == "retrain"


@pytest.mark.parametrize(("status", "start"), [("retrain", "warm"), ("page", "full")])
def test_after_a_fall_the_search_begins_at_nothing_and_after_a_drop_at_the_last_winner(
    status: str, start: str
) -> None:
    today = [Figure(metric="pr_auc", subject="all", status=status, detail="worse")]
    assert reaction.decide(today, [], None, 99_999, DEMO.retrain).start == start


def test_null_days_rarely_alarm() -> None:
    """Thirty days without any change: no retraining, and a false alarm on one at most."""
    reference = pd.concat([rows_of(day) for day in days(date(2026, 2, 14), 14)])
    statuses = []
    for day in days(date(2026, 5, 1), 30):
        found = comparison.measure(reference, rows_of(day), day, START, 2, DEMO.drift)
        statuses.append({each.status for each in found})
    assert sum("retrain" in each for each in statuses) == 0
    assert sum("alert" in each for each in statuses) <= 1


def test_rows_that_came_after_a_day_are_no_reason_to_retrain_on_it(place: Settings) -> None:
    lake, matured = lake_of(place), date(2026, 3, 1)
    rows = rows_of(matured, 4).assign(customer_id=1, terminal_id=1)
    at = pd.to_datetime(["2026-03-02", "2026-03-05", "2026-03-06", "2026-03-09"], utc=True)
    write(lake, TRANSACTIONS, rows.assign(available_at=at))
    # the day ends with the 5th: what is available at that midnight still counts
    assert due.new_matured_rows(lake, None, date(2026, 3, 4), 3) == 2


def test_history_begins_with_the_first_file_and_not_with_its_late_rows(place: Settings) -> None:
    lake = lake_of(place)
    assert drift.history_start(lake, place) == place.first_day
    early = rows_of(START - timedelta(days=2), 1).assign(customer_id=1, terminal_id=1, file_day=START)
    write(lake, TRANSACTIONS, early)
    for day in days(START + timedelta(days=1), 2):
        write(lake, TRANSACTIONS, rows_of(day, 2).assign(customer_id=1, terminal_id=1))
    assert drift.history_start(lake, place) == START
