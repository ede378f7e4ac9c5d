"""Images of more than 8 bits: mapped by the range that is given, and named where they come out nearly black."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from llava_moe.data.images.deep_values import DarkImage
from llava_moe.data.images.reading import ImageReading
from llava_moe.data.images.transform import open_image, read_image


def encoded(image: Image.Image, kind: str, **settings: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **settings)
    return file.getvalue()


def deep_png(values: np.ndarray, see_through: tuple[int, ...] | None = None) -> bytes:
    """A PNG of 16 bits a channel: uint16 [H, W, C] with C = 1, 2, 3 or 4."""
    height, width, num_channels = values.shape
    color = {1: 0, 2: 4, 3: 2, 4: 6}[num_channels]

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\x00" + row.astype(">u2").tobytes() for row in values)
    trns = b"" if see_through is None else chunk(b"tRNS", b"".join(struct.pack(">H", one) for one in see_through))
    header = struct.pack(">IIBBBBB", width, height, 16, color, 0, 0, 0)
    return b"".join(
        (b"\x89PNG\r\n\x1a\n", chunk(b"IHDR", header), trns, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b""))
    )


RAMP = np.linspace(0, 4095, 24 * 20).astype(np.uint16).reshape(20, 24)
EXPECTED = np.rint(RAMP / 4095 * 255).astype(np.uint8)


def big_endian_tiff(values: np.ndarray) -> bytes:
    """A grey TIFF of 16 bits in Motorola's order, as microscopes write it."""
    height, width = values.shape
    tags = [
        (256, 3, width), (257, 3, height), (258, 3, 16), (259, 3, 1), (262, 3, 1), (273, 4, 8), (277, 3, 1),
        (278, 3, height), (279, 4, values.size * 2),
    ]  # fmt: skip
    data = values.astype(">u2").tobytes()
    entries = b"".join(
        struct.pack(">HHI", tag, kind, 1) + (struct.pack(">HH", value, 0) if kind == 3 else struct.pack(">I", value))
        for tag, kind, value in tags
    )
    return b"MM\x00*" + struct.pack(">I", 8 + len(data)) + data + struct.pack(">H", len(tags)) + entries + b"\x00" * 4


DEEP = {
    "PNG of 16 bits": lambda: deep_png(RAMP[..., None]),
    "TIFF of 16 bits": lambda: encoded(Image.fromarray(RAMP), "TIFF"),
    "TIFF of 16 bits, big-endian": lambda: big_endian_tiff(RAMP),
    "TIFF of 32-bit integers": lambda: encoded(Image.fromarray(RAMP.astype(np.int32)), "TIFF"),
    "TIFF of floats": lambda: encoded(Image.fromarray(RAMP.astype(np.float32)), "TIFF"),
    "TIFF, compressed": lambda: encoded(Image.fromarray(RAMP), "TIFF", compression="tiff_lzw"),
    "PNG of 16 bits with alpha": lambda: deep_png(np.stack([RAMP, np.full_like(RAMP, 65_535)], axis=-1)),
    "colour PNG of 16 bits": lambda: deep_png(np.stack([RAMP] * 3, axis=-1)),
    "colour PNG of 16 bits with alpha": lambda: deep_png(np.stack([RAMP] * 3 + [np.full_like(RAMP, 65_535)], axis=-1)),
}


@pytest.mark.parametrize("kind", DEEP)
def test_a_value_range_becomes_black_to_white(kind: str) -> None:
    opened = read_image(DEEP[kind](), reading=ImageReading(value_range=(0, 4095)))
    pixels = np.asarray(opened.image)
    assert np.array_equal(pixels, np.stack([EXPECTED] * 3, axis=-1)) and opened.dark is None


@pytest.mark.parametrize("kind", [kind for kind in DEEP if "floats" not in kind])
def test_twelve_bits_of_sixteen_are_named_with_their_range(kind: str, tmp_path: Path) -> None:
    (tmp_path / "scan.png").write_bytes(DEEP[kind]())
    dark = read_image("scan.png", str(tmp_path)).dark
    assert dark == DarkImage("scan.png", 0, 4095)
    assert str(dark) == "scan.png (its values: 0 to 4095)" and dark.remedy == "value_range: [0, 4095]"


def test_what_uses_the_whole_of_its_bits_is_not_named() -> None:
    for values in (RAMP * 16, RAMP * 8):
        assert read_image(deep_png(values[..., None])).dark is None
    unit = Image.fromarray((RAMP / 4095).astype(np.float32))
    assert read_image(encoded(unit, "TIFF")).dark is None


