"""Format and size of an image, from its first bytes."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import pytest
from PIL import Image

from llava_moe.datatools.prepare.image_headers import Header, read_header
from tests.data.readers.raw import encoded, save


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF"])
def test_a_header_tells_format_and_size_whatever_the_file_is_called(kind: str, tmp_path: Path) -> None:
    content = encoded(1, kind, "P" if kind == "GIF" else "RGB")
    save(tmp_path / "a.jpg", content)
    assert read_header(content) == read_header(tmp_path / "a.jpg") == Header(kind, 28, 20)


def test_the_size_of_a_bomb_is_read_without_decompressing_it() -> None:
    header = struct.pack(">IIBBBBB", 60_000, 50_000, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    bomb = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    bomb += struct.pack(">I", 4) + b"IDAT" + b"junk" + struct.pack(">I", zlib.crc32(b"IDATjunk"))
    limit = Image.MAX_IMAGE_PIXELS
    assert read_header(bomb) == Header("PNG", 60_000, 50_000)
    assert limit == Image.MAX_IMAGE_PIXELS
    with pytest.raises(Image.DecompressionBombError):
        Image.open(io.BytesIO(bomb))


@pytest.mark.parametrize(
    "content", [b"", b"no image", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"II*\x00\x08"]
)
def test_what_is_no_image_has_no_header(content: bytes) -> None:
    assert read_header(content) is None


def test_a_truncated_image_still_has_its_header() -> None:
    content = encoded(3)
    assert read_header(content[: len(content) - 200]) == Header("JPEG", 28, 20)
