"""Files under an image's name that are none: each is named for what it is, with what to do; nothing is half decoded."""

from __future__ import annotations

import gzip
import io
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from llava_moe.data.conversation import BadRecord
from llava_moe.data.images.odd_files import odd_file
from llava_moe.data.images.transform import open_image

PICTURE = Image.fromarray(np.random.default_rng(0).normal(128, 40, (40, 50, 3)).clip(0, 255).astype(np.uint8))


def encoded(kind: str, image: Image.Image = PICTURE, **settings: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **settings)
    return file.getvalue()


ODD = {
    "HEIC": (b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic" + bytes(200), "convert it to JPEG or PNG"),
    "HEIC photo": (b"\x00\x00\x00\x18ftypmif1\x00\x00\x00\x00mif1heic" + bytes(200), "convert it to JPEG or PNG"),
    "DICOM": (bytes(128) + b"DICM" + bytes(100), "value_range: [low, high]"),
    "PDF": (b"%PDF-1.4\n%%EOF", "pdftoppm"),
    "SVG": (b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>", "draw it as PNG"),
    "SVG drawing": (b"<?xml version='1.0'?>\n<!-- by hand -->\n<svg width='9'/>", "draw it as PNG"),
    "Git LFS": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "git lfs pull"),
    "web page": (b"<!DOCTYPE html><html>login</html>", "fetch it again"),
    "HTML": (b"\n\n<HTML lang=en><body>404", "fetch it again"),
    "JSON": (b'{"error": "rate limited"}', "fetch it again"),
    "XML": (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "fetch it again"),
    "an empty file": (b"", "fetch it again"),
    "zero bytes": (bytes(5000), "fetch it again"),
    "gzip": (gzip.compress(encoded("PNG")), "unpack it"),
    "ZIP": (b"PK\x03\x04" + bytes(60), "unpack it"),
    "video": (b"\x00\x00\x00\x20ftypisom\x00\x00\x02\x00isomiso2mp41" + bytes(60), "take still images"),
    "a video": (b"\x1a\x45\xdf\xa3" + bytes(60), "take still images"),
    "text": (b"Not found. Please try again later.\n", "fetch it again"),
    "the text of a link": (b"../../blobs/" + b"0" * 40, "links followed"),
    "address": (b"https://host/a.jpg\n", "fetch the image"),
    "PSD": (b"8BPS\x00\x01" + bytes(40), "convert it"),
    "PostScript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "no outside program is started"),
    "JPEG XL": (b"\xff\x0a" + b"\x01\x02" * 40, "convert it"),
    "tar": (bytes(257).replace(b"\x00", b"a") + b"ustar\x0000" + bytes(100), "unpack it"),
}


@pytest.mark.parametrize("what", ODD)
def test_an_odd_file_is_named_with_its_own_remedy(what: str, tmp_path: Path) -> None:
    content, remedy = ODD[what]
    (tmp_path / "photo.jpg").write_bytes(content)
    for ref, root in (("photo.jpg", str(tmp_path)), (content, None)):
        with pytest.raises(BadRecord) as caught:
            open_image(ref, root)
        assert caught.value.reason == "image_unreadable" and "\n" not in caught.value.detail
        assert what in caught.value.detail and remedy in caught.value.detail
    with pytest.raises(BadRecord, match=r"photo\.jpg is "):
        open_image("photo.jpg", str(tmp_path))


def test_what_is_read_is_no_odd_file() -> None:
    for kind in ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "ICO", "AVIF", "JPEG2000", "MPO"):
        content = encoded(kind)
        assert odd_file(content[:4096]) is None or kind in ("PPM", "ICO")
        assert open_image(content).mode == "RGB"


