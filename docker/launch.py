"""`python docker/launch.py NAME`: become the server NAME, with the command that the project starts locally.

For servers whose command line is long and follows from the settings, so that it is written once.
"""

from __future__ import annotations

import os
import sys

from jobs.conf.settings import settings
from stack.services import services


def main(arguments: list[str]) -> None:
    """Replace this process by the server."""
    found = [service for service in services(settings()) if [service.name] == arguments]
    if not found:
        sys.exit(f"launch: {' '.join(arguments) or 'nothing'} is no server; see stack/services.py")
    launch = found[0].launch(settings())
    os.execvpe(launch.command[0], launch.command, {**os.environ, **launch.environment})  # noqa: S606


if __name__ == "__main__":
    main(sys.argv[1:])
