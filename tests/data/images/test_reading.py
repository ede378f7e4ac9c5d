"""Orientation and transparency: what a person sees is what is trained on."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import ExifTags, Image

from llava_moe.data.images.reading import AS_LLAVA, ImageReading, is_value_range
from llava_moe.data.images.transform import open_image, read_image

# Where the upright picture's rows and columns go for each orientation: the camera stores the inverse of the turn.
STORED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, 1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a, -1),
}


def upright(width: int = 12, height: int = 7) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (height, width, 3), dtype=np.uint8)


def encoded(image: Image.Image, kind: str, **settings: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **settings)
    return file.getvalue()


def exif_block(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    return exif.tobytes()


def stored(orientation: int, kind: str) -> bytes:
    """The upright picture as a camera held that way writes it, with no loss."""
    image = Image.fromarray(np.ascontiguousarray(STORED[orientation](upright())))
    settings = {"lossless": True} if kind == "WEBP" else {}
    return encoded(image, kind, exif=exif_block(orientation), **settings)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_turned_upright(orientation: int, kind: str) -> None:
    opened = read_image(stored(orientation, kind))
    assert np.array_equal(np.asarray(opened.image), upright()) and opened.orientation == orientation


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_jpeg_is_turned_upright(orientation: int) -> None:
    lying = Image.fromarray(np.ascontiguousarray(STORED[orientation](upright(48, 32))))
    plain = encoded(lying, "JPEG", quality=95)
    turned = open_image(encoded(lying, "JPEG", quality=95, exif=exif_block(orientation)))
    assert turned.size == (48, 32)
    back = np.asarray(open_image(plain))
    assert np.array_equal(STORED[orientation](np.asarray(turned)), back)


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_ignore_leaves_a_picture_as_it_lies(kind: str) -> None:
    opened = read_image(stored(6, kind), reading=ImageReading(exif="ignore"))
    assert np.array_equal(np.asarray(opened.image), STORED[6](upright())) and opened.orientation == 6


def with_exif(block: bytes) -> bytes:
    """A PNG with this eXIf chunk, behind its pixels as the format allows."""
    plain = encoded(Image.fromarray(upright()), "PNG")
    chunk = struct.pack(">I", len(block)) + b"eXIf" + block + struct.pack(">I", zlib.crc32(b"eXIf" + block))
    return plain[:-12] + chunk + plain[-12:]


def test_an_orientation_behind_the_pixels_of_a_png_is_found() -> None:
    assert read_image(with_exif(exif_block(3).removeprefix(b"Exif\x00\x00"))).orientation == 3


@pytest.mark.parametrize("value", [0, 9, 65_535])
def test_an_orientation_that_does_not_exist_is_upright(value: int) -> None:
    opened = read_image(encoded(Image.fromarray(upright()), "PNG", exif=exif_block(value)))
    assert opened.orientation == 1 and np.array_equal(np.asarray(opened.image), upright())


@given(block=st.binary(max_size=80), cut=st.integers(0, 40))
def test_a_broken_exif_block_never_costs_the_picture(block: bytes, cut: int) -> None:
    whole = exif_block(1).removeprefix(b"Exif\x00\x00")
    for one in (block, whole[: len(whole) - cut], whole + block, b"II*\x00" + block, b"MM\x00*" + block):
        assert read_image(with_exif(one)).image.size in ((12, 7), (7, 12))
        jpeg = encoded(Image.fromarray(upright()), "JPEG")
        segment = b"\xff\xe1" + struct.pack(">H", len(one) + 8) + b"Exif\x00\x00" + one
        assert read_image(jpeg[:2] + segment + jpeg[2:]).image.size in ((12, 7), (7, 12))


def half_clear(mode: str) -> Image.Image:
    """Left half solid, right half clear; what lies under the clear half is a colour of its own."""
    pixels = np.zeros((4, 6, 4), dtype=np.uint8)
    pixels[:, :3], pixels[:, 3:] = (10, 200, 30, 255), (90, 90, 90, 0)
    image = Image.fromarray(pixels)
    if mode == "P bytes":
        return image.quantize()
    if mode in ("PA", "LA", "La"):
        return image.convert("LA").convert(mode)
    return image.convert(mode)


def one_color_clear(mode: str) -> bytes:
    """A PNG whose one transparent colour (tRNS) is that of the right half."""
    pixels = np.zeros((4, 6, 3), dtype=np.uint8)
    pixels[:, :3], pixels[:, 3:] = (10, 200, 30), (90, 90, 90)
    image = Image.fromarray(pixels).convert(mode)
    clear = image.getpixel((5, 0))
    return encoded(image, "PNG", transparency=clear)


TRANSPARENT = {
    "RGBA": lambda: encoded(half_clear("RGBA"), "PNG"),
    "RGBA WebP": lambda: encoded(half_clear("RGBA"), "WEBP", lossless=True, exact=True),
    "RGBA TIFF": lambda: encoded(half_clear("RGBA"), "TIFF"),
    "LA": lambda: encoded(half_clear("LA"), "PNG"),
    "P with bytes": lambda: encoded(half_clear("P bytes"), "PNG"),
    "GIF": lambda: encoded(half_clear("RGBA"), "GIF"),
    "tRNS on RGB": lambda: one_color_clear("RGB"),
    "tRNS on L": lambda: one_color_clear("L"),
    "tRNS on P": lambda: one_color_clear("P"),
}


@pytest.mark.parametrize("kind", TRANSPARENT)
def test_what_is_transparent_shows_the_canvas(kind: str) -> None:
    content = TRANSPARENT[kind]()
    white, black = read_image(content), read_image(content, reading=ImageReading(alpha="black"))
    assert white.is_transparent and black.is_transparent
    assert white.image.getpixel((5, 0)) == (255, 255, 255) and black.image.getpixel((5, 0)) == (0, 0, 0)
    solid = Image.open(io.BytesIO(content)).convert("RGB").getpixel((0, 0))
    assert white.image.getpixel((0, 0)) == black.image.getpixel((0, 0)) == solid


@pytest.mark.parametrize("kind", TRANSPARENT)
def test_drop_is_llavas_letter(kind: str) -> None:
    content = TRANSPARENT[kind]()
    theirs = Image.open(io.BytesIO(content)).convert("RGB")
    assert open_image(content, reading=AS_LLAVA).tobytes() == theirs.tobytes()


def test_half_transparent_is_mixed_with_the_canvas() -> None:
    veil = encoded(Image.new("RGBA", (2, 2), (0, 0, 0, 102)), "PNG")
    assert open_image(veil).getpixel((0, 0)) == (153, 153, 153)


def test_an_opaque_alpha_channel_changes_nothing() -> None:
    image = Image.fromarray(upright()).convert("RGBA")
    opened = read_image(encoded(image, "PNG"))
    assert not opened.is_transparent and np.array_equal(np.asarray(opened.image), upright())


def test_a_turned_and_transparent_picture_is_both(tmp_path: Path) -> None:
    lying = half_clear("RGBA").transpose(Image.Transpose.ROTATE_90)
    (tmp_path / "a.png").write_bytes(encoded(lying, "PNG", exif=exif_block(6)))
    opened = read_image("a.png", str(tmp_path))
    assert opened.image.size == (6, 4) and opened.image.getpixel((5, 0)) == (255, 255, 255)
    assert opened.image.getpixel((0, 0)) == (10, 200, 30)


@pytest.mark.parametrize(
    "value", [[1, 0], [0, 0], [0], [0, 1, 2], "01", 3, [0, float("nan")], [float("-inf"), 0], [True, 2], [0, 10**400]]
)
def test_a_value_range_is_two_finite_numbers_that_rise(value: object) -> None:
    assert not is_value_range(value) and is_value_range([-160, 240.5])
    with pytest.raises(ValueError, match="value_range="):
        ImageReading(value_range=value)  # type: ignore[arg-type]
