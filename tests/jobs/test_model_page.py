"""The page of the model: what it reads, what it shows, and that nothing unknown looks good."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from datetime import UTC, date, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path

import httpx
import pyarrow as pa
import pytest

from jobs import clock
from jobs.alerts import Alert, raise_alerts
from jobs.conf.policy import load_policy
from jobs.conf.settings import Settings
from jobs.lake.store import lake_of
from jobs.lake.tables import REACTIONS
from jobs.monitoring.figures import Figure, write_figures
from jobs.monitoring.model_page import DagRuns, Run, render
from jobs.monitoring.model_state import (
    DAYS,
    ModelState,
    Point,
    Series,
    Step,
    Version,
    gather,
    largest_psi,
    read_alerts,
    split_alerts,
    steps_of,
)
from jobs.monitoring.sparkline import HEIGHT, WIDTH, sparkline
from jobs.promotion import state as registry
from jobs.promotion.record import StepRow, write_row
from jobs.promotion.registry_rest import RegistryRest

DAY = date(2026, 3, 2)
NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
NASTY = "<script>alert('x')</script> & \"quotes\""
MLFLOW = "http://127.0.0.1:5000"


def mlflow_of(*versions: tuple[str, dict[str, str]], **aliases: str) -> httpx.MockTransport:
    """The registry's answers, spelled as MLflow spells them."""

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/registered-models/get"):
            listed = [{"alias": alias, "version": version} for alias, version in aliases.items()]
            return httpx.Response(200, json={"registered_model": {"name": "fraud", "aliases": listed}})
        tags = dict(versions)[request.url.params["version"]]
        found = {
            "version": request.url.params["version"], "creation_timestamp": 1_772_000_000_000,
            "tags": [{"key": f"sluice.{key}", "value": value} for key, value in tags.items()],
        }  # fmt: skip
        return httpx.Response(200, json={"model_version": found})

    return httpx.MockTransport(answer)


def text_of(page: str) -> str:
    """What a person reads of a page: no markup and no style."""

    class Reader(HTMLParser):
        text = ""
        style = False

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            self.style = tag == "style"

        def handle_data(self, data: str) -> None:
            self.text += "" if self.style else f"{data} "

    reader = Reader()
    reader.feed(page)
    return re.sub(r"\s+", " ", reader.text)


def unreachable(home: Settings) -> Settings:
    nowhere = "http://127.0.0.1:9"
    return home.model_copy(update={"mlflow_uri": nowhere, "scoring_uri": nowhere})


def test_an_installation_without_anything_has_a_page_on_which_all_is_unknown(home: Settings) -> None:
    state = gather(unreachable(home))
    assert (state.champion, state.challenger, state.monitored) == (None, None, None)
    assert state.problems == ("MLflow does not answer at http://127.0.0.1:9 (ConnectError)",)
    text = text_of(render(state, [], MLFLOW))
    assert "MLflow does not answer" in text
    assert text.count("unknown") == 8  # champion, challenger, decision, five pictures
    assert "Scoring service does not answer" in text
    assert "no day is monitored yet" in text


def test_a_registry_without_a_champion_is_told_from_one_that_does_not_answer(home: Settings) -> None:
    state = gather(unreachable(home), mlflow_of())
    assert state.registry_read
    text = text_of(render(state, [], MLFLOW))
    assert "Champion none" in text
    assert "Challenger none no promotion is under way" in text


def test_an_answer_that_is_not_mlflows_is_a_problem_and_no_error(home: Settings) -> None:
    proxy = httpx.MockTransport(lambda request: httpx.Response(502, text="<html>bad gateway</html>"))
    assert gather(unreachable(home), proxy).problems == (
        "MLflow does not answer at http://127.0.0.1:9 (JSONDecodeError)",
    )
    broken = httpx.MockTransport(lambda request: httpx.Response(500, json={"error_code": "INTERNAL_ERROR"}))
    assert gather(unreachable(home), broken).problems == ("MLflow at http://127.0.0.1:9 answered 500",)


def test_a_champion_without_a_promotion_record_is_refused_on_the_page_as_in_serving(home: Settings) -> None:
    state = gather(unreachable(home), mlflow_of(("4", {"promotion": "offered"}), champion="4"))
    assert state.champion is None
    assert "version 4 whose promotion record is offered: not served" in state.problems[0]


