"""`sluice replay --from D --to D [--policy FILE …]`: the whole loop over history, and each policy's score.

A policy is an overlay: its name in jobs/conf/overlays or a YAML file laid over policy.yaml; without one the
shipped policy is replayed. The source is that of the settings. Called again after an interruption it goes on.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from datetime import date
from functools import partial
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table as Sheet

from jobs.conf.settings import Settings, settings
from jobs.core import SluiceError, days_between
from jobs.files import write_whole
from jobs.locks import file_lock
from jobs.replay import data
from jobs.replay.page import page
from jobs.replay.plan import Plan, PolicyUnderTest, data_settings, data_sources, make_plan, policy_settings
from jobs.replay.play import play, quiet
from jobs.replay.report import report, seconds_of

RESULT, SECONDS, PAGE, ASKED = "replay.json", "seconds.json", "replay.html", "asked.json"


def main(arguments: Sequence[str]) -> int:
    """Replay, and say where the results are."""
    given = _arguments(arguments)
    config = settings()
    plan = make_plan(config, given.first, given.last, given.policy, given.scenario, given.home)
    console = screen()
    result = replay(config, plan, console)
    _show(result, console)
    console.print(f"{plan.home / PAGE} shows it; the same in {plan.home / RESULT}, seconds in {SECONDS}")
    return 0


def screen() -> Console:
    """A console on what is standard output now: it shows its bar also while nothing else may print."""
    return Console(file=sys.stdout)


def _arguments(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser("sluice replay", description=__doc__)
    day = date.fromisoformat
    parser.add_argument("--from", dest="first", type=day, required=True, help="first day with traffic")
    parser.add_argument("--to", dest="last", type=day, required=True, help="last day")
    parser.add_argument(
        "--policy", action="append", default=[], help="an overlay; may be given several times"
    )
    parser.add_argument("--scenario", default="", help="YAML: known drift days, trainings broken on purpose")
    parser.add_argument("--home", default="", help="folder of the replay; replay in SLUICE_HOME where empty")
    return parser.parse_args(arguments)


def replay(config: Settings, plan: Plan, console: Console) -> dict[str, Any]:
    """Play what has not been played, score it, write the results; gives replay.json.

    Raises:
        SluiceError: the folder holds another replay, or a job failed otherwise than by closing a gate.
    """
    plan.home.mkdir(parents=True, exist_ok=True)
    with file_lock(plan.home / ".lock"), quiet():
        require_same(config, plan)
        _play(config, plan, console)
        result = report(config, plan)
        seconds = {
            "data": {where.home.name: data.seconds_of_data(where) for where in _places(config, plan)},
            "policies": {
                each.name: seconds_of(policy_settings(config, plan, each)) for each in plan.policies
            },
        }
        data.write_json(plan.home / RESULT, result)
        data.write_json(plan.home / SECONDS, seconds)
        write_whole(plan.home / PAGE, page(result, seconds))
    return result


def _play(config: Settings, plan: Plan, console: Console) -> None:
    """The data of each kind of policy once, then all policies beside each other."""
    columns = TextColumn("{task.description:<40}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=console, transient=True, redirect_stdout=False) as bar:
        for where in _places(config, plan):
            days = len(days_between(where.first_day, plan.last)) + len(plan.days)
            data.take_in(
                where, plan.first, plan.last, partial(_advance, bar, bar.add_task("data", total=days))
            )
        tasks = {each.name: bar.add_task(each.name, total=len(plan.days)) for each in plan.policies}
        failed: set[str] = set()

        def progress(under_test: PolicyUnderTest, days: int, error: str) -> None:
            name = under_test.name
            if error and name not in failed:
                failed.add(name)
                console.print(f"policy {name} failed: {error}", markup=False)
            bar.update(tasks[name], completed=days, description=f"{name} failed" if error else name)

        play(config, plan, progress)


def _places(config: Settings, plan: Plan) -> list[Settings]:
    """The installations that take in data, each once."""
    found = (data_settings(config, plan, each) for each in plan.policies)
    return list({where.home: where for where in found}.values())


def _advance(bar: Progress, task: TaskID, text: str) -> None:
    bar.update(task, advance=1, description=text)


def require_same(config: Settings, plan: Plan) -> None:
    """A folder holds one replay; what was played under other rules does not go on under these."""
    asked = {
        "from": str(plan.first),
        "data": data_sources(config),
        "scenario": plan.scenario.model_dump(mode="json"),
    }
    policies = {each.name: each.policy.model_dump(mode="json") for each in plan.policies}
    path = plan.home / ASKED
    known = json.loads(path.read_text()) if path.exists() else {"asked": asked, "policies": {}}
    if known["asked"] != asked:
        raise SluiceError(f"replay: {plan.home} holds another replay: remove it, or name another --home")
    changed = [name for name in policies if known["policies"].get(name, policies[name]) != policies[name]]
    if changed:
        raise SluiceError(
            f"replay: policy {changed[0]} was played with other values: remove "
            f"{plan.home / 'policies' / changed[0]} and {path}, or name another --home"
        )
    data.write_json(path, {"asked": asked, "policies": known["policies"] | policies})


def _show(result: dict[str, Any], console: Console) -> None:
    sheet = Sheet("figure", *result["policies"], title=f"{result['from']} to {result['scored_to']}")
    names = next(iter(result["policies"].values()))["score"]
    for name in names:
        sheet.add_row(
            name.replace("_", " "), *(shown(each["score"][name]) for each in result["policies"].values())
        )
    console.print(sheet)


def shown(estimate: dict[str, float | None]) -> str:
    """A figure with its interval."""
    value, low, high = (estimate[key] for key in ("value", "low", "high"))
    if value is None:
        return "not defined"
    return f"{value:.3g}" if low is None or high is None else f"{value:.3g} [{low:.3g}, {high:.3g}]"
