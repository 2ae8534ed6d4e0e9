"""The commit of the code that runs."""

from __future__ import annotations

import subprocess
from pathlib import Path

from jobs.conf.settings import PROJECT_ROOT

CHANGES = "+changes"  # after a commit: the tree differed from it
UNKNOWN = "unknown"


def code_commit(root: Path = PROJECT_ROOT) -> str:
    """The commit of the code, "+changes" where the tree differs from it, "unknown" without git."""
    try:
        commit = _git(root, "rev-parse", "HEAD")
        return f"{commit}{CHANGES}" if _git(root, "status", "--porcelain") else commit
    except (OSError, subprocess.SubprocessError):
        return UNKNOWN


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True, timeout=10
    )
    return done.stdout.strip()