WHOLE: dict[str, dict[str, Any]] = {
    **{kind: {} for kind in ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000", "MPO", "ICO")},
    "progressive JPEG": {"progressive": True},
    "compressed TIFF": {"compression": "tiff_lzw"},
    "TIFF of JPEG": {"compression": "jpeg"},
    "lossless WEBP": {"lossless": True},
}


@pytest.mark.parametrize("kind", WHOLE)
def test_a_file_that_is_cut_anywhere_is_refused_or_whole(kind: str) -> None:
    """Cut behind its last pixel, a file may still be read; it is never read in part."""
    content = encoded(kind.split()[-1] if "of" not in kind else "TIFF", **WHOLE[kind])
    whole = open_image(content).tobytes()
    for length in range(1, len(content), max(1, len(content) // 40)):
        try:
            opened = open_image(content[:length])
        except BadRecord as error:
            assert error.reason == "image_unreadable"
        else:
            assert opened.tobytes() == whole, length


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "BMP"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_cut_file_is_called_cut(kind: str, share: float) -> None:
    content = encoded(kind)
    with pytest.raises(BadRecord, match=r"is cut short.*: fetch it again or copy it again"):
        open_image(content[: int(len(content) * share)])


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "AVIF", "PNG", "GIF"])
def test_a_file_whose_end_is_zero_bytes_is_not_half_decoded(kind: str) -> None:
    picture = PICTURE.resize((200, 160)).convert("P") if kind == "GIF" else PICTURE.resize((200, 160))
    content = encoded(kind, picture)
    for share in (0.5, 0.8):
        kept = int(len(content) * share)
        with pytest.raises(BadRecord, match=r"is cut short: fetch it again"):
            open_image(content[:kept] + bytes(len(content) - kept))


def test_zero_bytes_behind_a_whole_photo_are_harmless() -> None:
    content = encoded("JPEG")
    assert open_image(content + bytes(5000)).tobytes() == open_image(content).tobytes()


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 20 20\n%%EndComments\nshowpage\n%%EOF\n"


def with_fake_programs(folder: Path) -> tuple[dict[str, str], Path]:
    """An environment in which every program that Pillow might start leaves a mark."""
    mark = folder / "started"
    (folder / "bin").mkdir()
    for name in ("gs", "gswin64c", "convert", "magick", "djpeg", "xv", "display"):
        program = folder / "bin" / name
        program.write_text(f"#!/bin/sh\necho {name} >> {mark}\n")
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
    paths = [str(Path(__file__).resolve().parents[3]), os.environ.get("PYTHONPATH", "")]
    search = f"{folder / 'bin'}:{os.environ['PATH']}"
    return {**os.environ, "PATH": search, "PYTHONPATH": ":".join(filter(None, paths))}, mark


def test_a_drawing_under_a_photos_name_starts_no_program(tmp_path: Path) -> None:
    environment, mark = with_fake_programs(tmp_path)
    (tmp_path / "photo.jpg").write_bytes(EPS)
    (tmp_path / "wrapped.jpg").write_bytes(b"\xc5\xd0\xd3\xc6" + (32).to_bytes(4, "little") + bytes(24) + EPS)
    code = f"""
from llava_moe.datatools.check.pictures import look_at
from llava_moe.data.conversation import BadRecord
from llava_moe.data.images.transform import open_image
from llava_moe.data.images.odd_files import HEAD
from llava_moe.datatools.prepare.image_headers import read_header
from llava_moe.report.pictures import picture_of
from pathlib import Path
for name in ("photo.jpg", "wrapped.jpg"):
    for ref, root in ((name, {str(tmp_path)!r}), (Path({str(tmp_path)!r}, name).read_bytes(), None)):
        try:
            open_image(ref, root)
        except BadRecord as error:
            assert "PostScript drawing" in error.detail, error
        else:
            raise SystemExit("opened")
        assert picture_of(ref, root) == ""
    assert read_header(Path({str(tmp_path)!r}, name)) is None
"""
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not mark.exists()


def test_pillow_left_to_itself_would_have_started_one(tmp_path: Path) -> None:
    """What the test above guards against is real."""
    environment, mark = with_fake_programs(tmp_path)
    (tmp_path / "photo.jpg").write_bytes(EPS)
    code = f"from PIL import Image; Image.open({str(tmp_path / 'photo.jpg')!r}).load()"
    subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True)
    assert mark.read_text().startswith("gs")
