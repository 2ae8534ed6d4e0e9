"""The console script `sluice`: the servers' commands, and every job."""

from __future__ import annotations

import sys
from typing import NoReturn

from jobs import cli
from jobs.core import SluiceError
from jobs.ending import leave
from stack.command import COMMANDS, run_command


def status_of_command() -> int:
    """The exit code of one of COMMANDS, or of what `python -m jobs` understands."""
    command, rest = (sys.argv[1:2] or [""])[0], sys.argv[2:]
    if command not in COMMANDS:
        return cli.main()
    try:
        return run_command(command, rest)
    except SluiceError as error:
        print(f"sluice: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def main() -> NoReturn:
    """The console script."""
    leave(status_of_command())


if __name__ == "__main__":
    main()
