"""Small files that ask for much: refused, or opened in bounded memory and time."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import textwrap
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from llava_moe.data.conversation import BadRecord
from llava_moe.data.images.bounds import MAX_PAGE, MAX_PIXELS, most_pixels
from llava_moe.data.images.transform import ImageTransform, judge_image, open_image, read_image
from llava_moe.datatools.prepare.image_headers import read_header
from tests.data.conftest import noise

TAGS = [(256, 4, 1, 8), (257, 4, 1, 8), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (273, 4, 1, 8)]
TAGS += [(277, 3, 1, 1), (278, 4, 1, 8), (279, 4, 1, 64)]


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, depth: int = 8, color: int = 2, between: bytes = b"") -> bytes:
    """A black PNG; ``between`` stands in front of its pixels."""
    row = bytes(1 + width * {0: 1, 2: 3, 4: 2, 6: 4}[color] * depth // 8)
    packer = zlib.compressobj(1)
    data = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + between + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def tiff(tags: list[tuple[int, int, int, int]], size: int = 600) -> bytes:
    head = b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags))
    return (head + b"".join(struct.pack("<HHII", *tag) for tag in tags) + bytes(4)).ljust(size, b"\0")


def shared_tags(size: int = 200_000) -> bytes:
    """A thousand tags that each hold the whole file."""
    return tiff([*TAGS, *((1_000 + number, 7, size - 16, 8) for number in range(1_000))], size)


def jpeg(in_front: bytes = b"", scans: int = 0) -> bytes:
    stream = io.BytesIO()
    noise(16, 16).save(stream, "JPEG", progressive=scans > 0)
    plain = stream.getvalue()
    last = plain.rfind(b"\xff\xda")
    return plain[:2] + in_front + plain[2:last] + plain[last:-2] * max(1, scans) + plain[-2:]


def segment(marker: int, body: bytes) -> bytes:
    return bytes([255, marker]) + struct.pack(">H", len(body) + 2) + body


def in_exif(block: bytes) -> bytes:
    return b"".join(
        segment(0xE1, b"Exif\0\0" + block[start : start + 65_000]) for start in range(0, len(block), 65_000)
    )


HOSTILE = {
    "tags that share their bytes": (shared_tags(), "share their bytes"),
    "EXIF tags that share their bytes": (jpeg(in_exif(shared_tags())), "share their bytes"),
    "an index of pictures whose tags share their bytes": (
        jpeg(segment(0xE2, b"MPF\0" + tiff([(1_000 + number, 7, 60_000, 8) for number in range(4_000)], 65_000))),
        "share their bytes",
    ),
    "a tile of a gigabyte": (
        tiff([*TAGS[:5], (277, 3, 1, 1), (322, 4, 1, 32_768), (323, 4, 1, 32_768)]),
        "tiles of more than",
    ),
    "a picture that is sent over again": (jpeg(scans=60), "over more than 40 times"),
    "metadata without end": (jpeg(segment(0xE1, b"Exif\0\0" + bytes(65_000)) * 300), "in front of its picture"),
    "profiles that unpack for long": (
        png(8, 8, between=chunk(b"iCCP", b"x\0\0" + zlib.compress(bytes(1_000))) * 9),
        "more than 8 colour profiles",
    ),
    "pixels as text": (b"P3 2000 2000 255\n" + b"0 " * 5_000_000, "decimal text"),
    "a long comment": (b"P6 #" + b"x" * 5_000, "comment"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_small_file_that_asks_for_much_is_too_large(name: str, tmp_path: Path) -> None:
    content, reason = HOSTILE[name]
    (tmp_path / "a.jpg").write_bytes(content)
    for ref in (content, "a.jpg"):
        with pytest.raises(BadRecord) as caught:
            read_image(ref, str(tmp_path))
        assert caught.value.reason == "image_too_large" and reason in caught.value.detail
        with pytest.raises(BadRecord):
            read_header(content if isinstance(ref, bytes) else tmp_path / ref)


def test_a_file_of_terabytes_is_refused_and_not_read(tmp_path: Path) -> None:
    for head in (b"", b"\xff\xd8\xff\xe0", png(4, 4)):
        with (tmp_path / "a.png").open("wb") as file:
            file.write(head)
            file.truncate(1 << 40)
        with pytest.raises(BadRecord, match="is a file of 1,099,511,627,776 bytes; at most"):
            read_image("a.png", str(tmp_path))


def test_an_image_is_judged_without_decoding_it_but_where_its_end_is_missing() -> None:
    whole = jpeg()
    for good in (whole, whole + b"garbage"):
        judge_image(good)
    for bad in (whole[: len(whole) // 2], b"<html>", b""):
        with pytest.raises(BadRecord):
            judge_image(bad)


def test_a_bigtiff_and_either_order_of_bytes_are_judged() -> None:
    tags = [(1_000 + number, 7, 190_000, 16) for number in range(1_000)]
    for order, mark in (("<", b"II+\0\x08\0\0\0"), (">", b"MM\0+\0\x08\0\0")):
        entries = b"".join(struct.pack(f"{order}HHQQ", *tag) for tag in tags)
        content = mark + struct.pack(f"{order}QQ", 16, len(tags)) + entries
        with pytest.raises(BadRecord, match="share their bytes"):
            read_image(content.ljust(200_000, b"\0"))


def test_an_exif_block_that_asks_for_much_does_not_cost_a_png_its_picture() -> None:
    opened = read_image(png(6, 4, between=chunk(b"eXIf", shared_tags())))
    assert opened.image.size == (6, 4) and opened.orientation == 1


def test_real_pictures_pass_whatever_their_metadata() -> None:
    stream = io.BytesIO()
    exif = Image.Exif()
    exif[274], exif[306] = 6, "2026:01:01 00:00:00"
    noise(30, 20).save(
        stream, "JPEG", progressive=True, exif=exif, icc_profile=bytes(100_000), comment=b"\xff\xda" * 99
    )
    assert open_image(stream.getvalue()).size == (20, 30)
    # Behind the picture's end anything may stand, as a phone's moving photos have it.
    assert open_image(stream.getvalue() + b"\xff\xda" * 500 + b"\xff\xd9").size == (20, 30)


def test_pages_are_a_tiffs_alone_and_not_without_end(tmp_path: Path) -> None:
    pages = [noise(5 + number, 4) for number in range(3)]
    for name, kind in (("a.tif", "TIFF"), ("moving.tif", "GIF")):
        pages[0].save(tmp_path / name, kind, save_all=True, append_images=pages[1:])
    assert open_image("a.tif.2", str(tmp_path)).size == (7, 4)
    assert open_image("moving.tif.0", str(tmp_path)).size == (5, 4)
    for ref, reason in (("moving.tif.2", "image_unreadable"), (f"a.tif.{MAX_PAGE + 1}", "image_too_large")):
        with pytest.raises(BadRecord) as caught:
            open_image(ref, str(tmp_path))
        assert caught.value.reason == reason


def test_formats_that_cost_more_a_pixel_are_opened_smaller() -> None:
    assert most_pixels("PNG", None) == most_pixels("PNG", "I;16") == most_pixels("PNG", "I;16B") == MAX_PIXELS
    assert most_pixels("WEBP", None) == most_pixels("TIFF", "F") == MAX_PIXELS // 2
    assert most_pixels("JPEG2000", "I;16") == most_pixels("PNG", "RGB") == MAX_PIXELS // 3
    with pytest.raises(BadRecord, match="is 5500 x 5500; of PNG with more than 8 bits a channel at most 29,826,161"):
        read_image(png(5_500, 5_500, depth=16))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "I;16", "I", "F", "16-bit colours"])
def test_a_picture_worked_on_in_bands_is_the_same(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    stream = io.BytesIO()
    if mode in ("I;16", "I", "F"):
        kinds = {"I;16": np.uint16, "I": np.int32, "F": np.float32}
        Image.fromarray(rng.integers(0, 60_000, (40, 30)).astype(kinds[mode])).save(stream, "TIFF")
        content = stream.getvalue()
    elif mode == "16-bit colours":
        rows = rng.integers(0, 256, (40, 30 * 8), dtype=np.uint8)
        data = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
        header = chunk(b"IHDR", struct.pack(">IIBBBBB", 30, 40, 16, 6, 0, 0, 0))
        content = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    else:
        rgba = Image.fromarray(rng.integers(0, 256, (40, 30, 4), dtype=np.uint8))
        (rgba.quantize() if mode == "P" else rgba.convert(mode)).save(stream, "PNG")
        content = stream.getvalue()
    whole = read_image(content)
    monkeypatch.setattr("llava_moe.data.images.reading.BAND_PIXELS", 100)
    banded = read_image(content)
    assert np.array_equal(np.asarray(whole.image), np.asarray(banded.image))
    assert (whole.is_transparent, whole.dark) == (banded.is_transparent, banded.dark)


def test_a_picture_taller_than_is_padded_is_made_smaller_first() -> None:
    tall = Image.new("RGB", (3, 20_000), (200, 30, 40))
    assert np.array_equal(ImageTransform(8)(tall), ImageTransform(8)(tall.reduce(2)))


def test_large_pictures_of_every_kind_stay_below_a_gibibyte() -> None:
    program = textwrap.dedent(
        """
        import resource, time
        from llava_moe.data.images.transform import ImageTransform, read_image
        from tests.data.images.test_bounds import png

        def opened(content):
            before = time.process_time()
            ImageTransform()(read_image(content).image)
            return time.process_time() - before

        opened(png(8, 8))
        base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        contents = [png(9_400, 9_400, depth=16, color=0), png(1, 32_768)]
        seconds = [opened(content) for content in contents]
        print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - base) // 1024, max(seconds))
        """
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    mebibytes, seconds = map(float, done.stdout.split())
    assert mebibytes < 1_024
    # Two on the machine it was measured on; this is no test of speed, but of what once took twenty.
    assert seconds < 8
