"""What happened, read back from Airflow, the registry and the tables; the driver adds nothing."""

from __future__ import annotations

import json
import os
from collections import Counter, defaultdict
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
from rich.console import Console
from rich.table import Table as Sheet

from demo.airflow_api import Airflow
from demo.mlflow_api import Registry
from jobs.conf.settings import Settings
from jobs.lake.store import Lake, lake_of
from jobs.lake.tables import (
    LABELS,
    LANDED_FILES,
    PREDICTIONS,
    PROMOTIONS,
    QUARANTINE,
    REACTIONS,
    SCORES,
    TRANSACTIONS,
)

Rows = list[dict[str, Any]]


def collect(settings: Settings, airflow: Airflow, registry: Registry) -> dict[str, Any]:
    """The content of demo.json."""
    lake = lake_of(settings)
    return {
        "machine": machine(),
        "airflow": airflow_figures(airflow),
        "tables": table_figures(lake),
        "versions": [version_figures(registry, version) for version in registry.versions()],
        "aliases": registry.aliases(),
        "promotion_steps": promotion_figures(lake),
        "requests": request_figures(lake),
        "monitoring": monitoring_figures(lake),
        "trainings": training_figures(airflow),
        "addresses": addresses(settings),
    }


def machine() -> str:
    """The machine, in words."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{os.cpu_count()} cores and {memory:.0f} GB"


def airflow_figures(airflow: Airflow) -> dict[str, Any]:
    """Runs and tasks of each DAG by state, and the seconds that its tasks took."""
    figures: dict[str, Any] = {}
    starts, ends = [], []
    for dag in sorted(entry["dag_id"] for entry in airflow.dags()):
        runs, tasks = airflow.runs(dag), airflow.tasks(dag)
        seconds = sum(task["duration"] or 0.0 for task in tasks)
        starts += [run["start_date"] for run in runs if run["start_date"]]
        ends += [run["end_date"] for run in runs if run["end_date"]]
        figures[dag] = {
            "runs": dict(Counter(run["state"] for run in runs)),
            "tasks": dict(Counter(str(task["state"]) for task in tasks)),
            "task_seconds": round(seconds, 1),
        }
    wall = moment(max(ends)) - moment(min(starts)) if ends else None
    return {"dags": figures, "wall_seconds": round(wall.total_seconds(), 1) if wall else 0.0}


def moment(text: str) -> datetime:
    """An instant as Airflow writes it."""
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


def table_figures(lake: Lake) -> dict[str, Any]:
    """Rows and days of each table, and the quarantine by rule."""
    figures: dict[str, Any] = {}
    for table in (LANDED_FILES, TRANSACTIONS, QUARANTINE, LABELS, SCORES):
        rows = lake.read(table, columns=[table.key[0]])
        figures[table.name] = {"rows": rows.num_rows, "partitions": len(lake.partitions(table))}
    rules = lake.read(QUARANTINE, columns=["day", "rule"]).to_pylist()
    figures["quarantine"]["by_day_and_rule"] = {
        f"{day} {rule}": count
        for (day, rule), count in sorted(Counter((row["day"], row["rule"]) for row in rules).items())
    }
    return figures


def version_figures(registry: Registry, version: str) -> dict[str, Any]:
    """What the registry says about one version."""
    tags = registry.tags(version)
    wanted = ("day", "reason", "drill", "gate", "gate_reason", "promotion", "promotion_reason", "approved_by")
    figures = {"version": version, **{name: tags.get(f"sluice.{name}", "") for name in wanted}}
    return {**figures, "metrics": json.loads(tags.get("sluice.metrics", "{}"))}


def promotion_figures(lake: Lake) -> Rows:
    """Verdict of each step, in the order in which they were decided."""
    rows: Rows = lake.read(PROMOTIONS).sort_by("decided_at").to_pylist()
    for row in rows:
        row.pop("evidence")
        row.update({name: str(row[name]) for name in ("started_at", "decided_at")})
    return rows


def request_figures(lake: Lake) -> Rows:
    """Answers in the prediction log by version, step and variant."""
    log = lake.read(PREDICTIONS, columns=["model_version", "step", "variant", "latency_ms", "request_id"])
    groups = log.group_by(["model_version", "step", "variant"]).aggregate(
        [("request_id", "count"), ("latency_ms", "mean")]
    )
    ordered = groups.sort_by(
        [("model_version", "ascending"), ("step", "ascending"), ("variant", "ascending")]
    )
    return [
        {
            "model_version": row["model_version"],
            "step": row["step"],
            "variant": row["variant"],
            "requests": row["request_id_count"],
            "latency_ms_mean": round(row["latency_ms_mean"] or 0.0, 2),
        }
        for row in ordered.to_pylist()
    ]


def monitoring_figures(lake: Lake) -> Rows:
    """The monitor's decision of each day."""
    columns = ["day", "decision", "reason", "model_version"]
    rows: pa.Table = lake.read(REACTIONS, columns=columns).sort_by("day")
    return [{**row, "day": str(row["day"])} for row in rows.to_pylist()]


