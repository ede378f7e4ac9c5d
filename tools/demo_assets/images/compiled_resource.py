"""Reader of Qt's compiled resource files (.rcc), in which GCompris keeps its pictures.

Layout (Qt 6, qtbase/src/tools/rcc/rcc.cpp): the magic `qres`, big-endian offsets of the tree, the data and the
names; a tree node has 22 bytes from version 2 on (14 before): name offset, flags, then child count and first child for
a folder (flag 2), or country, language and data offset for a file; the payload is raw, zlib (flag 1) or zstd (flag 4).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import zstandard

FLAG_ZLIB, FLAG_FOLDER, FLAG_ZSTD = 1, 2, 4


def read_resources(content: bytes) -> Iterator[tuple[str, bytes]]:
    """The files of a compiled resource as (path, content); raises ValueError when it is not one."""
    if content[:4] != b"qres":
        raise ValueError(f"not a compiled resource: it starts with {content[:4]!r}")
    version, tree, data, names = struct.unpack(">IIII", content[4:20])
    node_size = 14 if version < 2 else 22

    def name(offset: int) -> str:
        place = names + offset
        length = struct.unpack(">H", content[place : place + 2])[0]
        return content[place + 6 : place + 6 + 2 * length].decode("utf-16-be")

    def payload(offset: int, flags: int) -> bytes:
        place = data + offset
        size = struct.unpack(">I", content[place : place + 4])[0]
        raw = content[place + 4 : place + 4 + size]
        if flags & FLAG_ZLIB:
            return zlib.decompress(raw[4:])
        return zstandard.ZstdDecompressor().decompress(raw) if flags & FLAG_ZSTD else raw

    def walk(index: int, prefix: str) -> Iterator[tuple[str, bytes]]:
        place = tree + index * node_size
        name_offset, flags = struct.unpack(">IH", content[place : place + 6])
        path = f"{prefix}/{name(name_offset)}" if index else prefix
        if flags & FLAG_FOLDER:
            count, first = struct.unpack(">II", content[place + 6 : place + 14])
            for child in range(first, first + count):
                yield from walk(child, path)
        else:
            yield path, payload(struct.unpack(">I", content[place + 10 : place + 14])[0], flags)

    yield from walk(0, "")


def unpack_resources(resource: Path, folder: Path) -> None:
    """Write the pictures and README files of the resource under the folder."""
    for path, content in read_resources(resource.read_bytes()):
        if path.endswith((".webp", "README")):
            target = folder / path.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
