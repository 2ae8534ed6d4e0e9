"""`sluice drift calibrate`: false alarms a month of each rule, and the smallest shift that it catches."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table


def main(arguments: Sequence[str]) -> int:
    """Run the job and show its table; 3 where the budget is broken."""
    parser = argparse.ArgumentParser("sluice drift", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    calibrate = commands.add_parser("calibrate", help="replay days without drift")
    for name, text in (
        ("first-day", "first day of the prediction log without drift; empty: the champion's reference"),
        ("last-day", "last such day, included"),
        ("rounds", "how often all days are played again"),
        ("sample-days", "days into which each shift is put"),
        ("seed", "same seed, same figures"),
    ):
        calibrate.add_argument(f"--{name}", default=argparse.SUPPRESS, help=text)
    given = {name: value for name, value in vars(parser.parse_args(arguments)).items() if name != "command"}
    from jobs.registry import run_job

    receipt = run_job("calibrate_drift", given)
    Console(file=sys.stdout).print(table(json.loads(Path(receipt.facts["path"]).read_text())))
    return 0 if receipt.facts["within_budget"] else 3


def table(document: dict[str, Any]) -> Table:
    """The figures of a calibration for a person."""
    kept = "kept" if document["within_budget"] else "BROKEN"
    large, small, left = (
        ", ".join(document[name]) or "none" for name in ("slices_compared", "slices_too_small", "not_counted")
    )
    found = Table(
        "rule", "false alarms a month", "at most (95 %)", "smallest shift", "of the worst", "worst", "unit",
        title=f"{document['days']} days without drift, {document['rounds']} rounds; "
        f"budget {document['budget']}: {kept}",
        caption=f"{document['rows_a_day']} rows a day; slices compared: {large}; too small: {small}\n"
        f"not counted: {left}",
    )  # fmt: skip
    for rule in document["rules"]:
        found.add_row(
            rule["rule"], f"{rule['false_alarms_a_month']:.2f}", f"{rule['at_most_a_month']:.2f}",
            _number(rule["smallest_shift"], rule), _number(rule["worst_shift"], rule), rule["worst_column"],
            rule["unit"],
        )  # fmt: skip
    return found


def _number(value: float | None, rule: dict[str, Any]) -> str:
    if not rule["unit"]:
        return ""
    return "none seen" if value is None else f"{value:g}"
