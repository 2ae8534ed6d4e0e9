"""`make demo`: the whole chain on simulated transactions, or on a source of your own."""

from __future__ import annotations

import argparse
import os
import sys
from datetime import date
from pathlib import Path

from rich.console import Console

from demo import report, upstream
from demo.airflow_api import Airflow
from demo.chain import Chain, say
from demo.mlflow_api import Registry
from demo.plan import Plan, plan_of_source, simulated_plan
from demo.story import tell
from jobs.conf.settings import Settings, load_settings
from jobs.core import SluiceError
from jobs.ending import leave
from stack.command import down, start_services, up
from stack.environment import ADMIN, APPROVER, password_file, secret, without_proxy
from stack.services import ACCESS_KEY, OBJECT_STORAGE

OBJECT_STORAGE_URI = "http://127.0.0.1:9000"
DAGS = (
    "fraud_ingest", "fraud_labels", "fraud_features", "fraud_train", "fraud_promote", "fraud_monitor",
    "fraud_score",
)  # fmt: skip
console = Console()


def main() -> int:
    """Run the demo; services stay up when it is done, and stop when it is interrupted."""
    arguments = _arguments()
    try:
        plan = _plan(arguments)
        settings = _configure(plan)
        _refuse_a_used_home(settings)
    except SluiceError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    try:
        return _run(plan, settings)
    except KeyboardInterrupt:
        say("interrupted: stopping every server")
        down(settings)
        return 130
    except SluiceError as error:
        print(f"demo: {error}", file=sys.stderr)
        print("demo: the servers are still up: look at them, then `make down`", file=sys.stderr)
        return 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser("make demo", description=__doc__)
    parser.add_argument("--source-uri", default="", help="directory or s3://bucket/prefix of daily files")
    parser.add_argument("--contract", default="handbook", help="contract of that source")
    parser.add_argument("--from", dest="first", type=date.fromisoformat, help="first day, YYYY-MM-DD")
    parser.add_argument("--to", dest="last", type=date.fromisoformat, help="last day, YYYY-MM-DD")
    parser.add_argument("--no-drift", action="store_true", help="simulate no new fraud pattern")
    return parser.parse_args()


def _plan(arguments: argparse.Namespace) -> Plan:
    if not arguments.source_uri:
        return simulated_plan(drift=not arguments.no_drift)
    return plan_of_source(arguments.source_uri, arguments.contract, arguments.first, arguments.last)


def _configure(plan: Plan) -> Settings:
    """Put the demo's settings into this process's environment, for itself and for the servers."""
    settings = load_settings(os.environ)
    chosen = {
        "SLUICE_HOME": str(settings.home),
        "SLUICE_CONTRACT": plan.contract,
        "SLUICE_POLICY_OVERLAY": "demo",
        "SLUICE_FIRST_DAY": str(plan.first),
        "SLUICE_LAST_DAY": str(plan.last),
        "SLUICE_SOURCE_URI": plan.source_uri or upstream.S3_SOURCE,
    }
    if plan.simulated:
        early, chargebacks = upstream.folders(settings.home)
        chosen |= {
            "SLUICE_EXTRA_SOURCE_URIS": str(early),
            "SLUICE_LABELS_URI": str(chargebacks),
            "SLUICE_OBJECT_STORAGE_URI": os.environ.get("SLUICE_OBJECT_STORAGE_URI", OBJECT_STORAGE_URI),
            "AWS_ENDPOINT_URL": os.environ.get("SLUICE_OBJECT_STORAGE_URI", OBJECT_STORAGE_URI),
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": secret(settings, "s3_secret"),
            "AWS_DEFAULT_REGION": "us-east-1",
        }
    os.environ.update({**chosen, **without_proxy(os.environ)})
    return load_settings(os.environ)


def _refuse_a_used_home(settings: Settings) -> None:
    done = settings.home / "demo.json"
    again = f"for another run: `make down && rm -r {settings.home}`, or another SLUICE_HOME"
    if done.exists():
        raise SluiceError(f"the demo has run here: its results are in {done}; {again}")
    if settings.lake_uri:
        raise SluiceError("the demo keeps its tables in its own home: unset SLUICE_LAKE_URI for it")
    if Path(settings.lake).exists():
        raise SluiceError(f"{settings.home} holds the tables of an earlier run that did not end; {again}")


def _run(plan: Plan, settings: Settings) -> int:
    if plan.simulated:
        start_services(settings, os.environ, OBJECT_STORAGE)
        say(f"simulated transactions, {plan.first} to {plan.last}, are delivered")
        upstream.deliver(plan, settings.home)
    up(settings, os.environ)
    airflow, approver = (
        Airflow(settings.airflow_uri, user, password_file(settings, user)) for user in (ADMIN, APPROVER)
    )
    registry = Registry(settings.mlflow_uri, settings.model_name)
    airflow.wait_for(
        "Airflow's DAGs", lambda: {dag["dag_id"] for dag in airflow.dags()} >= set(DAGS) or None, 120
    )
    for dag in DAGS:
        airflow.unpause(dag)
    tell(Chain(plan, settings.home, airflow, approver, registry, settings.scoring_uri))
    result = report.collect(settings, airflow, registry)
    report.write(result, settings.home / "demo.json")
    report.show(result, console)
    say(f"the same in {settings.home / 'demo.json'}; `make status` and `make down` see to the servers")
    return 0


if __name__ == "__main__":
    leave(main())
