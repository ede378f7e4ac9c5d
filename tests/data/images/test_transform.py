"""Pixels equal CLIP's own processor; images of every kind open or are refused with one clear reason."""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from llava_moe.data.conversation import BadRecord
from llava_moe.data.images.transform import ImageTransform, open_image
from tests.data.conftest import noise

SIZES = [(50, 80), (80, 50), (64, 64), (501, 17), (17, 500), (31, 33), (1200, 700), (3, 2), (1, 1), (4100, 4200)]


def expand_to_square(image: Image.Image, mean: list[float]) -> Image.Image:
    """LLaVA's padding, written plainly."""
    side = max(image.size)
    canvas = Image.new("RGB", (side, side), tuple(int(channel * 255) for channel in mean))
    canvas.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return canvas


@pytest.mark.parametrize("mode", ["pad", "crop"])
@pytest.mark.parametrize("size", SIZES)
def test_pixels_equal_clips_processor(mode: Literal["pad", "crop"], size: tuple[int, int]) -> None:
    processor = CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    image = noise(*size)
    squared = expand_to_square(image, processor.image_mean) if mode == "pad" else image
    expected = processor(squared, return_tensors="pt")["pixel_values"]
    transform = ImageTransform(28, mode)
    pixels = transform(image)
    assert pixels.shape == (3, 28, 28) and pixels.dtype == np.uint8 and pixels.flags["C_CONTIGUOUS"]
    torch.testing.assert_close(transform.normalize(torch.from_numpy(pixels)[None]), expected, rtol=0, atol=1e-6)


def test_padding_is_the_clip_mean_color() -> None:
    pixels = ImageTransform(8)(Image.new("RGB", (40, 4)))
    assert pixels[:, 0, 0].tolist() == [122, 116, 104]


def test_a_sliver_is_refused_before_the_crop_blows_it_up() -> None:
    with pytest.raises(BadRecord) as caught:
        ImageTransform(336, "crop")(Image.new("RGB", (30_000, 1)))
    assert caught.value.reason == "image_too_large"
    assert ImageTransform(336)(Image.new("RGB", (30_000, 1))).shape == (3, 336, 336)


def encoded(image: Image.Image, kind: str) -> bytes:
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A PNG that says how large it is and holds next to nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("mode", ["L", "P", "1", "RGBA", "LA", "CMYK", "YCbCr", "LAB", "I", "F", "I;16"])
def test_every_mode_opens_as_rgb(mode: str, tmp_path: Path) -> None:
    kind = {"YCbCr": "JPEG"}.get(mode, "TIFF" if mode in ("CMYK", "LAB", "F", "I") else "PNG")
    gray = Image.fromarray(np.full((6, 5), 30_000, dtype=np.uint16)) if mode == "I;16" else None
    image = gray or noise(5, 6).convert(mode)
    (tmp_path / "one").write_bytes(encoded(image, kind))
    opened = open_image("one", str(tmp_path))
    assert opened.mode == "RGB" and opened.size == (5, 6)
    assert ImageTransform(4)(opened).shape == (3, 4, 4)


def test_a_cmyk_jpeg_keeps_its_colors() -> None:
    image = Image.new("RGB", (16, 16), (200, 40, 90))
    opened = open_image(encoded(image.convert("CMYK"), "JPEG"))
    assert np.abs(np.asarray(opened, dtype=int) - (200, 40, 90)).max() < 12


def test_sixteen_bits_are_scaled_and_not_clipped_to_white() -> None:
    ramp = np.linspace(0, 65_535, 256).astype(np.uint16).reshape(16, 16)
    for kind in ("PNG", "TIFF"):
        opened = np.asarray(open_image(encoded(Image.fromarray(ramp), kind)))
        assert np.array_equal(opened[..., 0], np.rint(ramp / 257.0)) and np.array_equal(opened[..., 0], opened[..., 2])
    assert np.asarray(open_image(encoded(Image.fromarray(np.full((2, 2), 32_768, np.uint16)), "PNG"))).max() == 128


def test_floats_are_scaled() -> None:
    unit = Image.fromarray(np.asarray([[0.0, 0.5], [1.0, -3.0]], dtype=np.float32))
    assert np.asarray(open_image(encoded(unit, "TIFF")))[..., 0].tolist() == [[0, 128], [255, 0]]


def test_a_gif_named_jpg_opens(tmp_path: Path) -> None:
    noise(7, 9).convert("P").save(tmp_path / "book.gif")
    (tmp_path / "book.gif").rename(tmp_path / "book.jpg")
    assert open_image("book.jpg", str(tmp_path)).size == (7, 9)


def test_a_missing_jpg_is_found_under_its_other_suffix(tmp_path: Path) -> None:
    (tmp_path / "a.b").mkdir()
    noise(7, 9).convert("P").save(tmp_path / "a.b" / "1.2.gif")
    assert open_image("a.b/1.2.jpg", str(tmp_path)).size == (7, 9)