def training_figures(airflow: Airflow) -> Rows:
    """Every training: what started it and how long each of its stages took."""
    seconds: dict[str, dict[str, float]] = defaultdict(dict)
    for task in airflow.tasks("fraud_train"):
        stages = seconds[task["dag_run_id"]]
        stages[task["task_id"]] = round(max(stages.get(task["task_id"], 0.0), task["duration"] or 0.0), 1)
    return [
        {
            "run": run["dag_run_id"],
            "started_by": run["run_type"],
            "state": run["state"],
            "seconds": round((moment(run["end_date"]) - moment(run["start_date"])).total_seconds(), 1),
            "stages": seconds[run["dag_run_id"]],
        }
        for run in airflow.runs("fraud_train")
        if run["end_date"] and run["start_date"]
    ]


def addresses(settings: Settings) -> dict[str, str]:
    """Where to look."""
    airflow = settings.airflow_uri
    return {
        "Airflow": airflow,
        "MLflow": f"{settings.mlflow_uri}/#/models/{settings.model_name}",
        "Data Docs": f"{airflow}/reports/data_docs/index.html",
        "drift reports": f"{airflow}/reports/drift/index.html",
        "scoring service": f"{settings.scoring_uri}/docs",
    }


def write(report: dict[str, Any], file: Path) -> None:
    """Write demo.json in one step."""
    temporary = file.with_suffix(".tmp")
    temporary.write_text(json.dumps(report, indent=2, default=str) + "\n")
    temporary.replace(file)


def show(report: dict[str, Any], console: Console) -> None:
    """The same as tables in the terminal."""
    dags = Sheet("DAG", "runs", "tasks", "task seconds", title="Airflow")
    for name, figures in report["airflow"]["dags"].items():
        dags.add_row(name, _counts(figures["runs"]), _counts(figures["tasks"]), str(figures["task_seconds"]))
    console.print(dags)
    tables = Sheet("table", "rows", "partitions", title="Tables")
    for name, figures in report["tables"].items():
        tables.add_row(name, str(figures["rows"]), str(figures["partitions"]))
    console.print(tables)
    versions = Sheet("version", "day", "reason", "drill", "PR-AUC", "gate", "promotion", title="Versions")
    for version in report["versions"]:
        score = version["metrics"].get("pr_auc")
        shown = f"{score:.3f}" if score is not None else ""
        columns = ("version", "day", "reason", "drill")
        versions.add_row(
            *(str(version[name])[:60] for name in columns), shown, version["gate"], version["promotion"]
        )
    console.print(versions)
    steps = Sheet(
        "version", "step", "verdict", "champion", "challenger", "why", title="Promotions, by requests"
    )
    for step in report["promotion_steps"]:
        steps.add_row(
            step["model_version"], step["step"], step["outcome"], str(step["champion_requests"]),
            str(step["challenger_requests"]), step["reason"][:70],
        )  # fmt: skip
    console.print(steps)
    decisions = Sheet("day", "decision", "reason", title="Monitoring")
    for row in report["monitoring"]:
        decisions.add_row(row["day"], row["decision"], row["reason"][:100])
    console.print(decisions)
    places = Sheet("what", "address", title="Where to look")
    for name, address in report["addresses"].items():
        places.add_row(name, address)
    console.print(places)
    console.print(
        f"champion: version {report['aliases'].get('champion', 'none')}; "
        f"from the first task to the last {report['airflow']['wall_seconds'] / 60:.1f} minutes"
    )


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))
