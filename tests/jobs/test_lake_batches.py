"""A table read a batch at a time: the same rows, however large its files are and whatever they hold."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pyarrow as pa
import pytest

from jobs.lake import batches
from jobs.lake.store import Lake
from jobs.lake.tables import Table

OLD = pa.schema([("day", pa.date32()), ("number", pa.int64())])
NEW = OLD.append(pa.field("values", pa.list_(pa.field("element", pa.float64()))))
DAYS = [date(2026, 1, 1), date(2026, 1, 2)]


@pytest.mark.parametrize("large_bytes", [0, 2**30], ids=["large files", "small files"])
def test_rows_of_old_and_new_files_come_with_their_partition_and_a_gap_for_what_an_old_one_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, large_bytes: int
) -> None:
    monkeypatch.setattr(batches, "LARGE_BYTES", large_bytes)
    monkeypatch.setattr(batches, "BATCH_ROWS", 2)
    lake = Lake(tmp_path)
    before = Table("rows", "", OLD, key=("number",))
    after = Table("rows", "", NEW, key=("number",), optional=("values",))
    lake.append(before, pa.table({"day": [DAYS[0]] * 3, "number": [1, 2, 3]}, OLD))
    lake.replace(after, pa.table({"day": DAYS[1:], "number": [5], "values": [None]}, NEW), DAYS[1])
    lake.append(after, pa.table({"day": DAYS[:1], "number": [4], "values": [[1.0, None]]}, NEW))
    found = list(lake.scan(after, first=DAYS[0], last=DAYS[0], columns=["values", "day", "number"]))
    assert max(len(each) for each in found) == (2 if large_bytes == 0 else 3)
    rows = sorted((row for each in found for row in each.to_pylist()), key=lambda row: row["number"])
    assert [row["number"] for row in rows] == [1, 2, 3, 4]
    assert {row["day"] for row in rows} == {DAYS[0]}
    assert [row["values"] for row in rows] == [None, None, None, [1.0, None]]
    of_days = lake.scan(after, first=None, last=None, columns=["day"])
    assert sorted(day for each in of_days for day in each["day"].to_pylist()) == [*[DAYS[0]] * 4, DAYS[1]]