def test_a_hot_pixel_hides_no_dark_picture() -> None:
    values = RAMP.copy()
    values[0, 0] = 65_535
    assert read_image(deep_png(values[..., None])).dark is not None


def test_a_ct_window_cuts_off_what_lies_outside() -> None:
    hounsfield = Image.fromarray(np.array([[-1000, -160], [40, 240], [1200, -161]], dtype=np.int32))
    content = encoded(hounsfield, "TIFF")
    windowed = np.asarray(open_image(content, reading=ImageReading(value_range=(-160, 240))))[..., 0]
    assert windowed.tolist() == [[0, 0], [128, 255], [255, 0]]
    dark = read_image(content).dark
    assert dark is not None and dark.remedy == "value_range: [-1000, 1200]"


def test_floats_that_no_number_holds_are_black() -> None:
    values = np.array([[np.nan, np.inf, -np.inf, 5.0]], dtype=np.float32)
    opened = open_image(encoded(Image.fromarray(values), "TIFF"), reading=ImageReading(value_range=(0, 10)))
    assert np.asarray(opened)[0, :, 0].tolist() == [0, 0, 0, 128]


def test_a_value_range_leaves_pictures_of_eight_bits_alone() -> None:
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 9, 3), dtype=np.uint8))
    for image in (picture, picture.convert("L"), picture.convert("P"), picture.convert("1")):
        content = encoded(image, "PNG")
        assert open_image(content, reading=ImageReading(value_range=(0, 9))).tobytes() == open_image(content).tobytes()


def test_sixteen_bit_colors_come_as_pillow_gives_them_without_a_range() -> None:
    values = np.random.default_rng(1).integers(0, 65_536, (5, 6, 3)).astype(np.uint16)
    assert np.array_equal(np.asarray(open_image(deep_png(values))), (values >> 8).astype(np.uint8))


def test_sixteen_bit_colors_are_whole_under_a_range() -> None:
    values = np.random.default_rng(1).integers(0, 300, (5, 6, 3)).astype(np.uint16)
    opened = np.asarray(open_image(deep_png(values), reading=ImageReading(value_range=(0, 255))))
    assert np.array_equal(opened, np.minimum(values, 255).astype(np.uint8))


def test_deep_transparency_shows_the_canvas() -> None:
    clear = np.full((4, 4, 2), 40_000, dtype=np.uint16)
    clear[..., 1] = 0
    keyed = np.full((4, 4, 1), 40_001, dtype=np.uint16)
    keyed[0, 0] = 40_000
    colors = np.repeat(keyed, 3, axis=-1)
    for content in (deep_png(clear), deep_png(keyed, (40_000,)), deep_png(colors, (40_000,) * 3)):
        white = read_image(content)
        assert white.is_transparent and white.image.getpixel((0, 0)) == (255, 255, 255)
        pixel = open_image(content, reading=ImageReading(alpha="drop")).getpixel((0, 0))
        assert isinstance(pixel, tuple) and pixel[0] in (155, 156)
    assert read_image(deep_png(keyed, (40_000,))).image.getpixel((1, 1)) == (156, 156, 156)


def test_a_picture_of_one_value_is_blank_and_not_dark() -> None:
    assert read_image(deep_png(np.zeros((4, 4, 1), dtype=np.uint16))).dark is None


@pytest.mark.parametrize("white", [1_023, 4_095, 65_534, 65_535])
def test_the_values_of_a_pgm_are_those_of_its_file(white: int) -> None:
    ramp_HW = np.tile(np.linspace(0, white, 30).astype(np.uint16), (4, 1))
    for plain in (False, True):
        body = " ".join(map(str, ramp_HW.ravel())).encode() if plain else ramp_HW.astype(">u2").tobytes()
        pgm = b"P%d 30 4 %d\n" % (2 if plain else 5, white) + body
        whole = np.rint(ramp_HW / white * 255)
        assert np.abs(np.asarray(open_image(pgm))[..., 0] - whole).max() <= 1
        half = np.rint(np.clip(ramp_HW / (white // 2), 0, 1) * 255)
        picture = open_image(pgm, reading=ImageReading(value_range=(0, white // 2)))
        assert np.abs(np.asarray(picture)[..., 0] - half).max() == 0
