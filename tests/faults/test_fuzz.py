"""Damaged files: a sentence or a full account of their rows, never a traceback."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest

from jobs.conf.settings import Settings, load_settings
from jobs.core import SluiceError
from jobs.lake.store import lake_of
from jobs.lake.tables import LANDED_FILES
from tests.data_support import DAY, HEADER, good_rows, run_named
from tests.faults.children import DONE, start
from tests.faults.fuzz import Tally, csv_file, fuzz, fuzz_rows, parquet_file, read_tally, rows_in

FILES = 30  # through the whole chain
READ_FILES = 300  # `make faults` takes 10,000


@pytest.fixture(scope="module")
def tally(tmp_path_factory: pytest.TempPathFactory) -> Tally:
    folder = tmp_path_factory.mktemp("fuzz")
    settings = load_settings({"SLUICE_HOME": str(folder / "home")})
    answer = start(fuzz, str(folder), 0, FILES, settings=settings).wait()
    assert answer.outcome == DONE, answer.text
    return read_tally(answer.text)


def test_no_damaged_file_gives_a_traceback_or_loses_or_invents_a_row(tally: Tally) -> None:
    assert tally.problems == ()
    assert tally.rows == tally.published + tally.quarantined


def test_each_row_of_a_damaged_file_is_judged_once() -> None:
    found = read_tally(fuzz_rows(FILES, READ_FILES))
    assert found.problems == ()
    assert found.rows == found.published + found.quarantined
    assert min(found.rejected, found.published, found.quarantined) > 0


def test_the_damage_is_neither_too_light_nor_too_heavy_to_show_anything(tally: Tally) -> None:
    assert tally.files == FILES
    assert tally.rejected >= FILES // 8
    assert tally.files - tally.rejected >= FILES // 8
    assert min(tally.published, tally.quarantined) > 0


def test_the_same_number_gives_the_same_file() -> None:
    assert [csv_file(number) for number in range(30)] == [csv_file(number) for number in range(30)]
    assert len({csv_file(number) for number in range(30)}) == 30


def test_a_parquet_file_that_was_cut_off_anywhere_is_refused_before_it_is_landed(home: Settings) -> None:
    ours = home.model_copy(update={"contract": "handbook"})
    source = Path(ours.source_uri)
    source.mkdir(parents=True)
    for number in range(200):
        (source / "2018-04-01.parquet").write_bytes(parquet_file(number))
        with pytest.raises(SluiceError, match=r"not a readable Parquet file|the file is empty"):
            run_named("land_transactions", ours, date(2018, 4, 1))
    assert not lake_of(ours).exists(LANDED_FILES)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "cp037"])
def test_another_encoding_is_refused_with_a_sentence(home: Settings, encoding: str) -> None:
    source = Path(home.source_uri)
    source.mkdir(parents=True)
    text = "\n".join([HEADER, *good_rows(20)])
    (source / f"{DAY}.csv").write_bytes(text.encode(encoding))
    with pytest.raises(SluiceError, match=str(DAY)):
        [run_named(job, home) for job in ("land_transactions", "validate_transactions")]


def test_a_quoted_line_break_is_part_of_its_row() -> None:
    assert rows_in(b'a,b\n1,"x\ny"\n2,z\n') == 2
