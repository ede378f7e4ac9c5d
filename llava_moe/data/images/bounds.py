"""What opening an image may cost at most, judged from its file before anything is decoded.

A kilobyte can ask a decoder for gigabytes or minutes. Pixels bound most of it; what stands here are the limits, and
the ways round the pixels: directories of tags that name the same bytes again and again, a picture sent a thousand
times over, profiles that unpack forever, text in the place of pixels.
"""

from __future__ import annotations

import mmap
import os
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from llava_moe.files.regular_file import open_regular

Content = bytes | mmap.mmap

MAX_PIXELS = 89_478_485
"""Pillow's own line for a decompression bomb: a quarter of a gibibyte of RGB."""
MAX_SIDE = 32_768
MAX_BYTES = 1 << 30
"""Of an image file: a sparse one of terabytes takes no room on disk."""
SHARES = {"WEBP": 2, "AVIF": 2, "JPEG2000": 3}
"""Formats whose decoders take more memory and time a pixel: a half or a third of the pixels are opened."""
DEEP_SHARES = {"I;16": 1, "I": 2, "F": 2}
"""So too of images with more than 8 bits a channel, by Pillow's mode; of 16-bit colours a third."""
MAX_SCANS = 40
"""How often a progressive JPEG may send its picture over; encoders use a dozen."""
MAX_METADATA = 16 << 20
"""Bytes in front of a JPEG's picture."""
MAX_PROFILES = 8
"""Colour profiles of a PNG, each unpacked; there should be one."""
MAX_PAGE = 4_095
MAX_TAGS = 100_000
"""Of a TIFF's directories, all pages up to the one that is opened."""
SHARED_TAG_BYTES = 64 << 20
"""By how much what tags hold may exceed their file: pages may name the same colour profile."""
MAX_TILE = 4_096 * 4_096
MAX_TEXT_PIXELS = 8 << 20
"""Bytes of a PNM file that writes its pixels as decimal text."""
MAX_COMMENT = 4_096
SMALL = 64 << 10
"""Bytes of a file that is read sooner than it is mapped."""

_TAG_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8}
_TILE_WIDTH, _TILE_LENGTH = 322, 323
_MARKER = re.compile(rb"\xff+([\x01-\xcf\xd8-\xfe])")
"""A marker inside a JPEG's compressed data, where 0xff means itself before 0 and restarts are no segments."""
_PROGRESSIVE = (0xC2, 0xC6, 0xCA, 0xCE)
_START_OF_SCAN, _END = 0xDA, 0xD9


class CostlyImageError(Exception):
    """An image that would cost more than is allowed, as a clause that follows its name."""


def refuse_costly(file: bytes | Path, page: int | None) -> None:
    """Refuse an image file that asks for more than its pixels do.

    Args:
        page: the page that is opened.

    Raises:
        CostlyImageError: it does.
        OSError: it cannot be read.
    """
    if page is not None and page > MAX_PAGE:
        raise CostlyImageError(f"is page {page:,}: pages up to {MAX_PAGE:,} are opened")
    with _content_of(file) as content:
        if len(content) > MAX_BYTES:
            raise CostlyImageError(f"is a file of {len(content):,} bytes; at most {MAX_BYTES:,} are opened")
        head = content[:4]
        if head.startswith(b"\xff\xd8"):
            _judge_jpeg(content)
        elif head == b"\x89PNG":
            _judge_png(content)
        elif head[:2] in (b"II", b"MM"):
            refuse_heavy_tags(content, page or 0)
        elif head[:1] == b"P" and head[1:2].isdigit():
            _judge_pnm(content)


def most_pixels(format: str | None, deep_mode: str | None) -> int:
    """How many pixels of an image are opened.

    Args:
        deep_mode: Pillow's mode of one with more than 8 bits a channel; None of any other.
    """
    deep_share = 1 if deep_mode is None else DEEP_SHARES.get(deep_mode.removesuffix("B"), 3)
    return MAX_PIXELS // max(SHARES.get(format or "", 1), deep_share)


def refuse_heavy_tags(content: Content, page: int = 0) -> None:
    """Refuse directories of tags (TIFF's, which EXIF takes over) that hold more than their file does.

    Each tag says where its bytes lie, and readers copy them: three thousand tags on one megabyte are three gigabytes.

    Raises:
        CostlyImageError: they do, or there are too many of them, or a tile is too large.
    """
    num_tags = num_bytes = 0
    for entries in _directories(content, page):
        num_tags += len(entries)
        if num_tags > MAX_TAGS:
            raise CostlyImageError(f"has more than {MAX_TAGS:,} tags in front of its picture")
        num_bytes += sum(size for _, size, _ in entries)
        if num_bytes > len(content) + SHARED_TAG_BYTES:
            raise CostlyImageError("has tags that share their bytes: read one by one they are larger than the file")
        tile = {tag: value for tag, _, value in entries if tag in (_TILE_WIDTH, _TILE_LENGTH)}
        if tile.get(_TILE_WIDTH, 0) * tile.get(_TILE_LENGTH, 0) > MAX_TILE:
            raise CostlyImageError(f"has tiles of more than {MAX_TILE:,} pixels")


