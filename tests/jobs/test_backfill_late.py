"""Backfills and late rows: a file's rows lie in other days' partitions, other files' rows in its own."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path

import pytest

from jobs.conf.contract import contract_of
from jobs.conf.settings import Settings
from jobs.lake.store import content_digest, lake_of
from jobs.lake.tables import QUARANTINE, TRANSACTIONS
from tests.backfill_support import DAYS, ROWS, ask, contents, copied, numbered, settings_in, staged
from tests.data_support import good_row, ingest_day, put_transactions

BEFORE, FIRST, LAST, AFTER = DAYS  # the middle two are rewritten
ACCEPTED = "the sender corrected two days"
OF_THE_DAY_BEFORE, INSIDE, OF_THE_NEXT_FILE, OLDEST, NEW_INSIDE, NEW_BEFORE = range(9_001, 9_007)


def late(number: int, day: date, amount: str = "12.50") -> str:
    """A row of an earlier day, to stand in a later day's file."""
    return good_row(number, day).replace("12.50", amount)


def rows(day: date) -> list[str]:
    """The day's own rows, without the copy that later days bring."""
    return numbered(day)[:ROWS]


def oldest(home: Settings) -> date:
    """The first day that a file of the range may still bring rows of."""
    return FIRST - timedelta(days=contract_of(home).transactions.late_days)


def ingested_in_order(home: Settings) -> Settings:
    for day in DAYS:
        ingest_day(home, day)
    return home


def require_equal_to_a_fresh_build(home: Settings) -> None:
    fresh = ingested_in_order(home.model_copy(update={"home": home.home / "fresh"}))
    for table in (TRANSACTIONS, QUARANTINE):
        found, wanted = (lake_of(either).read(table) for either in (home, fresh))
        assert content_digest(found) == content_digest(wanted), table.name


@pytest.fixture(scope="module")
def late_days(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four days whose files bring rows of the days before, inside the range and across both its edges."""
    folder = tmp_path_factory.mktemp("late_days")
    home = settings_in(folder)
    put_transactions(home, rows(BEFORE), BEFORE)
    edges = [late(OF_THE_DAY_BEFORE, BEFORE), late(OLDEST, oldest(home))]
    put_transactions(home, [*rows(FIRST), *edges], FIRST)
    put_transactions(home, [*rows(LAST), late(INSIDE, FIRST)], LAST)
    put_transactions(home, [*rows(AFTER), late(OF_THE_NEXT_FILE, LAST)], AFTER)
    ingested_in_order(home)
    return folder


@pytest.fixture
def late_home(late_days: Path, tmp_path: Path) -> Settings:
    return copied(late_days, tmp_path / "copy")


def late_rows(home: Settings) -> dict[int, tuple[date, date, int]]:
    """The late rows by their number: their day, their file's day, their amount."""
    all_rows = lake_of(home).read(TRANSACTIONS).to_pylist()
    found = {row["transaction_id"]: (row["day"], row["file_day"], row["amount_minor"]) for row in all_rows}
    return {number: what for number, what in sorted(found.items()) if number > 9_000}


def swapped(home: Settings, last: date = LAST) -> str:
    name = staged(home, first=FIRST, last=last)
    ask(home, "validate", name=name, accept_differences=ACCEPTED)
    ask(home, "swap", name=name, execute=True, accept_differences=ACCEPTED)
    return name


def test_late_rows_are_rewritten_with_the_files_that_brought_them_and_taken_back(late_home: Settings) -> None:
    before, there = contents(late_home), late_rows(late_home)
    assert sorted(there) == [OF_THE_DAY_BEFORE, INSIDE, OF_THE_NEXT_FILE, OLDEST]
    # both files come again: one late row is gone, one has another amount, two are new
    put_transactions(late_home, [*rows(FIRST), late(OLDEST, oldest(late_home), "13.75")], FIRST)
    again = [late(INSIDE, FIRST), late(NEW_INSIDE, FIRST), late(NEW_BEFORE, BEFORE)]
    put_transactions(late_home, [*rows(LAST), *again], LAST)
    name = swapped(late_home)
    assert late_rows(late_home) == {
        INSIDE: (FIRST, LAST, 1250),
        OF_THE_NEXT_FILE: (LAST, AFTER, 1250),
        OLDEST: (oldest(late_home), FIRST, 1375),
        NEW_INSIDE: (FIRST, LAST, 1250),
        NEW_BEFORE: (BEFORE, LAST, 1250),
    }
    require_equal_to_a_fresh_build(late_home)
    ask(late_home, "swap", name=name, execute=True, reverse=True)
    assert (contents(late_home), late_rows(late_home)) == (before, there)


def test_a_backfill_of_unchanged_files_with_late_rows_changes_nothing(late_home: Settings) -> None:
    before = contents(late_home)
    name = staged(late_home, first=FIRST, last=LAST)
    receipt = ask(late_home, "validate", name=name)
    assert receipt.facts["equal"] == receipt.facts["partitions"]
    ask(late_home, "swap", name=name, execute=True)
    assert contents(late_home) == before


def test_a_row_that_a_later_file_had_brought_stays_its_until_that_file_is_rewritten_too(
    late_home: Settings,
) -> None:
    # its own day's file has it now, and the next one brings it still
    put_transactions(late_home, [*rows(LAST), late(INSIDE, FIRST), late(OF_THE_NEXT_FILE, LAST)], LAST)
    swapped(late_home)
    assert late_rows(late_home)[OF_THE_NEXT_FILE] == (LAST, AFTER, 1250)
    swapped(late_home, AFTER)
    assert late_rows(late_home)[OF_THE_NEXT_FILE] == (LAST, LAST, 1250)
    require_equal_to_a_fresh_build(late_home)
