"""`sluice backfill plan | run | validate | swap | abort | status`: rewriting days from the command line.

A backfill is named by `--name`, or by `--dag`, `--from` and `--to`. Only `plan` and `validate` do something
by themselves: they write the ledger and the report. Whatever fills staging, changes production or drops
staging says what it would do, and does it with `--execute`.
"""

from __future__ import annotations

import argparse
import getpass
from collections.abc import Sequence
from datetime import UTC, date, datetime
from typing import Any

from rich.console import Console
from rich.table import Table

from jobs.backfill import ledger
from jobs.backfill.recipes import RECIPES, recipe_of
from jobs.conf.settings import Settings, settings
from jobs.core import Receipt, SluiceError
from jobs.registry import run_job

WOULD = {
    "run": "would stage {days}: {detail}",
    "swap": "would replace {days} in {detail}",
    "reverse": "would put {days} back in {detail}",
    "abort": "would give up {days} and drop what is staged",
}
console = Console(highlight=False, soft_wrap=True)


def main(arguments: Sequence[str]) -> int:
    """Run one of the commands.

    Raises:
        SluiceError: as the jobs do.
    """
    options = _parser().parse_args(list(arguments))
    if options.command == "status":
        return _status(settings(), options.name)
    if options.command == "plan":
        return _plan(options)
    name = options.name or _name_of(options)
    asked: dict[str, Any] = {"name": name, "person": options.person, "at": datetime.now(UTC)}
    given = vars(options)
    for key in ("execute", "reverse", "accept_differences"):
        if given.get(key):
            asked[key] = given[key]
    if options.command != "validate" and not options.execute:
        _say_would(options, name)
    receipt = run_job(f"{options.command}_backfill", asked)
    _say(receipt)
    if options.command == "run" and options.execute:
        _say(run_job("validate_backfill", asked))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("sluice backfill", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    texts = {
        "plan": "reserve days and say what they cost",
        "run": "fill the staging area and compare it with production",
        "validate": "compare what is staged with production again",
        "swap": "put what was validated in production's place, or take it back",
        "abort": "give up a backfill that has not been swapped",
        "status": "show every backfill and its next step",
    }
    for command, text in texts.items():
        added = commands.add_parser(command, help=text, description=text)
        added.add_argument("--name", default="", help="the backfill, as plan named it")
        if command == "status":
            continue
        needed = command == "plan"
        added.add_argument("--dag", required=needed, choices=list(RECIPES))
        added.add_argument("--from", dest="first", required=needed, type=_day, help="first UTC day")
        added.add_argument("--to", dest="last", required=needed, type=_day, help="last UTC day, included")
        added.add_argument("--person", default=_login(), help="who asks for it; default: your login")
        if command == "plan":
            added.add_argument("--reason", required=True, help="why these days are rewritten")
        if command in ("run", "swap", "abort"):
            added.add_argument("--execute", "--yes", action="store_true", help="do it, not only say it")
        if command in ("validate", "swap"):
            added.add_argument("--accept-differences", default="", metavar="REASON")
        if command == "swap":
            added.add_argument("--reverse", action="store_true", help="put the replaced days back")
    return parser


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no day as YYYY-MM-DD") from None


def _login() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"


def _name_of(options: argparse.Namespace) -> str:
    if not (options.dag and options.first and options.last):
        raise SluiceError("backfill: say which one with --name, or with --dag, --from and --to")
    lake = ledger.production_of(settings())
    return ledger.find_by_days(lake, options.dag, options.first, options.last).name


def _plan(options: argparse.Namespace) -> int:
    receipt = run_job(
        "plan_backfill",
        {
            "dag": options.dag, "first": options.first, "last": options.last, "reason": options.reason,
            "person": options.person, "at": datetime.now(UTC),
        },
    )  # fmt: skip
    facts = receipt.facts
    sheet = Table("table", "days there", "of", "rows", "MB", title=f"backfill {receipt.partition}")
    for name, found in facts["tables"].items():
        size = f"{found['bytes'] / 1e6:,.1f}"
        sheet.add_row(name, str(found["days"]), str(facts["days"]), f"{found['rows']:,}", size)
    console.print(sheet)
    seconds = facts["expected_seconds"]
    console.print(
        f"cost: about {seconds:,.0f} s, by the last backfill of this DAG"
        if seconds is not None
        else "cost: not known yet, no backfill of this DAG has been staged"
    )
    _say(receipt)
    return 0


def _say_would(options: argparse.Namespace, name: str) -> None:
    entry = ledger.find(ledger.production_of(settings()), name)
    recipe = recipe_of(entry.dag)
    kind = "reverse" if options.command == "swap" and options.reverse else options.command
    steps = ", ".join(step.job for step in recipe.steps)
    detail = steps if kind == "run" else ", ".join(item.table.name for item in recipe.tables)
    console.print(f"dry run: {WOULD[kind].format(days=entry.days, detail=detail)}")


def _say(receipt: Receipt) -> None:
    facts = receipt.facts
    console.print(f"backfill {receipt.partition}: {facts.get('state') or facts['outcome']}")
    if receipt.job == "validate_backfill":
        console.print(
            f"{facts['partitions']} partitions compared, {facts['equal']} equal; {facts['added']} rows "
            f"added, {facts['removed']} removed, {facts['changed']} changed"
        )
        console.print(f"report: {settings().reports / facts['report']}")
    console.print(f"next: {facts['next_step']}")


def _status(ours: Settings, name: str) -> int:
    lake = ledger.production_of(ours)
    if name:
        ledger.find(lake, name)
    entries = ledger.steps_of(lake, name) if name else ledger.states(lake)
    sheet = Table("backfill", "days", "state", "by", "at", "reason")
    for entry in entries:
        moment = f"{entry.at:%Y-%m-%d %H:%M}"
        sheet.add_row(entry.name, entry.days, entry.state.value, entry.person, moment, entry.reason)
    console.print(sheet if entries else "no backfill has been planned")
    for entry in entries[-1:] if name else entries:
        if entry.state in (*ledger.OPEN, ledger.State.SWAPPED):
            console.print(f"{entry.name}: {ledger.next_step(entry)}")
    return 0
