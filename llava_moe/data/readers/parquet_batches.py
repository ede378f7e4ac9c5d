"""A Parquet file in batches of rows that fit into memory, whatever a few compressed bytes claim to be."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from llava_moe.data.readers.compressed_files import UnpackedSize

MOST_ROWS = 64
BATCH_BYTES = 256 << 20
"""Of one batch at worst: no value is larger than its column's part of a row group, but each row may repeat it."""


def bounded_batches(name: str, table: pq.ParquetFile, file: BinaryIO) -> Iterator[pa.RecordBatch]:
    """The rows in order.

    Args:
        name: what the file is called in messages.
        file: what the table is read from.

    Raises:
        UserError: the rows, or a row group's own account of itself, are more than such a file can hold.
    """
    at = file.tell()
    packed = file.seek(0, io.SEEK_END)
    file.seek(at)
    size = UnpackedSize(name, lambda: packed)
    for number in range(table.num_row_groups):
        group = table.metadata.row_group(number)
        claimed = [group.column(column).total_uncompressed_size for column in range(group.num_columns)]
        # A claim of its own, so that nothing of it is unpacked yet.
        UnpackedSize(name, lambda: packed).add(sum(claimed))
        num_rows = max(1, min(MOST_ROWS, BATCH_BYTES // max([1, *claimed])))
        for batch in table.iter_batches(batch_size=num_rows, row_groups=[number]):
            size.add(batch.nbytes)
            yield batch
