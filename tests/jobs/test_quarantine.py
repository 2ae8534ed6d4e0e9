"""`sluice quarantine`: what is in quarantine, and rows that a person vouches for."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest

from jobs.conf.settings import Settings, settings
from jobs.core import SluiceError
from jobs.ingest.landing import newest
from jobs.ingest.releases import (
    is_releasable,
    quarantined,
    release,
    released_rows,
    values_of,
)
from jobs.lake.store import lake_of
from jobs.lake.tables import LABELS, QUARANTINE, QUARANTINE_RELEASES, TRANSACTIONS
from jobs.quarantine_cli import run_quarantine
from tests.data_support import (
    DAY,
    good_row,
    good_rows,
    ingest_day,
    label_day,
    put_labels,
    put_transactions,
    run_named,
)

NEXT = DAY + timedelta(days=1)
TOO_MUCH = "301,2026-01-05T10:00:00Z,4,3,20000.01"
SOON = "302,soon,4,3,1.00"
COPY = good_row(1)
NEITHER = "303,soon,4,3,-1.00"
TOO_MUCH_ROW, SOON_ROW, COPY_ROW, NEITHER_ROW = 251, 252, 253, 254


@pytest.fixture
def ingested(home: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A day with one row of each kind in quarantine, and an environment that names the installation."""
    put_transactions(home, [*good_rows(250), TOO_MUCH, SOON, COPY, NEITHER])
    ingest_day(home)
    for name in ("home", "source_uri", "labels_uri"):
        monkeypatch.setenv(f"SLUICE_{name.upper()}", str(getattr(home, name)))
    settings.cache_clear()
    return home


def vouch(*more: str, rows: str = str(TOO_MUCH_ROW)) -> int:
    given = ["release", "--feed", "transactions", "--day", str(DAY), "--rows", rows]
    return run_quarantine([*given, "--person", "Ada", "--reason", "asked the merchant", *more])


def numbers(home: Settings) -> list[int]:
    found: list[int] = quarantined(lake_of(home), feed="transactions", day=DAY)["row_number"].to_pylist()
    return found