def _directories(content: Content, page: int) -> Iterator[list[tuple[int, int, int]]]:
    """Of each page up to this one its tags: number, bytes behind the directory, value where it stands inside.

    Ends where a reader would: at the last page, or at what is damaged.
    """
    order = "<" if content[:2] == b"II" else ">"
    is_big = content[2:4] in (b"+\0", b"\0+")
    count, entry, link = ("Q", "HHQQ", "Q") if is_big else ("H", "HHLL", "L")
    inside = 8 if is_big else 4
    try:
        (offset,) = struct.unpack_from(order + link, content, 8 if is_big else 4)
        for _ in range(page + 1):
            (num_tags,) = struct.unpack_from(order + count, content, offset)
            if num_tags > MAX_TAGS:
                raise CostlyImageError(f"has more than {MAX_TAGS:,} tags in front of its picture")
            start, width = offset + struct.calcsize(order + count), struct.calcsize(order + entry)
            entries = []
            for number in range(num_tags):
                tag, kind, many, value = struct.unpack_from(order + entry, content, start + number * width)
                size = many * _TAG_SIZES.get(kind, 0)
                if size <= inside:
                    # A short value stands at the front of its field.
                    short = value >> (8 * (inside - 2)) if order == ">" and kind == 3 else value
                    entries.append((tag, 0, short & 0xFFFF if kind == 3 else short))
                elif value + size <= len(content):
                    entries.append((tag, size, 0))
                else:
                    break  # cut off, and no reader goes on
            yield entries
            (offset,) = struct.unpack_from(order + link, content, start + num_tags * width)
            if offset == 0:
                return
    except struct.error:
        return


def _judge_jpeg(content: Content) -> None:
    at, exif, is_progressive = 2, [], False
    while at + 4 <= len(content):
        found = _MARKER.match(content, at)
        if found is None:
            return  # what is damaged, the decoder says
        marker, at = found[1][0], found.end()
        if marker == _START_OF_SCAN:
            break
        length = int.from_bytes(content[at : at + 2], "big")
        body = content[at + 2 : at + length]
        if marker == 0xE1 and body.startswith(b"Exif\0\0"):
            exif.append(body[6:])
        elif marker == 0xE2 and body.startswith(b"MPF\0"):
            refuse_heavy_tags(body[4:])
        is_progressive |= marker in _PROGRESSIVE
        at += max(2, length)
        if at > MAX_METADATA:
            raise CostlyImageError(f"has more than {MAX_METADATA:,} bytes in front of its picture")
    refuse_heavy_tags(b"".join(exif))
    if is_progressive and sum(1 for _ in zip(_scans(content, at), range(MAX_SCANS + 1), strict=False)) > MAX_SCANS:
        raise CostlyImageError(f"is a JPEG that is sent over more than {MAX_SCANS} times")


def _scans(content: Content, at: int) -> Iterator[int]:
    """Where each scan's header stands, the first one's given; up to the picture's end."""
    yield at
    while True:
        at += max(2, int.from_bytes(content[at : at + 2], "big"))
        found = _MARKER.search(content, at)
        if found is None or found[1][0] == _END:
            return
        at = found.end()
        if found[1][0] == _START_OF_SCAN:
            yield at


def _judge_png(content: Content) -> None:
    at = -1
    for _ in range(MAX_PROFILES + 1):
        at = content.find(b"iCCP", at + 1)
        if at < 0:
            return
    raise CostlyImageError(f"has more than {MAX_PROFILES} colour profiles")


def _judge_pnm(content: Content) -> None:
    if content[1:2] in b"123" and len(content) > MAX_TEXT_PIXELS:
        raise CostlyImageError(f"is a PNM of decimal text, of which {MAX_TEXT_PIXELS:,} bytes are read: save it as PNG")
    comment = content.find(b"#", 0, 64)
    if comment >= 0 and content.find(b"\n", comment, comment + MAX_COMMENT) < 0 and len(content) > MAX_COMMENT:
        raise CostlyImageError(f"has a comment of more than {MAX_COMMENT:,} bytes in front of its picture")


@contextmanager
def _content_of(file: bytes | Path) -> Iterator[Content]:
    """What a file holds; a large one mapped into memory: nothing of it is read that is not looked at."""
    if isinstance(file, bytes):
        yield file
        return
    with open_regular(file) as opened:
        if os.fstat(opened.fileno()).st_size <= SMALL:
            yield opened.read(SMALL)
            return
        with mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            yield mapped