def test_the_steps_of_a_running_promotion_show_verdicts_what_runs_and_what_is_to_come(home: Settings) -> None:
    lake = lake_of(home)
    for number, (step, requests) in enumerate([("check", 0), ("shadow", 1208)]):
        at = NOON + timedelta(minutes=number)
        row = StepRow(promotion="p-5", model_version="5", step=step, outcome="pass", reason="fine",
                      challenger_requests=requests, started_at=at, decided_at=at)  # fmt: skip
        write_row(lake, row)
    tags = {"promotion": "canary", "promotion_id": "p-5", "step": "canary_5",
            "step_started_at": "2026-03-02T12:02:00.000+00:00", "gate": "automatic", "day": "2026-03-01",
            "reason": "weekly", "metrics": '{"pr_auc": 0.9634}'}  # fmt: skip
    registered = mlflow_of(
        ("1", {"promotion": "completed"}), ("5", tags), champion="1", challenger="5", previous="1"
    )
    state = gather(unreachable(home), registered)
    assert state.challenger is not None
    assert [(step.name, step.outcome, step.requests) for step in state.challenger.steps] == [
        ("check", "pass", 0), ("shadow", "pass", 1208), ("canary_5", "running", None),
        ("canary_25", "to come", None), ("canary_50", "to come", None), ("canary_100", "to come", None),
        ("promote", "to come", None),
    ]  # fmt: skip
    text = text_of(render(state, [], MLFLOW))
    assert "version 5 5 % of customers Step canary 5 since 2026-03-02 12:02 UTC" in text
    assert "Trained as of 2026-03-01: weekly Gate automatic PR-AUC 0.963 on its test rows" in text
    assert "shadow · 1,208" in text


def test_a_first_version_has_no_canary_to_come(home: Settings) -> None:
    found = registry.VersionState(
        version="1", run_id="", source="", registered_at=NOON,
        tags={"sluice.promotion": "shadow", "sluice.step": "shadow"},
    )  # fmt: skip
    outcomes = {step.name: step.outcome for step in steps_of(found, [], load_policy(), has_champion=False)}
    assert outcomes["shadow"] == "running"
    assert outcomes["promote"] == "to come"
    assert {outcomes[name] for name in outcomes if name.startswith("canary")} == {"left out"}


def test_the_pictures_are_of_the_last_monitored_days_and_name_the_feature_that_moved_most(
    home: Settings,
) -> None:
    lake = lake_of(home)
    old = DAY - timedelta(days=DAYS)
    for day, psi in ((old, 9.0), (DAY - timedelta(days=1), 0.04), (DAY, 0.31)):
        drift = [
            Figure(metric="psi", subject="amount", value=psi, status="retrain" if psi > 0.25 else "ok"),
            Figure(metric="psi", subject="is_night", value=0.02),
            Figure(metric="slice_psi", subject="night", value=5.0, status="alert"),
        ]
        write_figures(lake, day, "drift", drift)
        quality = [
            Figure(metric="pr_auc", subject="all", value=0.9, threshold=0.85),
            Figure(metric="pr_auc", subject="night", value=0.1, status="alert"),
        ]
        write_figures(lake, day, "performance", quality)
    row = {"day": DAY, "decision": "retrain", "reason": "psi of amount", "model_version": "1", "evidence": ""}
    lake.replace(REACTIONS, pa.Table.from_pylist([row], REACTIONS.schema), DAY)
    state = gather(unreachable(home), mlflow_of())
    assert (state.monitored, state.decision, state.decision_reason) == (DAY, "retrain", "psi of amount")
    assert state.report == ""
    page = home.reports / "drift" / f"{DAY}.html"
    page.parent.mkdir(parents=True)
    page.touch()
    assert gather(unreachable(home), mlflow_of()).report == "drift/2026-03-02.html"
    drift, pr_auc, recall, _, _ = state.series
    assert [(point.day, point.value, point.status, point.subject) for point in drift.points] == [
        (DAY - timedelta(days=1), 0.04, "ok", "amount"), (DAY, 0.31, "retrain", "amount"),
    ]  # fmt: skip
    assert drift.limits == (0.2, 0.25)
    assert ([point.value for point in pr_auc.points], pr_auc.limits) == ([0.9, 0.9], (0.85,))
    assert recall.points == ()
    text = text_of(render(state, [], MLFLOW))
    assert "Monitor retrain on 2026-03-02 psi of amount" in text
    assert "Drift: largest PSI 0.31 amount" in text
    assert "Recall at allowed FPR unknown" in text


def test_a_day_whose_features_are_not_all_measured_is_no_quiet_day() -> None:
    rows = [
        {"day": DAY, "metric": "psi", "subject": "amount", "value": 0.01, "status": "ok"},
        {"day": DAY, "metric": "psi", "subject": "is_night", "value": None, "status": "unknown"},
    ]
    assert largest_psi(rows) == (Point(day=DAY, value=0.01, status="unknown", subject="amount"),)