def test_show_counts_by_rule_and_lists_the_rows_as_they_came(
    ingested: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_quarantine(["show", "--day", str(DAY)]) == 0
    out = capsys.readouterr().out
    assert "4 rows in quarantine" in out
    assert "20000.01" in out
    run_quarantine(["show", "--rule", "event_time: not a timestamp", "--limit", "1"])
    out = capsys.readouterr().out
    assert "2 rows in quarantine" in out
    assert "302" in out
    assert "303" not in out
    run_quarantine(["show", "--feed", "labels"])
    assert "No row is in quarantine there." in capsys.readouterr().out


def test_what_a_row_contains_cannot_steer_the_terminal() -> None:
    row = {"row": '["1", "\\u001b[2J", "[red]x", "\u009b1m", null]'}
    assert values_of(row) == "1, �[2J, [red]x, �1m, "


def test_without_yes_a_release_says_what_it_would_do_and_writes_nothing(
    ingested: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    assert vouch() == 0
    assert "Nothing was written" in capsys.readouterr().out
    assert lake_of(ingested).version(QUARANTINE_RELEASES) == -1


def test_one_release_at_a_time_is_written_also_from_two_machines(ingested: Settings) -> None:
    place = lake_of(ingested).exclusively("releases")  # on S3 a lease, not a file of one machine
    with ThreadPoolExecutor(1) as pool, place:
        releasing = pool.submit(release, ingested, "transactions", DAY, {TOO_MUCH_ROW}, "Ada", "asked")
        with pytest.raises(TimeoutError):
            releasing.result(timeout=1.0)


def test_a_released_row_is_published_when_the_day_runs_again_and_nothing_is_lost(
    ingested: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    assert vouch("--yes") == 0
    assert f"make backfill DAG=fraud_ingest FROM={DAY} TO={DAY}" in capsys.readouterr().out
    lake = lake_of(ingested)
    assert lake.read(QUARANTINE_RELEASES).to_pylist() == [
        {"part": f"transactions.{DAY}", "day": DAY, "feed": "transactions", "row_number": TOO_MUCH_ROW,
         "digest": newest(ingested, "transactions", DAY).digest, "person": "Ada",
         "reason": "asked the merchant"}
    ]  # fmt: skip
    assert TOO_MUCH_ROW in numbers(ingested)
    for _ in range(2):  # and again: the release holds for this file
        receipts = ingest_day(ingested)
        published, kept = receipts["publish_transactions"].rows, receipts["quarantine_transactions"].rows
        assert (published, kept) == (251, 3)
    assert lake.read(TRANSACTIONS)["transaction_id"].to_pylist().count(301) == 1
    assert numbers(ingested) == [SOON_ROW, COPY_ROW, NEITHER_ROW]


def test_releasing_a_row_twice_notes_it_once(ingested: Settings) -> None:
    assert release(ingested, "transactions", DAY, {TOO_MUCH_ROW}, "Ada", "asked") == 1
    assert release(ingested, "transactions", DAY, {TOO_MUCH_ROW}, "Bob", "asked too") == 0
    assert lake_of(ingested).read(QUARANTINE_RELEASES)["person"].to_pylist() == ["Ada"]


@pytest.mark.parametrize(
    ("row", "says"),
    [
        (SOON_ROW, "event_time: not a timestamp"),
        (COPY_ROW, "duplicate"),
        (NEITHER_ROW, "event_time: not a timestamp; amount_minor: bounds"),
        (1, "row 1 is not in quarantine"),
    ],
)
def test_a_row_for_which_nobody_can_vouch_is_refused_with_all_others(
    ingested: Settings, row: int, says: str
) -> None:
    with pytest.raises(SluiceError, match=says):
        vouch("--yes", rows=f"{TOO_MUCH_ROW},{row}")
    assert lake_of(ingested).version(QUARANTINE_RELEASES) == -1


def test_another_file_of_the_day_knows_nothing_of_the_release(ingested: Settings) -> None:
    vouch("--yes")
    put_transactions(ingested, [*good_rows(251), "301,2026-01-05T10:00:00Z,4,3,30000"])
    ingest_day(ingested)
    assert numbers(ingested) == [252]
    digest = newest(ingested, "transactions", DAY).digest
    assert released_rows(lake_of(ingested), "transactions", DAY, digest) == set()


def test_a_row_of_an_older_file_than_the_newest_is_not_released(ingested: Settings) -> None:
    put_transactions(ingested, good_rows(150))
    run_named("land_transactions", ingested)
    with pytest.raises(SluiceError, match="older file than the newest one; run the day first"):
        vouch("--yes")


def test_a_released_row_that_became_a_copy_stays_out(ingested: Settings) -> None:
    vouch("--yes")
    put_transactions(ingested, [good_row(301, NEXT)], NEXT)
    ingest_day(ingested, NEXT)
    ingest_day(ingested)
    assert TOO_MUCH_ROW in numbers(ingested)


def test_a_rule_that_nobody_listed_cannot_be_released() -> None:
    assert is_releasable(["amount_minor: bounds", "fee: bounds"])
    for rule in ("a new rule", "event_time: outside the day", "duplicate", "is_fraud: bounds"):
        assert not is_releasable(["amount_minor: bounds", rule])


def test_chargebacks_are_released_in_their_own_partition(ingested: Settings) -> None:
    rows = [f"{number},2026-01-06T09:00:00Z,1" for number in range(1, 41)]
    put_labels(ingested, [*rows, "-5,2026-01-06T09:00:00Z,1"], NEXT)
    label_day(ingested, NEXT)
    lake = lake_of(ingested)
    assert lake.partitions(QUARANTINE) == [f"labels.{NEXT}", f"transactions.{DAY}"]
    assert release(ingested, "labels", NEXT, {41}, "Ada", "asked") == 1
    assert label_day(ingested, NEXT)["merge_labels"].rows == 41
    assert lake.read(LABELS).num_rows == 41
    assert lake.partitions(QUARANTINE) == [f"transactions.{DAY}"]


@pytest.mark.parametrize("rows", ["", "3,,4", "3-5", "-1", "³", "1; drop"])
def test_row_numbers_are_numbers(rows: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        vouch(rows=rows)
    assert "not a list of row numbers" in capsys.readouterr().err


def test_a_person_and_a_reason_are_needed_in_one_line(ingested: Settings) -> None:
    for person in ("", "  ", "A\nB", "x" * 501):
        with pytest.raises(SluiceError, match="--person: say it in one line"):
            vouch("--person", person, "--yes")


def test_the_command_is_named_in_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    from jobs.cli import main

    assert main(["--help"]) == 0
    assert "quarantine" in capsys.readouterr().out.splitlines()[-2]


def test_nothing_is_in_quarantine_of_a_fresh_installation(tmp_path: Path, home: Settings) -> None:
    assert len(quarantined(lake_of(home))) == 0