def test_paths_may_be_absolute_or_bytes(tmp_path: Path) -> None:
    noise(7, 9).save(tmp_path / "a.png")
    path = str(tmp_path / "a.png")
    assert open_image(path, None).size == open_image(path, str(tmp_path)).size == (7, 9)
    assert open_image((tmp_path / "a.png").read_bytes()).size == (7, 9)


def test_no_path_leads_out_of_the_image_folder(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "sub").mkdir(parents=True)
    (root / "twin").mkdir()
    noise(7, 9).save(tmp_path / "secret.png")
    noise(7, 9).save(root / "sub" / "in.png")
    (root / "link.png").symlink_to(tmp_path / "secret.png")
    (root / "sub" / "same.png").symlink_to(root / "sub" / "in.png")
    for ref in ("../secret.png", "sub/../../secret.png", str(tmp_path / "secret.png"), "link.png", "../gone.png"):
        with pytest.raises(BadRecord) as caught:
            open_image(ref, str(root))
        assert caught.value.reason == "image_outside", ref
    for ref in ("sub/same.png", "twin/../sub/in.png", "./sub/in.png"):
        assert open_image(ref, str(root)).size == (7, 9)


def test_a_folder_of_images_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "root").mkdir()
    noise(7, 9).save(tmp_path / "store" / "a.png")
    (tmp_path / "store" / "b.png").symlink_to("a.png")
    (tmp_path / "root" / "coco").symlink_to(tmp_path / "store")
    (tmp_path / "linked root").symlink_to(tmp_path / "root")
    for root in ("root", "linked root"):
        assert open_image("coco/a.png", str(tmp_path / root)).size == (7, 9)
        assert open_image("coco/b.png", str(tmp_path / root)).size == (7, 9)


@pytest.mark.parametrize("ref", ["http://host/a.png", "https://host/a.png", "ftp://host/a.png", "file:///a.png"])
@pytest.mark.parametrize("root", [None, "/images"])
def test_an_address_is_no_path(ref: str, root: str | None) -> None:
    with pytest.raises(BadRecord) as caught:
        open_image(ref, root)
    assert caught.value.reason == "image_address" and "fetch the image" in caught.value.detail


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "BMP"])
def test_a_truncated_image_is_refused(kind: str) -> None:
    content = encoded(noise(60, 60), kind)
    with pytest.raises(BadRecord) as caught:
        open_image(content[: len(content) // 2])
    assert caught.value.reason == "image_unreadable" and "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"not an image", b"<html>404</html>", b"\xff\xd8\xff\xe0"])
def test_what_is_no_image_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(BadRecord) as caught:
        open_image("a.jpg", str(tmp_path))
    assert caught.value.reason == "image_unreadable" and "a.jpg" in caught.value.detail


def test_a_folder_in_the_place_of_an_image_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").mkdir()
    with pytest.raises(BadRecord) as caught:
        open_image("a.jpg", str(tmp_path))
    assert caught.value.reason == "image_unreadable"
    assert caught.value.detail == "a.jpg is a folder: give the path of an image file"


def test_a_missing_image_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadRecord) as caught:
        open_image("coco/1.jpg", str(tmp_path))
    assert (caught.value.reason, caught.value.detail) == ("image_missing", f"no file {tmp_path}/coco/1.jpg")


@pytest.mark.parametrize("size", [(50_000, 2), (50_000, 2_000), (50_000, 50_000), (2_000, 50_000), (10_000, 10_000)])
def test_a_huge_image_is_refused_from_its_header(size: tuple[int, int]) -> None:
    with pytest.raises(BadRecord) as caught:
        open_image(png_header(*size))
    assert caught.value.reason == "image_too_large" and "\n" not in caught.value.detail


def test_the_limits_can_be_set() -> None:
    content = encoded(Image.new("L", (50_000, 2)), "PNG")
    assert open_image(content, max_side=50_000).size == (50_000, 2)
    with pytest.raises(BadRecord, match="at most 99999 pixels"):
        open_image(content, max_pixels=99_999, max_side=50_000)


@pytest.mark.parametrize("error", [RuntimeError("Failed to decode image"), IndexError(), NotImplementedError("DDS")])
def test_whatever_a_decoder_trips_over_makes_the_image_unreadable(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise(7, 9).save(tmp_path / "a.png")

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", fail)
    with pytest.raises(BadRecord) as caught:
        open_image("a.png", str(tmp_path))
    assert caught.value.reason == "image_unreadable" and (str(error) or type(error).__name__) in caught.value.detail


def test_a_named_pipe_is_no_image(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(BadRecord) as caught:
        open_image("pipe.jpg", str(tmp_path))
    assert caught.value.reason == "image_missing"


def test_a_way_up_does_not_lead_out_through_a_linked_folder(tmp_path: Path) -> None:
    (tmp_path / "other" / "images").mkdir(parents=True)
    (tmp_path / "root").mkdir()
    noise(7, 9).save(tmp_path / "other" / "secret.png")
    (tmp_path / "root" / "sub").symlink_to(tmp_path / "other" / "images")
    with pytest.raises(BadRecord) as caught:
        open_image("sub/../secret.png", str(tmp_path / "root"))
    assert caught.value.reason == "image_missing"
