"""The lake on S3-compatible storage whose server is killed under load and started again.

In: a folder. Out: cases and problems; one case alone that says so where no such server can be built.
"""

from __future__ import annotations

import os
import secrets
import shutil
from pathlib import Path

from jobs.conf.settings import Settings
from tests.benchmarks.__main__ import Case
from tests.faults.canaries_http import settle
from tests.faults.cases import none
from tests.faults.outages import Outage, log_complete, outage, scored
from tests.faults.servers import Server, World, start_all, world
from tests.lake_server import BINARY, BUCKET, build
from tests.s3_server import free_port, listens

KILLS = 3
RETRIED_SECONDS = 45.0  # the storage client itself tries for 30 s before it gives an error


def lake_on_s3(folder: Path, home: Settings) -> tuple[list[Case], list[str]]:
    """Kill the storage server again and again; nothing is lost and nothing is written twice."""
    if not BINARY.exists() and shutil.which("go") is None:
        return [Case("lake on S3: not tried, there is neither Go nor the server", 0, None, "", "", True)], []
    (folder / "objects" / BUCKET).mkdir(parents=True)
    server, variables = storage_at(folder)
    server.start()
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        place = home.model_copy(update={"home": folder / "home"})
        with world(
            folder / "world", place, lake_environment=variables, lake_uri=f"s3://{BUCKET}/lake"
        ) as ours:
            start_all(ours)
            settle(ours)
            done = [storage_outage(ours, server) for _ in range(KILLS)]
    finally:
        os.environ.clear()
        os.environ.update(before)
        server.kill()
    cases = [case for each in done for case in outages_cases(each)]
    return cases, [problem for each in done for problem in each.problems]


def outages_cases(each: Outage) -> list[Case]:
    """One outage's figures."""
    return [
        none(f"{each.name}: of {each.requests} requests lost", each.lost),
        none(f"{each.name}: other problems", len(each.problems) - each.lost),
        Case(f"{each.name}: the log is whole after", each.seconds_back, None, "s", "", True),
    ]


def storage_outage(ours: World, server: Server) -> Outage:
    """Killed, so that a commit may be half way; the service goes on."""
    return outage(
        ours,
        "storage of the lake killed",
        server.kill,
        server.start,
        meanwhile=scored,
        is_well=log_complete(ours),
        recovers=RETRIED_SECONDS,
    )


def storage_at(folder: Path) -> tuple[Server, dict[str, str]]:
    """The storage server, and what a client of it needs to be let in."""
    port, key_id, secret = free_port(), "key" + secrets.token_hex(6), secrets.token_hex(20)
    command = (
        str(build()), "--port", f"127.0.0.1:{port}", "--quiet", "--keep-alive", "posix",
        str(folder / "objects"),
    )  # fmt: skip
    keys = {"ROOT_ACCESS_KEY": key_id, "ROOT_SECRET_KEY": secret}
    server = Server("storage", command, {**os.environ, **keys}, lambda: listens(port), folder)
    return server, {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": key_id,
        "AWS_SECRET_ACCESS_KEY": secret,
        "AWS_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
