"""Run once before the servers: folders, Airflow's password file, its database and its pools.

Safe to run again. Needs AIRFLOW_ADMIN_PASSWORD, AIRFLOW_APPROVER_PASSWORD and Airflow's own settings in the
environment.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from plugins.pools import POOLS
from stack.environment import USERS
from stack.services import OBJECT_STORAGE

COMMANDS = (("airflow", "db", "migrate"), ("airflow", "pools", "import", "{pools}"))


def main() -> int:
    """Exit code 0 when everything is there, else that of the command that failed."""
    passwords = {user: os.environ.get(f"AIRFLOW_{user.upper()}_PASSWORD", "") for user in USERS}
    for user, password in passwords.items():
        if not password:
            sys.exit(f"prepare: AIRFLOW_{user.upper()}_PASSWORD is empty: set it, see docker/README.md")
    (Path(os.environ["SLUICE_HOME"]) / OBJECT_STORAGE).mkdir(parents=True, exist_ok=True)
    home = Path(os.environ["AIRFLOW_HOME"])
    home.mkdir(parents=True, exist_ok=True)
    _write_private(Path(os.environ["AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE"]), passwords)
    pools = home / "pools.json"
    _write_private(pools, POOLS)
    for command in COMMANDS:
        done = subprocess.run([part.format(pools=pools) for part in command], check=False)
        if done.returncode != 0:
            return done.returncode
    return 0


def _write_private(file: Path, document: object) -> None:
    temporary = file.with_name(f"{file.name}.{os.getpid()}")
    with os.fdopen(os.open(temporary, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "w") as handle:
        json.dump(document, handle)
    temporary.replace(file)


if __name__ == "__main__":
    sys.exit(main())
