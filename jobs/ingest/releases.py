"""Quarantined rows that a person vouches for.

In: rows of `quarantine`, by number. Out: rows of `quarantine_releases`, bound to the digest of the landed
file: the next validation of this very file takes them as good, another file knows nothing of them.
Errors: SluiceError where a row is not in quarantine, is not of the newest landed file, or broke a rule that
nobody can vouch for.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import date
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from jobs.conf.settings import Settings
from jobs.core import SluiceError
from jobs.ingest.landing import newest
from jobs.lake.store import Lake, lake_of
from jobs.lake.tables import QUARANTINE, QUARANTINE_RELEASES, RULE_SEPARATOR, feed_part

# A value that cannot be read, a copy and a row of another day stay out whoever asks: the only rules that
# may be released are those about bounds, so a new rule is closed until somebody thinks about it. A label
# that is neither 0 nor 1 is no label.
RELEASABLE = ": bounds"
NEVER = "is_fraud: bounds"
Row = dict[str, Any]


def is_releasable(rules: Iterable[str]) -> bool:
    """Whether a person may vouch for a row that broke these rules; asked again in every later run."""
    return all(rule.endswith(RELEASABLE) and rule != NEVER for rule in rules)


def quarantined(
    lake: Lake, *, feed: str | None = None, day: date | None = None, rule: str | None = None
) -> pa.Table:
    """Quarantined rows by feed, day and rule, in the order of day, feed and row number."""
    part = feed_part(feed, day) if feed and day else None
    rows = lake.read(QUARANTINE, first=part, last=part)
    for column, wanted in (("feed", feed), ("day", day)):
        if wanted is not None:
            rows = rows.filter(pc.equal(rows[column], pa.scalar(wanted)))
    if rule is not None:
        broken = [rule in names.split(RULE_SEPARATOR) for names in rows["rule"].to_pylist()]
        rows = rows.filter(pa.array(broken, type=pa.bool_()))
    order = ("day", "feed", "row_number")
    return rows.sort_by([(column, "ascending") for column in order])


def released_rows(lake: Lake, feed: str, day: date, digest: str) -> set[int]:
    """Numbers of the released rows of one landed file."""
    part = feed_part(feed, day)
    rows = lake.read(QUARANTINE_RELEASES, first=part, last=part, columns=["row_number", "digest"])
    return {row["row_number"] for row in rows.to_pylist() if row["digest"] == digest}


def plan_release(settings: Settings, feed: str, day: date, numbers: set[int]) -> list[Row]:
    """The quarantined rows that would be released, each checked.

    Raises:
        SluiceError: one of them may not be released, or is not there; it says which and why.
    """
    landed = newest(settings, feed, day)
    where = f"{feed} of {day}"
    rows = {row["row_number"]: row for row in quarantined(lake_of(settings), feed=feed, day=day).to_pylist()}
    for number in sorted(numbers):
        row = rows.get(number)
        if row is None:
            raise SluiceError(
                f"{where}: row {number} is not in quarantine; `sluice quarantine show --feed {feed} "
                f"--day {day}` lists what is"
            )
        if row["digest"] != landed.digest:
            raise SluiceError(
                f"{where}: row {number} is of an older file than the newest one; run the day first: "
                f"{run_again(feed, day)}"
            )
        if not is_releasable(row["rule"].split(RULE_SEPARATOR)):
            raise SluiceError(
                f"{where}: row {number} broke {row['rule']!r}, for which nobody can vouch: have the source "
                "send the file again"
            )
    return [rows[number] for number in sorted(numbers)]


def release(settings: Settings, feed: str, day: date, numbers: set[int], person: str, reason: str) -> int:
    """Note who releases these rows and why; gives how many were not released before.

    Raises:
        SluiceError: as plan_release.
    """
    lake, part = lake_of(settings), feed_part(feed, day)
    with _releasing(settings):
        rows = plan_release(settings, feed, day, numbers)
        known = lake.read(QUARANTINE_RELEASES, first=part, last=part)
        there = {(row["row_number"], row["digest"]) for row in known.to_pylist()}
        note = {"part": part, "day": day, "feed": feed, "person": person, "reason": reason}
        added = [
            {**note, "row_number": row["row_number"], "digest": row["digest"]}
            for row in rows
            if (row["row_number"], row["digest"]) not in there
        ]
        if added:
            table = pa.Table.from_pylist(added, schema=QUARANTINE_RELEASES.schema)
            lake.replace(QUARANTINE_RELEASES, pa.concat_tables([known, table]), part)
    return len(added)


def run_again(feed: str, day: date) -> str:
    """The command that runs a day of a feed again."""
    dag = "fraud_ingest" if feed == "transactions" else "fraud_labels"
    return f"make backfill DAG={dag} FROM={day} TO={day}"


def values_of(row: Row) -> str:
    """A quarantined row's fields for a person to read: nothing in it can steer a terminal."""
    try:
        fields = [str(value) for value in json.loads(row["row"] or "[]")]
    except ValueError:
        fields = [str(row["row"])]
    text = ", ".join("" if field == "None" else field for field in fields)
    return "".join(character if character.isprintable() else "�" for character in text)


@contextmanager
def _releasing(settings: Settings) -> Iterator[None]:
    """Read and replace without another release in between."""
    with lake_of(settings).exclusively("releases"):
        yield
