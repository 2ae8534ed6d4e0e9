"""`sluice quarantine show | release`: rows that broke a rule, and vouching for one.

In: what a person types. Out: tables in the terminal; `release --yes` writes `quarantine_releases`.
Errors: SluiceError as jobs.ingest.releases; without `--yes` nothing is written.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from datetime import date

import pyarrow as pa
from rich.console import Console
from rich.table import Column, Table

from jobs.conf.settings import Settings, settings
from jobs.core import SluiceError
from jobs.ingest.releases import plan_release, quarantined, release, run_again, values_of
from jobs.lake.store import lake_of
from jobs.lake.tables import RULE_SEPARATOR

FEEDS = ("transactions", "labels")
SHOWN_ROWS = 20
TEXT_LENGTH = 500


def run_quarantine(arguments: Sequence[str]) -> int:
    """Run `sluice quarantine …`; gives the exit code."""
    given = _parser().parse_args(arguments)
    console = Console(highlight=False, markup=False)  # a row is never taken as markup
    if given.action == "show":
        show(console, settings(), given.feed, given.day, given.rule, given.limit)
    else:
        person, reason = plain_text("person", given.person), plain_text("reason", given.reason)
        release_rows(console, settings(), given.feed, given.day, given.rows, person, reason, given.yes)
    return 0


def show(
    console: Console, home: Settings, feed: str | None, day: date | None, rule: str | None, limit: int
) -> None:
    """Counts by rule, and the first rows as they came."""
    rows = quarantined(lake_of(home), feed=feed, day=day, rule=rule)
    if not len(rows):
        console.print("No row is in quarantine there.")
        return
    counts = Table("Feed", "Rule", right("Rows"), title=f"{len(rows):,} rows in quarantine")
    for (name, broken), number in sorted(count_rules(rows).items()):
        counts.add_row(name, broken, f"{number:,}")
    console.print(counts)
    listing = Table(
        "Day", "Feed", right("Row"), "Rules", whole("As it came"), title=f"The first {min(limit, len(rows))}"
    )
    for row in rows.slice(0, limit).to_pylist():
        listing.add_row(str(row["day"]), row["feed"], str(row["row_number"]), row["rule"], values_of(row))
    console.print(listing)


def right(header: str) -> Column:
    """A column of numbers."""
    return Column(header, justify="right", no_wrap=True)


def whole(header: str) -> Column:
    """A column of which nothing is cut off."""
    return Column(header, overflow="fold")


def count_rules(rows: pa.Table) -> Counter[tuple[str, str]]:
    """Rows by feed and rule; a row that broke two rules counts under both."""
    pairs = zip(rows["feed"].to_pylist(), rows["rule"].to_pylist(), strict=True)
    return Counter((feed, rule) for feed, rules in pairs for rule in rules.split(RULE_SEPARATOR))


def release_rows(
    console: Console, home: Settings, feed: str, day: date, numbers: set[int], person: str, reason: str,
    sure: bool,
) -> None:  # fmt: skip
    """Say which rows would be released; release them where the person is sure."""
    listing = Table(right("Row"), "Rules", whole("As it came"), title=f"{feed} of {day}")
    for row in plan_release(home, feed, day, numbers):
        listing.add_row(str(row["row_number"]), row["rule"], values_of(row))
    console.print(listing)
    if not sure:
        console.print(f"Nothing was written. With --yes, {person} vouches for these rows: {reason}")
        return
    added = release(home, feed, day, numbers, person, reason)
    before = f" ({len(numbers) - added} were released before)" if added < len(numbers) else ""
    console.print(f"{added} rows released{before}. They count as good when the day runs again:\n")
    console.print(f"  {run_again(feed, day)}")


def row_numbers(text: str) -> set[int]:
    """Row numbers from `3,4`."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() and len(part) < 12 for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of row numbers such as 3,4")
    return {int(part) for part in parts}


def plain_text(name: str, text: str) -> str:
    """What a person says about a release.

    Raises:
        SluiceError: it is empty, long, or has characters that cannot be printed.
    """
    text = text.strip()
    if not text or len(text) > TEXT_LENGTH or not text.isprintable():
        raise SluiceError(f"--{name}: say it in one line of at most {TEXT_LENGTH} characters")
    return text


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a day as YYYY-MM-DD") from None


def _limit(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 0 < int(text[:9]) < 100_000):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of rows")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("sluice quarantine", description="rows that broke a rule")
    actions = parser.add_subparsers(dest="action", required=True)
    listing = actions.add_parser("show", help="what is in quarantine, with counts by rule")
    listing.add_argument("--day", type=_day, help="UTC day as YYYY-MM-DD")
    listing.add_argument("--feed", choices=FEEDS)
    listing.add_argument("--rule", help='one rule, as shown: "amount_minor: bounds"')
    listing.add_argument("--limit", type=_limit, default=SHOWN_ROWS, help="rows to list (20)")
    vouching = actions.add_parser("release", help="take rows as good when their day runs again")
    vouching.add_argument("--feed", choices=FEEDS, required=True)
    vouching.add_argument("--day", type=_day, required=True, help="UTC day as YYYY-MM-DD")
    vouching.add_argument("--rows", type=row_numbers, required=True, help="row numbers: 3,4")
    vouching.add_argument("--person", required=True, help="who vouches for them")
    vouching.add_argument("--reason", required=True, help="why they are good")
    vouching.add_argument("--yes", action="store_true", help="do it; without it, only say what would be done")
    return parser
