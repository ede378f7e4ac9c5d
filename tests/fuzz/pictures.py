"""Mutations of pictures: their bytes, their PNG chunks, other formats under their names, huge ones of few bytes."""

from __future__ import annotations

import io
import struct
import zlib
from functools import cache
from random import Random

from PIL import Image

from tests.fuzz.raw_bytes import mutate_bytes
from tests.fuzz.texts import hostile_text

SIGNATURE = b"\x89PNG\r\n\x1a\n"
# Colour type of a PNG -> samples of a pixel, and the depths that it may have.
COLOR_TYPES = {0: (1, (1, 2, 4, 8, 16)), 2: (3, (8, 16)), 3: (1, (1, 2, 4, 8)), 4: (2, (8, 16)), 6: (4, (8, 16))}
# Bytes of the largest blank PNG that is drawn, before compression.
LARGEST_BLANK = 400_000_000
PIECE = 1 << 20
MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16", "I", "F")
NO_PICTURES = {
    "svg": b'<svg xmlns="http://www.w3.org/2000/svg" onload="fuzzmark()"><image href="file:///etc/passwd"/></svg>',
    "html": b"<!DOCTYPE html><html><body>404</body></html>",
    "pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
    "zip": b"PK\x03\x04" + bytes(60),
    "pickle": b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x04true\x85R.",
    "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n",
    "pdf": b"%PDF-1.4\n1 0 obj<</Type/Catalog>>endobj\ntrailer<</Root 1 0 R>>\n%%EOF",
}


def mutate_picture(random: Random, data: bytes) -> bytes:
    """Another picture, or the same one changed."""
    kind = random.randrange(10)
    if kind < 2:
        return blank_png(random)
    if kind < 5:
        formats = written_formats()
        written = formats[random.choice(list(formats))]
        return written if random.random() < 0.4 else mutate_bytes(random, written)
    if kind == 5:
        return random.choice(list(NO_PICTURES.values()))
    if data.startswith(SIGNATURE) and kind < 9:
        return _change_chunks(random, data)
    return mutate_bytes(random, data)


@cache
def written_formats() -> dict[str, bytes]:
    """A small picture in every format and mode that Pillow writes."""
    Image.init()
    found = {}
    for name in sorted(Image.SAVE):
        for mode in MODES:
            stream = io.BytesIO()
            try:
                picture = Image.linear_gradient("L").resize((24, 16)).convert(mode.replace("I;16", "I"))
                picture.convert(mode).save(stream, format=name, **_more(name, picture))
            except (OSError, ValueError):
                # No such mode in this format.
                continue
            found[f"{name} {mode}"] = stream.getvalue()
    return found


def _more(name: str, picture: Image.Image) -> dict[str, object]:
    if name in ("GIF", "TIFF", "WEBP", "APNG"):
        return {"save_all": True, "append_images": [picture.rotate(90), picture.rotate(180)]}
    return (
        {"exif": b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\x00\x01\x01\x12\x00\x03\x00\x00\x00\x01\x00\x06\x00\x00"}
        if (name == "JPEG")
        else {}
    )


def blank_png(random: Random) -> bytes:
    """A right PNG of any depth and colour type, of one value, its sides of any order of magnitude."""
    color = random.choice(list(COLOR_TYPES))
    samples, depths = COLOR_TYPES[color]
    depth = random.choice((random.choice(depths), max(depths)))
    width, height = _side(random), _side(random)
    if random.random() < 0.3:
        width, height = random.choice(((1, width), (width, 1), (width, width)))
    line = 1 + (width * samples * depth + 7) // 8
    if random.random() < 0.3:
        # As large as Pillow lets a picture be without a word.
        height = (Image.MAX_IMAGE_PIXELS or 0) // width
    height = max(1, min(height, LARGEST_BLANK // line))
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    palette = [_chunk(b"PLTE", bytes(3 << depth))] if color == 3 else []
    return b"".join(
        [SIGNATURE, _chunk(b"IHDR", header), *palette, _chunk(b"IDAT", _blank(line * height)), _chunk(b"IEND", b"")]
    )


def _side(random: Random) -> int:
    """Evenly over the orders of magnitude, or at the edge of a power of two."""
    if random.random() < 0.5:
        return int(2 ** random.uniform(0, 17))
    return max(1, 2 ** random.randint(0, 17) + random.choice((-1, 0, 0, 1)))


def _blank(size: int) -> bytes:
    """So many zeros as zlib packs them, put together from packed pieces of them: packing them all takes seconds."""
    packer = zlib.compressobj(9, wbits=-15)
    piece = packer.compress(bytes(PIECE)) + packer.flush(zlib.Z_FULL_FLUSH)
    last = zlib.compressobj(9, wbits=-15)
    end = last.compress(bytes(size % PIECE)) + last.flush()
    return b"\x78\xda" + piece * (size // PIECE) + end + struct.pack(">HH", size % 65521, 1)


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _change_chunks(random: Random, data: bytes) -> bytes:
    """Fields of the header, chunks changed, moved, doubled or added, each with a right checksum."""
    chunks = _chunks_of(data)
    kind = random.randrange(6)
    place = random.randrange(len(chunks))
    if kind == 0:
        header = bytearray(chunks[0][1])
        where, size = random.choice(((0, 4), (4, 4), (8, 1), (9, 1), (10, 1), (11, 1), (12, 1)))
        new = random.choice((0, 1, 2, 16, 255, 2**14, 2**15, 2**16, 2**31 - 1, 2**32 - 1))
        header[where : where + size] = (new % 256**size).to_bytes(size, "big")
        chunks[0] = (b"IHDR", bytes(header))
    elif kind == 1:
        chunks[place] = (chunks[place][0], mutate_bytes(random, chunks[place][1]))
    elif kind == 2:
        chunks.insert(random.randint(0, len(chunks)), chunks[place])
    elif kind == 3:
        chunks.insert(random.randint(0, len(chunks)), chunks.pop(place))
    elif kind == 4:
        chunks.insert(1, (random.choice((b"zTXt", b"iCCP", b"iTXt")), _packed_text(random)))
    else:
        name = random.choice((b"tRNS", b"gAMA", b"cHRM", b"pHYs", b"acTL", b"fcTL", b"eXIf", b"sBIT", b"tEXt"))
        chunks.insert(random.randint(1, len(chunks)), (name, random.randbytes(random.choice((0, 1, 4, 26, 64)))))
    return SIGNATURE + b"".join(_chunk(name, body) for name, body in chunks)


def _chunks_of(data: bytes) -> list[tuple[bytes, bytes]]:
    chunks, place = [], len(SIGNATURE)
    while place + 12 <= len(data):
        (length,) = struct.unpack(">I", data[place : place + 4])
        chunks.append((data[place + 4 : place + 8], data[place + 8 : place + 8 + length]))
        place += 12 + length
    return chunks


def _packed_text(random: Random) -> bytes:
    text = random.choice((hostile_text(random).encode("utf-8", "replace"), bytes(random.choice((10**3, 10**8)))))
    return b"name\x00\x00" + zlib.compress(text, 1)