def test_a_figure_that_is_older_than_the_newest_monitored_day_is_unknown() -> None:
    old = Series(name="pr_auc", points=(Point(day=DAY - timedelta(days=3), value=0.91, status="ok"),))
    text = text_of(render(ModelState(model_name="fraud", monitored=DAY, series=(old,)), [], MLFLOW))
    assert "PR-AUC, matured days unknown" in text
    assert "0.910 unknown" not in text


def test_a_line_is_drawn_through_no_gap_and_nothing_leaves_the_picture() -> None:
    values = {0: 0.1, 1: 0.3, 2: None, 3: 0.2, 4: 0.2}
    points = tuple(
        Point(day=DAY - timedelta(days=4 - number), value=value, status="unknown" if value is None else "ok")
        for number, value in values.items()
    )
    picture = sparkline(
        Series(name="psi", points=points, limits=(0.2, 0.25)), points[0].day, DAY, "{:.2f}".format
    )
    lines = re.findall(r'<polyline class="curve" points="([^"]+)"', picture)
    assert [len(line.split()) for line in lines] == [2, 2]
    places = [tuple(map(float, pair.split(","))) for line in lines for pair in line.split()]
    assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in places)
    assert places == sorted(places)  # days go to the right
    assert places[1][1] < places[0][1]  # more is higher
    assert 'class="dot unknown"' in picture
    assert "2026-02-28: not measured (unknown)" in picture
    assert picture.count('class="limit"') == 2


@pytest.mark.parametrize("values", [(), (0.0,), (0.0, 0.0), (-2.0,), (None,)])
def test_a_picture_of_few_or_equal_values_is_one_all_the_same(values: tuple[float | None, ...]) -> None:
    points = tuple(
        Point(day=DAY - timedelta(days=number), value=value, status="ok")
        for number, value in reversed(list(enumerate(values)))
    )
    first = min((point.day for point in points), default=DAY)
    picture = sparkline(Series(name="psi", points=points), first, DAY, str)
    assert "nan" not in picture
    assert picture.count("<circle") == len(values)


