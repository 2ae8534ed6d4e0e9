"""Rows of a table's files a batch at a time, however many rows a file keeps together.

In: a dataset and what is wanted of it. Out: record batches of some ten thousand rows.
A scanner decodes whole row groups, several ahead: a compacted day of a million answers with their features is
then a gigabyte. Large files are read here in steps of READ_BYTES, one after the other; small ones, of which
there may be thousands, by the scanner, which asks for several at once.
"""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

LARGE_BYTES = 16 * 2**20
READ_BYTES = 8 * 2**20
BATCH_ROWS = 2**15


def batches(
    dataset: ds.FileSystemDataset, within: ds.Expression, columns: list[str]
) -> Iterator[pa.RecordBatch]:
    """Some columns of the rows within an expression of partitions alone."""
    small: list[ds.ParquetFileFragment] = []
    large: list[ds.ParquetFileFragment] = []
    for fragment in dataset.get_fragments(within):
        with dataset.filesystem.open_input_file(fragment.path) as file:
            (large if file.size() >= LARGE_BYTES else small).append(fragment)
    few = ds.FileSystemDataset(small, dataset.schema, dataset.format, dataset.filesystem)
    yield from few.scanner(columns=columns, filter=within).to_batches()
    for fragment in large:
        yield from _in_steps(dataset, fragment, columns)


def _in_steps(
    dataset: ds.FileSystemDataset, fragment: ds.ParquetFileFragment, columns: list[str]
) -> Iterator[pa.RecordBatch]:
    """The batches of one file, with the columns that its partition names and those that it has not yet."""
    named = ds.get_partition_keys(fragment.partition_expression)
    with (
        dataset.filesystem.open_input_file(fragment.path) as source,
        pq.ParquetFile(source, buffer_size=READ_BYTES) as file,
    ):
        stored = [name for name in columns if name in file.schema_arrow.names]
        fields = [dataset.schema.field(name) for name in columns]
        for batch in file.iter_batches(BATCH_ROWS, columns=stored):
            arrays = [
                batch[field.name]
                if field.name in stored
                else pa.repeat(pa.scalar(named.get(field.name), field.type), len(batch))
                for field in fields
            ]
            yield pa.RecordBatch.from_arrays(arrays, names=columns)
