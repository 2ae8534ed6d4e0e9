"""`python -m demo.readme simulated .sluice/demo.json`: puts what a demo printed into the README."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

README = Path(__file__).parents[1] / "README.md"


def section(report: dict[str, Any]) -> str:
    """The figures of a demo.json as Markdown."""
    tables, monitoring = report["tables"], report["monitoring"]
    lines = [
        f"From the first task to the last: {report['airflow']['wall_seconds'] / 60:.1f} minutes on "
        f"{report['machine']}; champion at the end: version {report['aliases'].get('champion', 'none')}.",
        "",
        "| DAG | runs | tasks | task seconds |",
        "|---|---|---|---|",
    ]
    for name, figures in report["airflow"]["dags"].items():
        if not figures["runs"]:
            continue
        runs, tasks = (_counts(figures[key]) for key in ("runs", "tasks"))
        lines.append(f"| {name} | {runs} | {tasks} | {figures['task_seconds']:.0f} |")
    stored = ", ".join(f"{name} {figures['rows']:,} rows" for name, figures in tables.items())
    lines += ["", f"Tables: {stored}.", ""]
    lines += ["| version | trained as of | why | PR-AUC | gate | promotion |", "|---|---|---|---|---|---|"]
    for version in report["versions"]:
        score = version["metrics"].get("pr_auc")
        shown = f"{score:.3f}" if score is not None else ""
        why = version["reason"].replace("|", "/")
        why = why if len(why) < 90 else f"{why[:90]}…"
        lines.append(
            f"| {version['version']} | {version['day']} | {why} | {shown} | {version['gate']} "
            f"| {version['promotion'].replace('_', ' ') or 'not offered'} |"
        )
    lines += ["", "| version | step | verdict | champion's requests | challenger's requests |"]
    lines += ["|---|---|---|---|---|"]
    for step in report["promotion_steps"]:
        lines.append(
            f"| {step['model_version']} | {step['step'].replace('_', ' ')} | {step['outcome']} "
            f"| {step['champion_requests']} | {step['challenger_requests']} |"
        )
    decided = {row["decision"] for row in monitoring}
    days = {name: sum(row["decision"] == name for row in monitoring) for name in sorted(decided)}
    lines += ["", f"Monitored days by decision: {_counts(days)}."]
    return "\n".join(lines)


def fill(text: str, name: str, content: str) -> str:
    """The README with the content between the marks of a demo."""
    marks = re.compile(f"(<!-- demo:{name} -->\n).*?(<!-- /demo:{name} -->)", re.DOTALL)
    return marks.sub(lambda found: f"{found[1]}{content}\n{found[2]}", text)


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {state.replace('_', ' ')}" for state, count in sorted(counts.items()))


if __name__ == "__main__":
    report = json.loads(Path(sys.argv[2]).read_text())
    README.write_text(fill(README.read_text(), sys.argv[1], section(report)))
