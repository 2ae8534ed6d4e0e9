"""Files that went wrong on their way: most are read and judged row by row, some go through the whole chain.

In: numbers, each the seed of one file. Out: a tally. Every file is either refused with a sentence, and then
nothing of it is published, or each of its rows is published once or quarantined once. The count of rows is
checked against the standard library's reading of the same bytes, not against the chain's own.
The whole chain lands, validates, quarantines and publishes a file; Great Expectations and its pages are nine
tenths of that. Without it a file is read as landing and validation read it and its rows are judged by the
same functions, but no gate is asked, so that more files get as far as their rows.
"""

from __future__ import annotations

import csv
import io
import json
import random
import shutil
import traceback
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from jobs.conf.contract import contract_of
from jobs.conf.policy import policy_of
from jobs.conf.settings import Settings, load_settings
from jobs.core import GateClosed, SluiceError, StrictModel
from jobs.lake.store import lake_of
from jobs.lake.tables import QUARANTINE, TRANSACTIONS
from jobs.quality.chunks import Chunk, count_rows, open_rows
from jobs.quality.copies import Published, find_copies, read_keys
from jobs.quality.feeds import transactions_feed
from jobs.quality.frame import broken_by, check_columns, checked, parsed, rule_texts, typed
from jobs.quality.suites import rules_of
from tests.data_support import DAY, HEADER, good_rows, run_named

BATCH = 50  # files for each installation: its pages and log entries add up
NASTY = (
    "", " ", "0", "-1", "1e3", "NaN", "null", '"', '""', "'", "1.005", "12,5", "9" * 30, "\x00", "é", "\r",
    "\n", "\r\n", "½", "٣", "0x10", "=1+1", ",", ";", "\ufeff", "\ud7ff", "x" * 200_000, '"a\nb"', "'; --",
)  # fmt: skip


class Tally(StrictModel):
    """What became of a number of files."""

    files: int = 0
    rejected: int = 0
    rows: int = 0  # of the files that were not rejected
    published: int = 0  # or, where the chain ended before that, good
    quarantined: int = 0  # or bad
    problems: tuple[str, ...] = ()

    def __add__(self, other: Tally) -> Tally:
        mine, theirs = self.model_dump(), other.model_dump()
        return Tally.model_validate({name: mine[name] + theirs[name] for name in mine})


# -- damage: bytes in, bytes out ----------------------------------------------------------------------------


def flip(data: bytes, chance: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(chance.randint(1, 8)):
        changed[chance.randrange(len(changed))] = chance.randrange(256)
    return bytes(changed)


def cut_off(data: bytes, chance: random.Random) -> bytes:
    return data[: chance.randrange(len(data))]


def cut_out(data: bytes, chance: random.Random) -> bytes:
    start = chance.randrange(len(data))
    return data[:start] + data[start + chance.randint(1, 60) :]


def insert(data: bytes, chance: random.Random) -> bytes:
    for _ in range(chance.randint(1, 4)):
        place = chance.randrange(len(data))
        data = data[:place] + chance.choice(NASTY).encode() + data[place:]
    return data


def quote_newline(data: bytes, chance: random.Random) -> bytes:
    """A value with a line break in it, quoted as CSV wants it."""
    lines = data.decode().splitlines()
    number = chance.randrange(1, len(lines))
    fields = lines[number].split(",")
    fields[chance.randrange(len(fields))] = '"1\n2"'
    lines[number] = ",".join(fields)
    return "\n".join(lines).encode()


def encode_otherwise(data: bytes, chance: random.Random) -> bytes:
    text = data.decode() + "99,é,1,1,1.00\n"
    return text.encode(chance.choice(["utf-16", "utf-16-le", "utf-32", "latin-1", "cp037", "utf-8-sig"]))


def end_lines_otherwise(data: bytes, chance: random.Random) -> bytes:
    return data.replace(b"\n", chance.choice([b"\r", b"\r\n", b"\n\n", b"\n\r", b"\x0b"]))


def repeat_lines(data: bytes, chance: random.Random) -> bytes:
    lines = data.splitlines(keepends=True)
    start = chance.randrange(len(lines))
    return data + b"".join(lines[start : start + chance.randint(1, 20)])


def shuffle_header(data: bytes, chance: random.Random) -> bytes:
    names = HEADER.split(",")
    chance.shuffle(names)
    if chance.random() < 0.5:
        names[chance.randrange(len(names))] = chance.choice([*NASTY[:12], "amount", "day", "rule", "row"])
    return ",".join(names).encode() + data[len(HEADER) :]


DAMAGE: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    flip, cut_off, cut_out, insert, quote_newline, encode_otherwise, end_lines_otherwise, repeat_lines,
    shuffle_header,
)  # fmt: skip


