"""`sluice NAME --day D …`: every job runs without Airflow.

`sluice --list` shows the jobs; `sluice config` shows settings and policy, `--schema` their JSON schema;
`sluice quarantine show` lists rows that broke a rule, `sluice quarantine release` vouches for some of them.
`sluice backfill` rewrites days by way of a staging area; `sluice model` shows, compares and reproduces
versions of the model; `sluice drift calibrate` counts the false alarms of the drift rules; `sluice replay`
plays the whole loop over history and scores the policy.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

from jobs.core import SluiceError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code is 0, 1 for an error that a person can act on, 2 for usage."""
    argv = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return _dispatch(argv)
    except SluiceError as error:
        print(f"sluice: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _dispatch(argv: list[str]) -> int:
    if not argv or argv[0] in {"-h", "--help"}:
        print(__doc__)
        print("commands: --list, config, quarantine, backfill, model, drift, replay, or the name of a job")
        print("`sluice` has also up, down, status, airflow")
        return 0 if argv else 2
    command, rest = argv[0], argv[1:]
    if command == "--list":
        _list_jobs()
        return 0
    if command == "config":
        return _config(rest)
    if command == "quarantine":
        from jobs.quarantine_cli import run_quarantine

        return run_quarantine(rest)
    if command == "backfill":
        from jobs.backfill.command import main as backfill

        return backfill(rest)
    if command == "model":
        from jobs.training.model_cli import main as model

        return model(rest)
    if command == "replay":
        from jobs.replay.command import main as replay

        return replay(rest)
    if command == "drift":
        from jobs.monitoring.drift_cli import main as drift

        return drift(rest)
    return _run(command, rest)


def _list_jobs() -> None:
    from jobs.registry import JOBS, summary

    width = max(len(name) for name in JOBS)
    for name in JOBS:
        print(f"{name:<{width}}  {summary(name)}")


def _config(rest: list[str]) -> int:
    from jobs.conf.policy import Policy, policy_of
    from jobs.conf.settings import Settings, settings

    parser = argparse.ArgumentParser("sluice config", description="settings and policy in force")
    parser.add_argument("--schema", action="store_true", help="print their JSON schema instead")
    if parser.parse_args(rest).schema:
        document: dict[str, Any] = {
            "settings": Settings.model_json_schema(),
            "policy": Policy.model_json_schema(),
        }
    else:
        document = {
            "settings": settings().model_dump(mode="json"),
            "policy": policy_of(settings()).model_dump(mode="json"),
        }
    print(json.dumps(document, indent=2))
    return 0


def _run(name: str, rest: list[str]) -> int:
    from jobs.registry import load_job, run_job

    job = load_job(name)
    parser = argparse.ArgumentParser(f"sluice {name}", description=job.__doc__)
    for field, info in job.Params.model_fields.items():
        parser.add_argument(
            "--" + field.replace("_", "-"),
            dest=field,
            required=info.is_required(),
            default=argparse.SUPPRESS,
            help=info.description,
        )
    receipt = run_job(name, vars(parser.parse_args(rest)))
    print(receipt.model_dump_json(indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
