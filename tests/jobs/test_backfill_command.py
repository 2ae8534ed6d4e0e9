"""`sluice backfill` as a person types it: a dry run unless told otherwise, one sentence for each error."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest

from jobs import cli
from jobs.backfill import ledger
from jobs.conf.settings import PROJECT_ROOT, Settings, settings
from jobs.lake.store import lake_of
from tests.backfill_support import CORRECTED, DAYS, contents, numbered
from tests.data_support import put_transactions

pytest_plugins = ("tests.four_days",)
DAYS_OF_IT = ["--dag", "fraud_ingest", "--from", str(DAYS[1]), "--to", str(DAYS[2])]
NAME = "ingest-20260106-20260107-1"


@pytest.fixture
def ours(ingested: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    """The settings of this process are those of the installation."""
    for name, value in environment(ingested).items():
        monkeypatch.setenv(name, value)
    settings.cache_clear()
    yield ingested
    settings.cache_clear()


def environment(home: Settings) -> dict[str, str]:
    return {
        "SLUICE_HOME": str(home.home),
        "SLUICE_SOURCE_URI": home.source_uri,
        "SLUICE_LABELS_URI": home.labels_uri,
    }


def test_a_correction_from_the_plan_to_the_reversal(
    ours: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    def said(*arguments: str) -> str:
        assert cli.main(["backfill", *arguments]) == 0
        return " ".join(capsys.readouterr().out.split())

    before = contents(ours)
    put_transactions(ours, numbered(DAYS[1], CORRECTED), DAYS[1])
    assert "no backfill has been planned" in said("status")
    assert "not known yet" in said("plan", *DAYS_OF_IT, "--reason", "a corrected file")
    assert "dry run: would stage 2026-01-06 to 2026-01-07: land_transactions" in said("run", *DAYS_OF_IT)
    assert ledger.find(lake_of(ours), NAME).state.value == "planned"

    assert cli.main(["backfill", "run", *DAYS_OF_IT, "--execute"]) == 1
    assert "transactions: rows: 0.05, allowed 0.02 (2026-01-06: 120 rows" in capsys.readouterr().err
    accept = ["--accept-differences", "six rows came late"]
    dry = said("swap", "--name", NAME, *accept)
    assert "dry run: would replace 2026-01-06 to 2026-01-07 in landed_files" in dry
    assert contents(ours) == before
    assert f"backfill {NAME}: swapped" in said("swap", "--name", NAME, "--yes", *accept)
    assert contents(ours) != before
    assert "swap --name" in said("status")
    assert "reversed" in said("swap", *DAYS_OF_IT, "--reverse", "--execute")
    assert contents(ours) == before
    assert [row in said("status", "--name", NAME) for row in ("planned", "swapping", "reversed")] == [
        True
    ] * 3


def test_the_report_shows_every_day_and_stands_alone(ours: Settings) -> None:
    put_transactions(ours, numbered(DAYS[1], CORRECTED), DAYS[1])
    assert cli.main(["backfill", "plan", *DAYS_OF_IT, "--reason", "<b>bold</b>"]) == 0
    assert cli.main(["backfill", "run", *DAYS_OF_IT, "--execute"]) == 1
    folder = ours.reports / "backfills" / NAME
    page = (folder / "index.html").read_text()
    HTMLParser().feed(page)
    assert "<b>bold" not in page
    assert "http" not in page
    assert "<script" not in page
    assert page.count("<svg") == 5  # three tables, two distributions
    assert "120 rows before, 126 after; 6 added, 0 removed, 0 changed" in page
    assert json.loads((folder / "report.json").read_text())["verdict"]["outcome"] == "fail"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["run"], "say which one with --name, or with --dag, --from and --to"),
        (["run", *DAYS_OF_IT], "there is none; plan it first"),
        (["swap", "--name", "nobody", "--execute"], "there is none of this name"),
    ],
)
def test_an_error_is_one_sentence(
    ours: Settings, capsys: pytest.CaptureFixture[str], arguments: list[str], sentence: str
) -> None:
    assert cli.main(["backfill", *arguments]) == 1
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1


def test_it_runs_as_a_process(ingested: Settings, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "jobs", "backfill", "plan", *DAYS_OF_IT, "--reason", "x", "--person", "ada"],
        env={**os.environ, **environment(ingested)}, cwd=PROJECT_ROOT, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert f"sluice backfill run --name {NAME} --execute" in " ".join(done.stdout.split())
