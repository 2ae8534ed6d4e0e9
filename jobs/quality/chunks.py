"""A raw file in chunks of rows, every value as text: memory stays the same however long the file is.

In: the path of a CSV or Parquet file. Out: `Chunk`s, rows counted from 1.
Arrow reads the blocks of a CSV file that look alike to every reader: no quote but around a whole value, no
carriage return but before a line feed, as many fields in each row as in the header, UTF-8. The csv module
reads the other blocks, and a quoted line break carries it on into the next block. Both give the same rows; a
test compares them on random files.
Errors: SluiceError for a file that is empty, is not of its format, or names a column twice.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from jobs.core import SluiceError
from jobs.quality.values import Bools, Texts, texts_of

BLOCK_BYTES = 16 << 20
BATCH_ROWS = 1 << 18
LINE = re.compile(rb"[^\r\n]*(?:\r\n|\r|\n|$)")
LONGEST_FIELD = csv.field_size_limit()
DECIMALS_OF_A_FLOAT = 6


class Chunk(NamedTuple):
    """Some rows of a file."""

    first: int  # number of its first row
    columns: dict[str, Texts]  # by the file's own names
    fields: NDArray[np.int64]  # number of fields that each row has
    lines: list[list[str]] | None  # the rows as they came, where their number of fields differs

    @property
    def size(self) -> int:
        return len(self.fields)

    def rows(self, chosen: Bools) -> list[str]:
        """The chosen rows as they came, as JSON."""
        places = np.flatnonzero(chosen)
        if self.lines is not None:
            return [json.dumps(self.lines[place], ensure_ascii=False) for place in places]
        taken = [texts.values.take(pa.array(places)).to_pylist() for texts in self.columns.values()]
        return [json.dumps(list(row), ensure_ascii=False) for row in zip(*taken, strict=True)]


class ParquetChunk(Chunk):
    """Some rows of a Parquet file, which knows null."""

    def rows(self, chosen: Bools) -> list[str]:
        taken = []
        for texts in self.columns.values():
            values = texts.values.filter(pa.array(chosen)).to_pylist()
            blank = texts.blank[chosen]
            taken.append([None if empty else value for value, empty in zip(values, blank, strict=True)])
        return [json.dumps(list(row), ensure_ascii=False) for row in zip(*taken, strict=True)]


def open_rows(file: Path | bytes, kind: str, where: str) -> CsvRows | ParquetRows:
    """The rows of a file, or of its bytes; its header is read.

    Raises:
        SluiceError: the file is empty, is not of its format, or names a column twice.
    """
    stream: Any = file.open("rb") if isinstance(file, Path) else io.BufferedReader(io.BytesIO(file))
    if not stream.peek(1):
        raise SluiceError(f"{where}: the file is empty; ask the sender for the day again")
    rows = CsvRows(stream, where) if kind == "csv" else ParquetRows(stream, where)
    for name in rows.header:
        if rows.header.count(name) > 1:
            raise SluiceError(f"{where}: column {name!r} is there twice")
    return rows


class CsvRows:
    """A CSV file."""

    def __init__(self, file: io.BufferedReader, where: str) -> None:
        self.where = where
        self._file = file
        self._rest = self._file.read(len(codecs.BOM_UTF8)).removeprefix(codecs.BOM_UTF8)
        self._block = b""
        self._at = 0
        self.header: list[str] = []
        while not self.header and self._fill():
            lines = self._lines_by_csv(limit=1)
            self.header = [name.strip() for name in lines[0]] if lines else []
        if not self.header:
            raise SluiceError(f"{where}: the file has no header; ask the sender for the day again")

    def chunks(self, only: str | None = None) -> Iterator[Chunk]:
        """All rows; with `only` nothing but this column where that is faster."""
        first = 1
        while self._fill():
            table = self._table(None if only is None else [only])
            if table is not None:
                columns = {name: texts_of(table[name]) for name in table.column_names}
                fields = np.full(len(table), len(self.header), dtype=np.int64)
                chunk = Chunk(first, columns, fields, None)
                self._at = len(self._block)
            else:
                chunk = _ragged(first, self.header, self._lines_by_csv())
            if chunk.size:
                yield chunk
            first += chunk.size
        self._file.close()

    def count(self) -> int:
        """The number of rows; less work than reading them."""
        total = 0
        while self._fill():
            rest = self._unread()
            if _is_plain(rest):
                lengths = np.diff(np.append(-1, _line_ends(rest)))
                ends_with_return = np.frombuffer(rest, np.uint8)[np.cumsum(lengths) - 2] == ord("\r")
                blank = (lengths == 1) | ((lengths == 2) & ends_with_return)
                total += int((~blank).sum())
                if len(rest) and not rest.endswith(b"\n"):
                    total += 1  # the last line
                self._at = len(self._block)
            else:
                total += len(self._lines_by_csv())
        self._file.close()
        return total

    def _unread(self) -> bytes:
        return self._block if self._at == 0 else self._block[self._at :]

    def _fill(self) -> bool:
        """Have a block with something unread in it, whole lines only; False at the end of the file."""
        while self._at >= len(self._block):
            data = self._rest + self._file.read(BLOCK_BYTES)
            if not data:
                return False
            end = max(data.rfind(b"\n"), data.rfind(b"\r", 0, len(data) - 1)) + 1
            more = self._file.peek(1) if end < len(data) else b""
            if not more:
                end = len(data) if end < len(data) or not end else end
            while not end:  # one line longer than a block: csv will say what is wrong with it, or take it
                read = self._file.read(BLOCK_BYTES)
                data += read
                end = max(data.rfind(b"\n"), data.rfind(b"\r", 0, len(data) - 1)) + 1
                end = end or (0 if read else len(data))
            self._block, self._rest, self._at = data[:end], data[end:], 0
        return True

    def _table(self, only: list[str] | None) -> pa.Table | None:
        """The unread rest as columns of text; None where Arrow may read it otherwise than csv."""
        rest = self._unread()
        if not _is_plain(rest) or not rest.strip():
            return None
        names = self.header if only is None else [name for name in self.header if name in only]
        try:
            table = pacsv.read_csv(
                pa.BufferReader(rest),
                read_options=pacsv.ReadOptions(column_names=self.header),
                parse_options=pacsv.ParseOptions(newlines_in_values=False),
                convert_options=pacsv.ConvertOptions(
                    column_types={name: pa.string() for name in names}, include_columns=names
                ),
            )
        except pa.ArrowInvalid:  # ragged rows, or bytes that are not UTF-8
            return None
        for name in names:
            if (pc.max(pc.binary_length(table[name])).as_py() or 0) > LONGEST_FIELD:
                return None
        return table

    def _lines_by_csv(self, limit: int | None = None) -> list[list[str]]:
        """The rows of the unread rest, and of the next block as far as a quoted line break leads into it."""
        block = self._block
        found: list[list[str]] = []
        try:
            for line in csv.reader(self._lines()):
                if line:
                    found.append(line)
                if self._block is not block or self._at >= len(self._block) or len(found) == limit:
                    break
        except csv.Error as error:
            raise SluiceError(f"{self.where}: not a CSV file: {error}") from None
        return found

    def _lines(self) -> Iterator[str]:
        while self._fill():
            match = LINE.match(self._block, self._at)
            line = match.group() if match else b""
            self._at += len(line)
            # a byte that is not UTF-8 spoils its value, not the file
            yield line.decode("utf-8", errors="replace")


def _is_plain(block: bytes) -> bool:
    """Whether line breaks and quotes mean the same to every reader."""
    if b"\r" in block and block.count(b"\r") != block.count(b"\r\n"):
        return False
    if block.startswith(codecs.BOM_UTF8):
        return False  # Arrow skips a byte order mark wherever it begins to read
    if b'"' not in block and _lines_are_short(block):
        return True
    ends = _line_ends(block)
    longest = int(np.diff(np.concatenate(([-1], ends, [len(block)]))).max())
    if longest > LONGEST_FIELD and b'"' not in block:
        return False
    if b'"' not in block:
        return True
    data = np.frombuffer(block, dtype=np.uint8)
    quotes = np.flatnonzero(data == ord('"'))
    if len(quotes) % 2:
        return False
    opening, closing = quotes[0::2], quotes[1::2]
    before = np.where(opening == 0, ord("\n"), data[opening - 1])
    after = np.where(closing == len(data) - 1, ord("\n"), data[np.minimum(closing + 1, len(data) - 1)])
    return bool(
        np.isin(before, (ord(","), ord("\n"))).all()
        and np.isin(after, (ord(","), ord("\r"), ord("\n"))).all()
        and (np.searchsorted(ends, opening) == np.searchsorted(ends, closing)).all()
        and longest <= LONGEST_FIELD
    )


def _lines_are_short(block: bytes) -> bool:
    """Whether no line is longer than a field may be, for sure: one that is leaves a piece without an end."""
    piece = LONGEST_FIELD // 2
    return all(block.find(b"\n", at, at + piece) >= 0 for at in range(0, len(block) - piece + 1, piece))


def _line_ends(block: bytes) -> NDArray[np.int64]:
    return np.flatnonzero(np.frombuffer(block, dtype=np.uint8) == ord("\n"))


def _ragged(first: int, header: list[str], lines: list[list[str]]) -> Chunk:
    """Rows by the csv module. One with too few or too many fields keeps its text in `lines` alone: nobody
    knows which value is which."""
    width = len(header)
    fitting = [line if len(line) == width else [""] * width for line in lines]
    columns = {
        name: texts_of(pa.array([line[place] for line in fitting], type=pa.string()))
        for place, name in enumerate(header)
    }
    fields = np.array([len(line) for line in lines], dtype=np.int64)
    return Chunk(first, columns, fields, lines)


class ParquetRows:
    """A Parquet file."""

    def __init__(self, file: io.BufferedReader, where: str) -> None:
        self.where = where
        try:
            # what is read ahead would be kept until the end: the whole file
            self._file: Any = pq.ParquetFile(file, pre_buffer=False)
            self.header: list[str] = list(self._file.schema_arrow.names)
        except (pa.ArrowException, OSError):
            raise self._unreadable() from None

    def _unreadable(self) -> SluiceError:
        return SluiceError(f"{self.where}: not a readable Parquet file; ask the sender again")

    def chunks(self, only: str | None = None) -> Iterator[Chunk]:
        """All rows; with `only` nothing but this column."""
        first = 1
        names = self.header if only is None else [only]
        try:
            for batch in self._file.iter_batches(batch_size=BATCH_ROWS, columns=names):
                columns = {name: texts_of(self._as_text(batch.column(name), name)) for name in names}
                fields = np.full(len(batch), len(self.header), dtype=np.int64)
                if len(batch):
                    yield ParquetChunk(first, columns, fields, None)
                first += len(batch)
        except (pa.ArrowException, OSError):
            raise self._unreadable() from None

    def count(self) -> int:
        """The number of rows, as the file says."""
        return int(self._file.metadata.num_rows)

    def _as_text(self, column: pa.Array, name: str) -> pa.Array:
        if pa.types.is_floating(column.type):
            # 57.160000000000004 is 57.16 that went through binary: six decimals are more than money has
            column = pc.round(column, ndigits=DECIMALS_OF_A_FLOAT)
            column = pc.if_else(pc.is_nan(column), None, column)
        try:
            return pc.cast(column, pa.string())
        except (pa.ArrowNotImplementedError, pa.ArrowInvalid):
            raise SluiceError(f"{self.where}: column {name} is of type {column.type}, not a value") from None


def count_rows(file: Path | bytes, kind: str, where: str) -> int:
    """Rows of a raw file, broken ones included.

    Raises:
        SluiceError: the file is empty or not of its format.
    """
    return open_rows(file, kind, where).count()