def test_open_alerts_are_those_of_the_newest_monitored_day_and_of_after_it_the_gravest_first(
    home: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    alerts = [
        Alert(key=f"{day}/psi {name}", cause=f"{name} of {day}", owner="data", action="review: look",
              status=status)
        for day, name, status in (
            (DAY - timedelta(days=1), "old", "page"), (DAY, "mild", "alert"), (DAY, "grave", "page"),
        )
    ]  # fmt: skip
    failed = Alert(key="task-failed/fraud_train/tune/r1", cause="tune failed", owner="data", action="read")
    hours = [Alert(key=f"{day}T13/answers all", cause=f"an hour of {day}", owner="data", action="ask")
             for day in (DAY, DAY + timedelta(days=1))]  # fmt: skip
    earlier = failed.model_copy(update={"key": "task-failed/fraud_train/tune/r0", "cause": "failed before"})
    for moment, raised in ((NOON, [earlier]), (NOON + timedelta(days=1), [*alerts, failed, *hours])):
        monkeypatch.setattr(clock, "now", lambda moment=moment: moment)
        raise_alerts(home, raised, DAY)
    with (home.home / "alerts.jsonl").open("a") as file:
        file.write('{"key": "cut off')
    today, others = split_alerts(read_alerts(home.home / "alerts.jsonl"), DAY)
    assert [each.cause for each in today] == [
        f"grave of {DAY}", f"mild of {DAY}", f"an hour of {DAY + timedelta(days=1)}", "tune failed",
    ]  # fmt: skip
    assert [each.cause for each in others] == [
        f"an hour of {DAY}", f"old of {DAY - timedelta(days=1)}", "failed before",
    ]  # fmt: skip


def test_every_text_from_outside_is_escaped() -> None:
    steps = (Step(name=NASTY, outcome=NASTY, reason=NASTY),)
    tags = dict.fromkeys(("sluice.day", "sluice.reason", "sluice.gate", "sluice.approved_by",
                          "sluice.promotion", "sluice.promotion_reason", "sluice.step_started_at"),
                         NASTY)  # fmt: skip
    version = Version(version=NASTY, tags=tags, steps=steps)
    alert = Alert(key=f"{DAY}/x", cause=NASTY, owner=NASTY, action=NASTY, status=NASTY)
    point = Point(day=DAY, value=0.1, status=NASTY, subject=NASTY)
    running = Version(version=NASTY, tags=tags, steps=(Step(name=NASTY, outcome="running"),))
    state = ModelState(
        model_name=NASTY, champion=version, challenger=running, previous=NASTY, scoring=NASTY, monitored=DAY,
        decision=NASTY, decision_reason=NASTY, series=(Series(name="psi", points=(point,)),),
        open_alerts=(alert,), other_alerts=(alert,), problems=(NASTY,),
    )  # fmt: skip
    dags = [DagRuns(dag_id=NASTY, runs=(Run(run_id=NASTY, state=NASTY, of=NASTY),))]
    page = render(state, dags, f"http://{NASTY}")
    assert "<script" not in page
    tags_of_the_page = set(re.findall(r"<(\w+)", page))
    assert tags_of_the_page <= {
        "html", "head", "meta", "title", "style", "body", "header", "h1", "h2", "p", "nav", "a", "div",
        "section", "small", "dl", "dt", "dd", "b", "ul", "li", "svg", "polyline", "circle", "table", "tr",
        "td", "th", "span", "line", "br",
    }  # fmt: skip
    assert not re.search(r"<[^>]*alert\('x'\)<", page)


def test_the_page_fetches_nothing_and_links_only_where_it_should() -> None:
    dags = [
        DagRuns(dag_id=dag, runs=(Run(run_id="scheduled__2026-03-02T00:00:00+00:00", state="success",
                                      started_at=NOON, seconds=12.4, of="2026-03-01"),))
        for dag in ("fraud_monitor", "fraud_roll_back", "fraud_train")
    ]  # fmt: skip
    state = ModelState(model_name="fraud", monitored=DAY, report="drift/2026-03-02.html")
    page = render(state, dags, MLFLOW)
    assert "default-src 'none'" in page.replace("&#x27;", "'")
    assert "src=" not in page
    assert "url(" not in page
    forms = re.findall(r'data-form target="_top" href="([^"]+)"', page)
    assert forms == ["../dags/fraud_train", "../dags/fraud_monitor", "../dags/fraud_roll_back"]
    assert '"../dags/fraud_train/runs/scheduled__2026-03-02T00%3A00%3A00%2B00%3A00"' in page
    assert 'href="drift/2026-03-02.html"' in page
    assert "03-02 12:00 · 12 s" in text_of(page)


def test_an_address_of_mlflow_that_is_none_is_no_link() -> None:
    state = ModelState(model_name="fraud", champion=Version(version="3", tags={}))
    assert "javascript:" not in render(state, [], "javascript:alert(1)")
    assert f'href="{MLFLOW}/#/models/fraud/versions/3"' in render(state, [], f"{MLFLOW}/")


def test_nothing_heavy_is_imported_for_it() -> None:
    code = (
        "import sys, jobs.monitoring.model_page, jobs.monitoring.model_state; print([name for name in "
        "('mlflow', 'airflow', 'pyspark', 'torch', 'evidently', 'feast', 'sklearn', 'matplotlib') "
        "if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_what_the_page_reads_is_what_mlflows_own_client_reads(
    home: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = f"sqlite:///{tmp_path / 'mlflow.db'}"
    for name in ("_MLFLOW_SERVER_FILE_STORE", "_MLFLOW_SERVER_REGISTRY_STORE"):
        monkeypatch.setitem(os.environ, name, database)
    direct = home.model_copy(update={"mlflow_uri": database})
    client = registry.registry_client(direct)
    from mlflow.server import app

    served = home.model_copy(update={"mlflow_uri": MLFLOW})
    with RegistryRest(served, httpx.WSGITransport(app=app)) as rest:
        assert rest.aliases() == {}
        client.create_registered_model("fraud")
        running = {"sluice.promotion": "canary", "sluice.step": "canary_25", "sluice.reason": NASTY}
        for tags in ({"sluice.promotion": "completed"}, running):
            client.create_model_version("fraud", source=str(tmp_path), tags=tags)
        client.set_registered_model_alias("fraud", "champion", "1")
        client.set_registered_model_alias("fraud", "challenger", "2")
        assert rest.aliases() == registry.read_aliases(client, "fraud")
        for version in ("1", "2", "3"):
            assert rest.version(version) == registry.read_version(client, "fraud", version)
        routing = registry.routing_of(rest.aliases(), rest.version)
    assert routing == registry.read_routing(client, "fraud")
    assert (routing.champion, routing.challenger, routing.percent) == ("1", "2", 25)
