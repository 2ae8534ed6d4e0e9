"""The lake as a backfill sees it: its own partitions over production's, and writes nowhere else."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, timedelta

import pyarrow as pa
import pytest

from jobs.conf.settings import Settings
from jobs.core import SluiceError
from jobs.lake.at import LakeAt, versions_of
from jobs.lake.ranges import commits_after, range_digests, read_range, replace_range
from jobs.lake.staging import StagedLake
from jobs.lake.store import lake_of
from jobs.lake.tables import MERGED_LABELS

FIRST = date(2026, 1, 1)
DAYS = [FIRST + timedelta(days=number) for number in range(5)]


def rows(*days: date, count: int = 1) -> pa.Table:
    return pa.Table.from_pylist(
        [{"day": day, "digest": "d", "rows": count} for day in days], schema=MERGED_LABELS.schema
    )


@pytest.fixture
def staged(home: Settings) -> StagedLake:
    """Production with five days, of which the second to fourth are taken over."""
    production = lake_of(home)
    for day in DAYS:
        production.replace(MERGED_LABELS, rows(day), day)
    lake = StagedLake(production, "mine")
    lake.take_over(MERGED_LABELS, str(DAYS[1]), str(DAYS[3]), rows())
    return lake


def found(lake: StagedLake, **bounds: date) -> dict[date, int]:
    return {row["day"]: row["rows"] for row in lake.read(MERGED_LABELS, **bounds).to_pylist()}


def test_a_staged_partition_hides_productions_also_when_it_is_empty(staged: StagedLake) -> None:
    staged.replace(MERGED_LABELS, rows(DAYS[2], count=9), DAYS[2])
    assert found(staged) == {DAYS[0]: 1, DAYS[2]: 9, DAYS[4]: 1}
    assert staged.partitions(MERGED_LABELS) == [str(DAYS[0]), str(DAYS[2]), str(DAYS[4])]
    assert found(staged, first=DAYS[1], last=DAYS[3]) == {DAYS[2]: 9}
    assert found(staged, first=DAYS[3]) == {DAYS[4]: 1}
    assert found(staged, last=DAYS[1]) == {DAYS[0]: 1}
    assert found(staged, first=DAYS[4], last=DAYS[4]) == {DAYS[4]: 1}


def test_columns_may_be_chosen_without_the_partition(staged: StagedLake) -> None:
    assert staged.read(MERGED_LABELS, columns=["rows"]).to_pydict() == {"rows": [1, 1]}


@pytest.mark.parametrize("first", DAYS)
@pytest.mark.parametrize("last", DAYS)
def test_a_scan_finds_the_rows_that_a_read_finds(staged: StagedLake, first: date, last: date) -> None:
    staged.replace(MERGED_LABELS, rows(DAYS[2], count=9), DAYS[2])
    batches = staged.scan(MERGED_LABELS, first=first, last=last, columns=["rows"])
    counts = [count for batch in batches for count in batch["rows"].to_pylist()]
    assert sorted(counts) == sorted(found(staged, first=first, last=last).values())


def test_nothing_reaches_production(staged: StagedLake) -> None:
    version = staged.production.version(MERGED_LABELS)
    staged.replace(MERGED_LABELS, rows(DAYS[2], count=9), DAYS[2])
    assert staged.production.version(MERGED_LABELS) == version
    staged.drop()
    assert found(staged) == dict.fromkeys(DAYS, 1)


@pytest.mark.parametrize("day", [DAYS[0], DAYS[4]])
def test_a_write_outside_of_what_was_taken_over_is_refused(staged: StagedLake, day: date) -> None:
    with pytest.raises(SluiceError, match=f"day={day} is not part of the backfill mine"):
        staged.replace(MERGED_LABELS, rows(day), day)


def test_spark_is_told_to_read_both_layers_and_what_to_leave_out(staged: StagedLake) -> None:
    above, below = staged.layers(MERGED_LABELS, staged.version(MERGED_LABELS))
    assert (above.without, below.without) == (None, (str(DAYS[1]), str(DAYS[3])))
    assert str(staged.path(MERGED_LABELS)) == above.path != below.path


def test_a_table_that_nobody_took_over_is_productions(staged: StagedLake) -> None:
    staged.drop()
    production = staged.production
    assert staged.version(MERGED_LABELS) == production.version(MERGED_LABELS)
    assert staged.layers(MERGED_LABELS, 3) == production.layers(MERGED_LABELS, 3)


def test_a_range_is_replaced_in_one_commit_that_carries_its_note(home: Settings) -> None:
    lake = lake_of(home)
    for day in DAYS:
        lake.replace(MERGED_LABELS, rows(day), day)
    before = lake.version(MERGED_LABELS)
    batches = rows(DAYS[1], DAYS[3], count=5).to_reader()
    after = replace_range(lake, MERGED_LABELS, batches, str(DAYS[1]), str(DAYS[3]), note={"why": "test"})
    assert after == before + 1
    assert [commit["why"] for commit in commits_after(lake, MERGED_LABELS, before)] == ["test"]
    counts = {row["day"]: row["rows"] for row in lake.read(MERGED_LABELS).to_pylist()}
    assert counts == {DAYS[0]: 1, DAYS[1]: 5, DAYS[3]: 5, DAYS[4]: 1}
    earlier = read_range(lake, MERGED_LABELS, str(DAYS[1]), str(DAYS[2]), version=before).read_all()
    assert earlier["rows"].to_pylist() == [1, 1]


def test_a_file_that_is_gone_is_one_sentence_about_the_table(home: Settings) -> None:
    lake = lake_of(home)
    lake.replace(MERGED_LABELS, rows(DAYS[0]), DAYS[0])
    for file in (home.home / "lake").rglob("day=*/*.parquet"):
        file.unlink()
    day = str(DAYS[0])
    for read in (lambda: read_range(lake, MERGED_LABELS, day, day).read_all(),
                 lambda: range_digests(lake, MERGED_LABELS, day, day)):  # fmt: skip
        with pytest.raises(SluiceError, match="^table merged_labels at "):
            read()


def test_rows_outside_of_the_range_are_refused_and_nothing_is_written(home: Settings) -> None:
    lake = lake_of(home)
    lake.replace(MERGED_LABELS, rows(DAYS[0]), DAYS[0])
    with pytest.raises(Exception, match="validation check"):
        replace_range(lake, MERGED_LABELS, rows(DAYS[4]), str(DAYS[0]), str(DAYS[1]))
    assert lake.read(MERGED_LABELS).num_rows == 1


def test_a_declaration_that_production_cannot_take_is_refused_before_anything_is_staged(
    home: Settings,
) -> None:
    production = lake_of(home)
    production.replace(MERGED_LABELS, rows(FIRST), FIRST)
    other = pa.schema([*(f for f in MERGED_LABELS.schema if f.name != "rows"), pa.field("rows", pa.string())])
    changed = replace(MERGED_LABELS, schema=other)
    lake = StagedLake(production, "mine")
    lake.take_over(changed, str(FIRST), str(FIRST), other.empty_table())
    with pytest.raises(SluiceError, match="column rows is long and cannot become string"):
        lake.check(changed)


def test_a_lake_at_a_version_opens_its_tables_at_it(home: Settings) -> None:
    lake = lake_of(home)
    lake.replace(MERGED_LABELS, rows(FIRST), FIRST)
    noted = versions_of(lake, [MERGED_LABELS])
    lake.replace(MERGED_LABELS, rows(FIRST, count=9), FIRST)
    then = LakeAt(lake, noted)
    assert then.delta(MERGED_LABELS).to_pyarrow_table()["rows"].to_pylist() == [1]
