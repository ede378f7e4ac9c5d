"""What an image tells when it is opened as training opens it."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from llava_moe.data.encode import Encoder
from llava_moe.data.images.reading import ImageReading
from llava_moe.data.images.transform import ImageTransform
from llava_moe.datatools.check.pictures import Picture, image_key, look_at


def noise(seed: int = 0, width: int = 40, height: int = 30) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind)
    return stream.getvalue()


class Reader:
    """The part of an encoder that images are read by."""

    def __init__(self, mode: str) -> None:
        self.transform = ImageTransform(336, mode)  # type: ignore[arg-type]
        self.max_pixels = Encoder.max_pixels


def look(
    ref: str | bytes,
    root: Path | None = None,
    modes: tuple[str, ...] = ("pad",),
    reading: ImageReading = ImageReading(),  # noqa: B008
) -> Picture:
    readers = [Reader(mode) for mode in modes]
    return look_at(ref, None if root is None else str(root), readers, reading)  # type: ignore[arg-type]


def test_a_good_image_has_no_fault_and_no_note(tmp_path: Path) -> None:
    noise().save(tmp_path / "a.png")
    noise().save(tmp_path / "b.jpeg")
    for name in ("a.png", "b.jpeg"):
        picture = look(name, tmp_path)
        assert picture.fault is None and not picture.notes and picture.content and picture.pixels


@pytest.mark.parametrize(
    ("content", "kind", "told"),
    [
        (b"", "image_empty", "a.jpg"),
        (b"<html><body>sign in", "image_not_image", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "image_not_image", "git lfs pull"),
        (b"\x00\x01" * 40, "image_not_image", "a.jpg"),
        (encoded(noise(), "JPEG")[:-200], "image_unreadable", "truncated"),
        (encoded(Image.new("RGB", (50_000, 2))), "image_too_large", "50000"),
    ],
)
def test_what_cannot_be_opened_is_told_apart(tmp_path: Path, content: bytes, kind: str, told: str) -> None:
    (tmp_path / "a.jpg").write_bytes(content)
    picture = look("a.jpg", tmp_path)
    assert picture.fault is not None and picture.fault[0] == kind and told in picture.fault[2]
    assert picture.fault[1] in ("image_unreadable", "image_too_large"), "training's own reason"


def test_a_folder_and_a_missing_file_are_no_images(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").mkdir()
    folder, missing = look("a.jpg", tmp_path), look("b.jpg", tmp_path)
    assert folder.fault is not None and folder.fault[1] == "image_unreadable"
    assert missing.fault is not None and missing.fault[:2] == ("image_missing", "image_missing")


def test_the_same_pixels_in_another_container_are_known_again() -> None:
    picture = noise(3)
    png, bmp = look(encoded(picture)), look(encoded(picture, "BMP"))
    assert png.content != bmp.content and png.pixels == bmp.pixels
    turned = look(encoded(picture.transpose(Image.Transpose.ROTATE_90)))
    assert turned.pixels != png.pixels
    # The same bytes of pixels in another shape are another picture.
    flat = Image.frombytes("RGB", (picture.height, picture.width), picture.tobytes())
    assert look(encoded(flat)).pixels != png.pixels


def test_one_changed_pixel_is_another_picture() -> None:
    picture = noise(4, 300, 300)
    changed = picture.copy()
    changed.putpixel((299, 299), (1, 2, 3))
    assert look(encoded(picture)).pixels != look(encoded(changed)).pixels


def test_a_sliver_is_refused_only_by_the_transform_that_cannot_take_it() -> None:
    picture = look(encoded(noise(5, 20_000, 8)), modes=("pad", "crop"))
    assert picture.fault is None and [kind for kind, _ in picture.notes] == ["image_sliver"]
    pad, crop = picture.refused
    assert pad is None and crop is not None and crop[1] == "image_too_large"


def test_transparency_that_comes_out_black_is_blank() -> None:
    drawn = Image.new("RGBA", (30, 30), (0, 0, 0, 0))
    drawn.paste((0, 0, 0, 255), (5, 5, 20, 20))
    content = encoded(drawn)
    dropped = look(content, reading=ImageReading(alpha="drop"))
    assert [kind for kind, _ in dropped.notes] == ["image_transparent", "image_blank"]
    (laid,) = look(content).notes
    assert laid == ("image_transparent", "laid on white (data.alpha=white)")


def test_an_orientation_is_told_and_whether_it_is_followed() -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    stream = io.BytesIO()
    noise().save(stream, "PNG", exif=exif)
    assert look(stream.getvalue()).notes == (("image_orientation", "orientation 6, turned upright"),)
    (lying,) = look(stream.getvalue(), reading=ImageReading(exif="ignore")).notes
    assert lying == ("image_orientation", "orientation 6, left as it lies (data.exif=ignore)")


def test_deep_gray_that_comes_out_nearly_black_is_told_with_its_range(tmp_path: Path) -> None:
    twelve = np.linspace(0, 4095, 1200).astype(np.uint16).reshape(30, 40)
    Image.fromarray(twelve).save(tmp_path / "scan.png")
    (note,) = look("scan.png", tmp_path).notes
    assert note[0] == "image_nearly_black"
    assert note[1] == "scan.png (its values: 0 to 4095): give the source value_range: [0, 4095]"
    assert look("scan.png", tmp_path, reading=ImageReading(value_range=(0, 4095))).notes == ()


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic", "a HEIC photo"),
        (bytes(128) + b"DICM" + bytes(50), "a DICOM scan"),
        (b"%PDF-1.7\n", "a PDF document"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "an SVG drawing"),
        (b"PK\x03\x04" + bytes(40), "a ZIP archive"),
    ],
)
def test_a_picture_in_another_form_is_told_apart_from_no_picture(content: bytes, told: str) -> None:
    fault = look(content).fault
    assert fault is not None and fault[:2] == ("image_other_format", "image_unreadable") and told in fault[2]


def test_pages_of_a_document_are_different_images(tmp_path: Path) -> None:
    noise(1).save(tmp_path / "a.tif", save_all=True, append_images=[noise(2)])
    first, second = look("a.tif.0", tmp_path), look("a.tif.1", tmp_path)
    assert not first.notes and first.content != second.content and first.pixels == look(encoded(noise(1))).pixels


def test_an_image_is_opened_once_however_its_path_is_written() -> None:
    assert image_key("a/b.png", "/data") == image_key("a/./b.png", "/data/") == image_key("b.png", "/data/a")
    assert image_key("a/b.png", "/data") != image_key("a/b.png", "/other")
    assert image_key(b"abc", "/data") == image_key(b"abc", None) != image_key(b"abd", None)
