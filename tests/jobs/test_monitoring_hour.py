"""An hour of the prediction log: its bounds, its guards for small samples, and what is told of it."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from jobs.conf.policy import load_policy
from jobs.conf.settings import Settings
from jobs.lake.store import content_digest, lake_of
from jobs.lake.tables import HOURLY_MONITORING, MONITORING, REACTIONS
from jobs.monitoring import hour as job
from jobs.monitoring.figures import Figure, read_hour
from jobs.monitoring.interval import Interval, last_hour
from jobs.monitoring.service import answers_figure, answers_of, beyond
from tests.jobs.test_monitoring_jobs import DAY, champion, rows_of, serve

pytest_plugins = ("tests.served_bundles",)

POLICY = load_policy()
AT_TWO = Interval(DAY, 2)
HOURLY = AT_TWO.policy(POLICY)


@pytest.mark.parametrize(
    ("as_of", "hour"),
    [
        ("2026-03-10T14:00:00+00:00", "2026-03-10T13"),
        ("2026-03-10T14:59:59+00:00", "2026-03-10T13"),
        ("2026-03-10T00:05:00+00:00", "2026-03-09T23"),
        ("2026-03-10T00:05:00+02:00", "2026-03-09T21"),
    ],
)
def test_the_last_whole_hour_is_looked_at_in_utc(as_of: str, hour: str) -> None:
    found = last_hour(datetime.fromisoformat(as_of))
    assert str(found) == hour
    assert found.end <= datetime.fromisoformat(as_of).astimezone(UTC) < found.end + timedelta(hours=1)


def test_an_hour_begins_where_the_one_before_ends_and_a_day_where_its_hours_do() -> None:
    hours = [Interval(DAY, hour) for hour in range(24)]
    assert [each.before for each in hours[1:]] == hours[:-1]
    assert hours[0].before == Interval(DAY - timedelta(days=1), 23)
    assert [each.start for each in hours[1:]] == [each.end for each in hours[:-1]]
    assert (hours[0].start, hours[-1].end) == (Interval(DAY).start, Interval(DAY).end)
    assert Interval(DAY).before == Interval(DAY - timedelta(days=1))
    zoned = datetime(2026, 3, 10, 4, tzinfo=timezone(timedelta(hours=1)))
    assert last_hour(zoned) == AT_TWO


def test_the_looks_of_a_day_share_its_significance_and_no_threshold_is_changed() -> None:
    assert 24 * HOURLY.drift.significance == pytest.approx(POLICY.drift.significance)
    assert 24 * HOURLY.performance.proxy_significance == pytest.approx(POLICY.performance.proxy_significance)
    assert HOURLY.drift.minimum_rows == POLICY.drift.slice_rows_min
    kept = {"drift": {"significance", "minimum_rows"}, "performance": {"proxy_significance"}}
    for name in type(POLICY).model_fields:
        section = getattr(POLICY, name)
        if name in kept:
            assert section.model_dump(exclude=kept[name]) == getattr(HOURLY, name).model_dump(
                exclude=kept[name]
            )
        else:
            assert section == getattr(HOURLY, name)
    assert Interval(DAY).policy(POLICY) == POLICY


@pytest.mark.parametrize(
    ("answers", "before", "status"),
    [
        (0, [100, 100, 100, 100], "unknown"),
        (0, [100, 100, 0, 0], "unknown"),
        (0, [3, 2, 4, 3], "ok"),  # of a quiet night
        (0, [], "ok"),  # the day says what has never been there
        (0, [5000], "ok"),
        (40, [100, 100, 100, 100], "alert"),
        (75, [100, 100, 100, 100], "ok"),  # below the policy's share, and no rarer than hours are by chance
        (790, [1000, 1000, 1000, 1000], "alert"),
        (810, [1000, 1000, 1000, 1000], "ok"),
    ],
)
def test_an_hour_with_few_answers_alerts_where_chance_does_not_explain_it(
    answers: int, before: list[int], status: str
) -> None:
    assert answers_figure(answers, before, HOURLY, may_be_empty=True).status == status


def test_hours_of_every_volume_have_no_false_alarm_of_volume() -> None:
    generator = np.random.default_rng(11)
    for rate in (0.5, 3.0, 10.0, 30.0, 100.0, 1000.0):
        drawn = generator.poisson(rate, size=(250, 5))
        statuses = [
            answers_figure(int(row[0]), [int(each) for each in row[1:]], HOURLY, may_be_empty=True).status
            for row in drawn
        ]
        assert set(statuses) == {"ok"}, rate


def test_a_share_of_a_small_sample_is_beyond_its_limit_as_rarely_as_the_significance_says() -> None:
    generator = np.random.default_rng(5)
    for rows in (100, 400):
        drawn, often = np.unique(generator.binomial(rows, 0.05, size=4000), return_counts=True)
        told = [beyond(int(each), rows, 0.05, HOURLY) for each in drawn]
        false = float(often[told].sum() / 4000)
        assert false <= HOURLY.drift.significance + 4 * np.sqrt(HOURLY.drift.significance / 4000)
    assert beyond(60, 100, 0.05, HOURLY)
    assert not beyond(4, 100, 0.05, POLICY), "below the limit"


@pytest.fixture
def place(home: Settings, registry: str, request: pytest.FixtureRequest) -> Settings:
    return home.model_copy(update={"mlflow_uri": registry, "model_name": request.node.name})


def look(settings: Settings, hour: Interval) -> dict[str, Figure]:
    receipt = job.run(job.Params(as_of=hour.end + timedelta(minutes=5)), settings)
    assert receipt.partition == str(hour)
    return {each.metric: each for each in read_hour(lake_of(settings), hour)}


def told(settings: Settings) -> list[str]:
    path = settings.home / "alerts.jsonl"
    return [json.loads(line)["key"] for line in path.read_text().splitlines()] if path.exists() else []


def with_errors(rows: pd.DataFrame, *hours: int) -> pd.DataFrame:
    """The day, with a tenth of the answers of some hours failed."""
    at = pd.to_datetime(rows["event_time"], utc=True)
    failed = at.dt.hour.isin(hours) & (np.arange(len(rows)) % 10 == 0)
    return rows.assign(error=np.where(failed, "no model", ""))


def test_the_first_instant_of_an_hour_is_in_it_and_that_of_the_next_is_not(place: Settings) -> None:
    rows = rows_of(DAY, 4).assign(
        event_time=pd.to_datetime(
            ["2026-03-10T01:59:59.999999Z", "2026-03-10T02:00:00Z", "2026-03-10T02:59:59.999999Z",
             "2026-03-10T03:00:00Z"],
            format="ISO8601",
        )
    )  # fmt: skip
    serve(place, "1", rows)
    assert [answers_of(lake_of(place), Interval(DAY, hour)) for hour in (0, 1, 2, 3)] == [0, 1, 2, 1]
    assert answers_of(lake_of(place), Interval(DAY)) == 4


def test_a_quiet_hour_is_measured_twice_with_the_same_rows_and_nobody_is_told(
    place: Settings, tmp_path: Path
) -> None:
    version = champion(place, tmp_path)
    for weeks in range(5):
        serve(place, version, rows_of(DAY - timedelta(weeks=weeks)))
    figures = look(place, AT_TWO)
    assert {name: each.status for name, each in figures.items()} == dict.fromkeys(
        ("answers", "error_share", "latency_p99_ms", "null_share_online", "missing_online", "unsure_share",
         "mean_score", "alert_share", "prediction_psi", "prediction_chi_square_p"), "ok",
    )  # fmt: skip
    assert figures["answers"].value == 180
    digest = content_digest(lake_of(place).read(HOURLY_MONITORING))
    look(place, AT_TWO)
    assert content_digest(lake_of(place).read(HOURLY_MONITORING)) == digest
    assert told(place) == []


def test_what_lasts_is_told_when_it_begins_and_nothing_is_decided_by_it(
    place: Settings, tmp_path: Path
) -> None:
    version = champion(place, tmp_path)
    serve(place, version, with_errors(rows_of(DAY), 1, 2, 4))
    for hour in (0, 1, 2, 3, 4):
        look(place, Interval(DAY, hour))
        look(place, Interval(DAY, hour))
    assert told(place) == [f"{DAY}T01/error_share all", f"{DAY}T04/error_share all"]
    assert lake_of(place).version(MONITORING) == lake_of(place).version(REACTIONS) == -1


def test_scores_that_move_in_an_hour_alert(place: Settings, tmp_path: Path) -> None:
    version = champion(place, tmp_path)
    moved = rows_of(DAY).assign(score=lambda rows: np.minimum(1.0, rows["score"] * 4))
    serve(place, version, moved)
    figures = look(place, AT_TWO)
    assert figures["prediction_psi"].status == "alert"
    assert f"{AT_TWO}/prediction_psi score" in told(place)


def test_an_hour_in_which_the_service_was_silent_is_unknown_and_alerts(
    place: Settings, tmp_path: Path
) -> None:
    version = champion(place, tmp_path)
    for weeks in range(1, 4):
        serve(place, version, rows_of(DAY - timedelta(weeks=weeks)))
    figures = look(place, AT_TWO)
    assert (figures["answers"].status, figures["prediction_psi"].status) == ("unknown", "investigate")
    night = look(place, Interval(DAY, 9))
    assert {each.status for each in night.values()} == {"ok", "investigate"}, "nobody ever paid at nine"
    assert told(place) == [f"{AT_TWO}/answers all"]


def test_an_hour_without_a_champion_is_measured_as_far_as_it_can_be(place: Settings) -> None:
    serve(place, "1", rows_of(DAY))
    figures = look(place, AT_TWO)
    assert figures["error_share"].status == "ok"
    assert figures["prediction_psi"].detail == "0 reference and 0 current scores, needed 100"
