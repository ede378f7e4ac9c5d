"""One Parquet shard, written row group by row group; it appears under its name whole or not at all."""

from __future__ import annotations

import os
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from llava_moe.data.readers.shards import BYTES_A_GROUP, ROWS_A_GROUP, SHARD_SCHEMA

PART = ".part"
_IMAGE = "images.list.element."
_TURN = "conversations.list.element."
# Encoded images do not shrink; left as they are they can be read without a copy.
_STORED_AS_THEY_ARE = tuple(f"{_IMAGE}{name}" for name in ("path", "bytes", "sha256", "width", "height"))
_FEW_VALUES = ("split", "source", "domain", "task", "system", f"{_TURN}role")
_COMPRESSION = {name: "NONE" for name in _STORED_AS_THEY_ARE} | {
    name: "ZSTD" for name in ("id", "caption", f"{_TURN}text", *_FEW_VALUES)
}


class _Hashed:
    """A file that knows the SHA-256 and the size of what was written to it; as Arrow wants it."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.digest = sha256()
        self.num_bytes = 0
        self.closed = False
        self.is_given_up = False

    def write(self, content: Any) -> int:
        view = memoryview(content)
        if self.is_given_up:
            return view.nbytes
        self.file.write(view)
        self.digest.update(view)
        self.num_bytes += view.nbytes
        return view.nbytes

    def tell(self) -> int:
        return self.num_bytes

    def flush(self) -> None:
        self.file.flush()

    def close(self) -> None:
        """Left open: what is written must first be on the disk."""


class ShardFile:
    """Writes rows of ``SHARD_SCHEMA`` to ``path``. Entered and left without an error, the file stands; else nothing.

    Attributes:
        num_bytes, sha256: of the file, once it stands.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.part = path.with_name(f"{path.name}.{os.getpid()}{PART}")

    def __enter__(self) -> ShardFile:
        self._file = open(self.part, "wb")
        self._sink = _Hashed(self._file)
        self._writer = pq.ParquetWriter(
            pa.PythonFile(self._sink, mode="w"),
            SHARD_SCHEMA,
            compression=_COMPRESSION,
            use_dictionary=list(_FEW_VALUES),
            write_statistics=False,
        )
        return self

    def write(self, rows: list[dict[str, Any]]) -> None:
        """Write one row group."""
        self._writer.write_table(pa.Table.from_pylist(rows, schema=SHARD_SCHEMA), row_group_size=len(rows))

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._writer.close()
                self._file.flush()
                os.fsync(self._file.fileno())
                self._file.close()
                os.replace(self.part, self.path)
                self.num_bytes, self.sha256 = self._sink.num_bytes, self._sink.digest.hexdigest()
        finally:
            # Trap: Arrow's writer writes its footer when it is collected, and complains if it cannot.
            self._sink.is_given_up = True
            self._writer.close()
            self._file.close()
            self.part.unlink(missing_ok=True)


def fits(num_rows: int, num_bytes: int, more_bytes: int) -> bool:
    """Whether a row with ``more_bytes`` of images still goes into a group of ``num_rows`` with ``num_bytes``."""
    return num_rows == 0 or (num_rows < ROWS_A_GROUP and num_bytes + more_bytes <= BYTES_A_GROUP)