def csv_file(seed: int) -> bytes:
    """A damaged file: one to three kinds of damage, in any order that the file survives."""
    chance = random.Random(seed)
    data = "\n".join([HEADER, *good_rows(chance.choice([40, 150])), ""]).encode()
    for damage in chance.choices(DAMAGE, k=chance.randint(1, 3)):
        try:
            data = damage(data, chance) or data
        except ValueError:  # the damage before has left no text or no line to damage
            continue
    return data


def parquet_file(seed: int) -> bytes:
    """A Parquet file of the handbook's contract that was cut off or has wrong bytes."""
    chance = random.Random(seed)
    count = 200
    moments = [datetime(2018, 4, 1, 12, number // 60, number % 60, tzinfo=UTC) for number in range(count)]
    table = pa.table(
        {
            "TRANSACTION_ID": pa.array(range(count), pa.int64()),
            "TX_DATETIME": pa.array(moments, pa.timestamp("us", "UTC")),
            "CUSTOMER_ID": pa.array([number % 7 for number in range(count)], pa.int64()),
            "TERMINAL_ID": pa.array([number % 5 for number in range(count)], pa.int64()),
            "TX_AMOUNT": pa.array([1.0 + number for number in range(count)]),
            "TX_FRAUD": pa.array([0] * count, pa.int8()),
            "TX_FRAUD_SCENARIO": pa.array([0] * count, pa.int8()),
        }
    )
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return cut_off(sink.getvalue(), chance)


# -- the account --------------------------------------------------------------------------------------------


def rows_in(data: bytes) -> int | None:
    """Rows of a CSV file without its header, None where it is no CSV file."""
    try:
        text = io.StringIO(data.decode("utf-8-sig", errors="replace"), newline="")
        return max(sum(1 for line in csv.reader(text) if line) - 1, 0)
    except csv.Error:
        return None


def account(settings: Settings, data: bytes) -> Tally:
    """Send one file through the chain and count what became of its rows."""
    (Path(settings.source_uri) / f"{DAY}.csv").write_bytes(data)
    try:
        landed = run_named("land_transactions", settings).rows
        run_named("validate_transactions", settings)
    except GateClosed:
        return _refused_below(settings)
    except SluiceError:
        return Tally(files=1, rejected=1)
    quarantined = run_named("quarantine_transactions", settings).rows
    published = run_named("publish_transactions", settings).rows
    lake, problems = lake_of(settings), []
    stored = lake.read(TRANSACTIONS, columns=["transaction_id"])["transaction_id"].to_pylist()
    kept = len(lake.read(QUARANTINE, columns=["row_number"]))
    if not landed == rows_in(data) == published + quarantined == len(stored) + kept:
        problems.append(
            f"{rows_in(data)} rows in the file, {landed} landed, {published} published ({len(stored)} are "
            f"there), {quarantined} quarantined ({kept} are there)"
        )
    if len(set(stored)) != len(stored):
        problems.append("a transaction was published twice")
    return Tally(files=1, rows=landed, published=published, quarantined=quarantined, problems=tuple(problems))


def _refused_below(settings: Settings) -> Tally:
    """A closed gate must be closed for those who publish, too."""
    for job in ("quarantine_transactions", "publish_transactions"):
        try:
            run_named(job, settings)
        except GateClosed:
            continue
        return Tally(files=1, rejected=1, problems=(f"{job} ran though the validation had failed",))
    return Tally(files=1, rejected=1)


def account_of_rows(settings: Settings, data: bytes) -> Tally:
    """Read one file and judge its rows, and count the good and the bad ones."""
    contract = contract_of(settings)
    feed, where = transactions_feed(contract), f"transactions of {DAY}"
    rules = rules_of(feed, policy_of(settings).quality)

    def chunks(only: str | None) -> Iterator[Chunk]:
        return open_rows(data, feed.format, where).chunks(only)

    try:
        landed = count_rows(data, feed.format, where)
        check_columns(open_rows(data, feed.format, where).header, feed, where)
        keys = read_keys(chunks, feed, landed)
        copies = find_copies(chunks, feed, keys, Published.nothing(keys))
        batches = []
        for chunk in chunks(None):
            values = typed(chunk, feed)
            frame = checked(chunk, values, copies.of(chunk), feed, DAY)
            texts = rule_texts({rule.name: broken_by(rule, frame) for rule in rules}, chunk.size)
            batches.append(parsed(chunk, values, texts, feed, DAY))
    except SluiceError:
        return Tally(files=1, rejected=1)
    sink = io.BytesIO()
    if batches:  # as validation hands them on: a text that Parquet does not take would show here
        pq.write_table(pa.Table.from_batches(batches), sink)
    rows = pq.read_table(sink).to_pylist() if batches else []
    good = [row["transaction_id"] for row in rows if not row["rule"]]
    problems = []
    if not landed == rows_in(data) == len(rows):
        problems.append(f"{rows_in(data)} rows in the file, {landed} landed, {len(rows)} judged")
    if [row["row_number"] for row in rows] != list(range(1, len(rows) + 1)):
        problems.append("the rows are not numbered one by one")
    if len(set(good)) != len(good):
        problems.append("a transaction is good twice")
    bad = len(rows) - len(good)
    return Tally(files=1, rows=landed, published=len(good), quarantined=bad, problems=tuple(problems))


def fuzz_rows(first: int, count: int) -> str:
    """The tally of the rows of the CSV files first … first + count - 1, as JSON."""
    settings, tally = load_settings({}), Tally()
    for seed in range(first, first + count):
        tally += _named(seed, partial(account_of_rows, settings))
    return tally.model_dump_json()


def _named(seed: int, ask: Callable[[bytes], Tally]) -> Tally:
    """The account of a file; its problems with the file's number."""
    try:
        found = ask(csv_file(seed))
    except BaseException:  # also a panic of a native library
        found = Tally(files=1, problems=(traceback.format_exc(limit=-4),))
    return found.model_copy(
        update={"problems": tuple(f"file {seed}: {problem}" for problem in found.problems)}
    )


def fuzz(folder: str, first: int, count: int) -> str:
    """The same through the whole chain; leaves nothing behind."""
    tally = Tally()
    for seed in range(first, first + count):
        home = Path(folder) / str(first) / str(seed // BATCH)
        if seed % BATCH == 0 or seed == first:
            shutil.rmtree(home.parent, ignore_errors=True)
            (home / "source").mkdir(parents=True)
        settings = load_settings(
            {"SLUICE_HOME": str(home / "home"), "SLUICE_SOURCE_URI": str(home / "source")}
        )
        tally += _named(seed, partial(account, settings))
    shutil.rmtree(Path(folder) / str(first), ignore_errors=True)
    return tally.model_dump_json()


def read_tally(text: str) -> Tally:
    return Tally.model_validate(json.loads(text))
